"""How much of a scene a file format keeps: the deviation of every attribute after writing and reading."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gencompress.formats import activations, quaternions
from gencompress.formats.scene import Array, SplatScene
from gencompress.formats.symmetry import least_turned


class Deviation(NamedTuple):
    """Root mean square and largest value over all splats and components."""

    rms: float
    largest: float


def deviations(before: SplatScene, after: SplatScene) -> dict[str, Deviation]:
    """Deviation of `after` from `before`, two scenes of the same splats in the same order, by attribute.

    ``position`` is relative to the diagonal of the scene, ``rotation`` the angle in degrees, ``scale`` that of the
    logarithm, ``opacity`` and ``colour`` are in [0, 1], ``harmonics`` in units of the coefficients, where a degree that
    one scene lacks counts as zeros. A format may name the axes of a splat anew: they are compared by their directions.
    """
    diagonal = float(np.linalg.norm(before.means.max(0) - before.means.min(0))) or 1.0
    relative, log_scales = least_turned(_relative(before, after), after.log_scales)
    half_sine = np.minimum(np.linalg.norm(relative[:, 1:], axis=1), 1)
    found = {
        "position": np.linalg.norm(after.means - before.means, axis=1) / diagonal,
        "rotation": np.degrees(2 * np.arcsin(half_sine)),
        "scale": log_scales - before.log_scales,
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


def _relative(before: SplatScene, after: SplatScene) -> Array:
    """The rotations [N, 4] that lead from those before to those after, about the splats' own axes."""
    first, second = (quaternions.unit(scene.quats).astype(np.float64) for scene in (before, after))
    real = (first * second).sum(1)
    imaginary = first[:, :1] * second[:, 1:] - second[:, :1] * first[:, 1:] - np.cross(first[:, 1:], second[:, 1:])
    return np.column_stack([real, imaginary]).astype(np.float32)


def _padded(scene: SplatScene, k: int) -> NDArray[np.float32]:
    return np.pad(scene.sh_rest, ((0, 0), (0, k - scene.sh_rest.shape[1]), (0, 0)))
