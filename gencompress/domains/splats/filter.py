"""Splats that no camera can show, or that are not part of the scene: they go first, counted by reason."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gencompress.errors import DataError
from gencompress.formats.scene import SplatScene

ALPHA_CUT = 1 / 255  # rasterizers skip what is fainter than this at a pixel
FLYAWAY_FACTOR = 10.0
_CHUNK = 1 << 16


@dataclass(frozen=True, eq=False)
class Cleaned:
    """A scene without its unusable splats.

    Args:
        scene: what stays.
        kept: index of every splat that stays in the scene before, int64 [M], ascending.
        removed: number of splats that went, by reason; a splat counts under the first reason that holds.
    """

    scene: SplatScene
    kept: NDArray[np.int64]
    removed: dict[str, int]


def clean(scene: SplatScene, flyaway_factor: float = FLYAWAY_FACTOR) -> Cleaned:
    """Remove splats that are not finite, degenerate, invisible or far outside of the scene.

    ``not finite``: NaN or infinity in any attribute, or a size that overflows. ``degenerate``: a rotation of zero
    length, or no extent at all. ``invisible``: opacity below the rasterizers' cut of 1/255, so that no pixel changes.
    ``flyaway``: farther from the median centre than `flyaway_factor` times the 99th percentile of that distance, which
    spares backgrounds and skies, as they hold more than 1 % of the splats.

    Raises:
        DataError: nothing is left.
    """
    reasons = {
        "not finite": ~_finite(scene),
        "degenerate": _degenerate(scene),
        "invisible": scene.opacities < ALPHA_CUT,
    }
    good = ~np.logical_or.reduce(list(reasons.values()))
    reasons["flyaway"] = np.zeros(len(scene), dtype=bool)
    reasons["flyaway"][good] = _flyaway(scene.means[good], flyaway_factor)
    kept = np.flatnonzero(good & ~reasons["flyaway"])
    removed, seen = {}, np.zeros(len(scene), dtype=bool)
    for reason, bad in reasons.items():
        removed[reason] = int((bad & ~seen).sum())
        seen |= bad
    if not len(kept):
        counts = ", ".join(f"{n} {reason}" for reason, n in removed.items() if n) or "it is empty"
        raise DataError(f"the scene has no usable splat among its {len(scene)}: {counts}")
    return Cleaned(scene if len(kept) == len(scene) else scene.take(kept), kept, removed)


def _finite(scene: SplatScene) -> NDArray[np.bool_]:
    good = np.ones(len(scene), dtype=bool)
    for start in range(0, len(scene), _CHUNK):  # harmonics may be a memory map larger than the memory
        rows = slice(start, start + _CHUNK)
        for part in (scene.means, scene.quats, scene.log_scales, scene.logits, scene.sh0, scene.sh_rest):
            chunk = part[rows]
            good[rows] &= np.isfinite(chunk).reshape(len(chunk), -1).all(axis=1)
    with np.errstate(over="ignore", invalid="ignore"):
        return good & np.isfinite(scene.scales).all(axis=1)


def _degenerate(scene: SplatScene) -> NDArray[np.bool_]:
    with np.errstate(over="ignore", invalid="ignore"):
        lengths = np.square(scene.quats).sum(axis=1)
        return (lengths < 1e-20) | (scene.scales.max(axis=1) == 0)


def _flyaway(means: NDArray[np.float32], factor: float) -> NDArray[np.bool_]:
    if not len(means):
        return np.zeros(0, dtype=bool)
    distances = np.linalg.norm(means.astype(np.float64) - np.median(means, axis=0), axis=1)
    reach = np.quantile(distances, 0.99, method="lower")
    return distances > factor * reach if reach > 0 else np.zeros(len(means), dtype=bool)
