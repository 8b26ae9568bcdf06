"""Where a scene is and how large it is, whatever strays around it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from gencompress.errors import ConfigError, nearest
from gencompress.formats.scene import SplatScene

Up = Literal["auto", "x", "y", "z", "-x", "-y", "-z"]
Vector = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Frame:
    """Centre [3], radius and upward unit vector [3] of a scene, in its own coordinates."""

    centre: Vector
    radius: float
    up: Vector

    @classmethod
    def of(cls, scene: SplatScene, up: Up = "auto") -> Frame:
        """The frame of `scene`, in which splats count by the area that they cover.

        The centre is that of the box between the 2nd and the 98th percentile of every coordinate, the radius the 98th
        percentile of the distance from it.

        Raises:
            ConfigError: `up` is not an axis.
        """
        weights = coverage(scene)
        box = np.stack([weighted_quantiles(scene.means[:, axis], weights, (0.02, 0.98)) for axis in range(3)])
        centre = box.mean(axis=1)
        distances = np.linalg.norm(scene.means - centre, axis=1)
        (radius,) = weighted_quantiles(distances, weights, (0.98,))
        floor = float(scene.scales.max())  # a single splat has an extent, too
        return cls(centre, float(radius) if radius > 0 else floor, axis_of(up))


def axis_of(up: Up) -> Vector:
    """The unit vector [3] that an axis's name stands for; ``auto`` is -y, as cameras of trained scenes are y-down."""
    if up not in get_args(Up):
        raise ConfigError(f"rig.up={up!r}; {nearest(up, get_args(Up))}")
    name = "-y" if up == "auto" else up
    vector = np.zeros(3)
    vector["xyz".index(name[-1])] = -1.0 if name.startswith("-") else 1.0
    return vector


def coverage(scene: SplatScene) -> Vector:
    """Opacity times the area of the splat's largest cross-section [N], capped so that no few splats decide alone."""
    scales = np.sort(scene.scales.astype(np.float64), axis=1)
    areas = scene.opacities * scales[:, 1] * scales[:, 2]
    return np.minimum(areas, np.quantile(areas, 0.95)) + 1e-300


def weighted_quantiles(values: NDArray[np.floating], weights: Vector, levels: tuple[float, ...]) -> Vector:
    """Quantiles of `values` [N] under `weights` [N] >= 0 at `levels` in [0, 1]."""
    order = np.argsort(values, kind="stable")
    cumulative = np.cumsum(weights[order])
    places = np.searchsorted(cumulative, np.asarray(levels) * cumulative[-1])
    return values[order][np.minimum(places, len(values) - 1)].astype(np.float64)
