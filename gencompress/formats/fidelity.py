"""How much of a scene a file format keeps: the deviation of every attribute after writing and reading."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gencompress.formats import activations, quaternions
from gencompress.formats.scene import SplatScene


class Deviation(NamedTuple):
    """Root mean square and largest value over all splats and components."""

    rms: float
    largest: float


def deviations(before: SplatScene, after: SplatScene) -> dict[str, Deviation]:
    """Deviation of `after` from `before`, two scenes of the same splats in the same order, by attribute.

    ``position`` is relative to the diagonal of the scene, ``rotation`` the angle in degrees, ``scale`` that of the
    logarithm, ``opacity`` and ``colour`` are in [0, 1], ``harmonics`` in units of the coefficients, where a degree that
    one scene lacks counts as zeros.
    """
    diagonal = float(np.linalg.norm(before.means.max(0) - before.means.min(0))) or 1.0
    found = {
        "position": np.linalg.norm(after.means - before.means, axis=1) / diagonal,
        "rotation": _angles(before, after),
        "scale": after.log_scales - before.log_scales,
        "opacity": activations.opacity(after.logits) - activations.opacity(before.logits),
        "colour": activations.colour(after.sh0) - activations.colour(before.sh0),
    }
    k = max(scene.sh_rest.shape[1] for scene in (before, after))
    if k:
        found["harmonics"] = _padded(after, k) - _padded(before, k)
    return {name: _deviation(difference) for name, difference in found.items()}


def _deviation(difference: NDArray[np.float32]) -> Deviation:
    difference = np.asarray(difference, np.float64)
    return Deviation(float(np.sqrt(np.mean(difference**2))), float(np.abs(difference).max()))


def _angles(before: SplatScene, after: SplatScene) -> NDArray[np.float32]:
    """The angle in degrees [N] between rotations; by the chord, which is exact where the angle is small."""
    first, second = (quaternions.unit(scene.quats).astype(np.float64) for scene in (before, after))
    sign = np.where((first * second).sum(1, keepdims=True) < 0, -1, 1)
    return np.degrees(4 * np.arcsin(np.minimum(np.linalg.norm(first - sign * second, axis=1) / 2, 1)))


def _padded(scene: SplatScene, k: int) -> NDArray[np.float32]:
    return np.pad(scene.sh_rest, ((0, 0), (0, k - scene.sh_rest.shape[1]), (0, 0)))
