"""The 24 ways to name the axes of an ellipsoid: a Gaussian does not change with its axes swapped or turned around."""

from __future__ import annotations

import itertools

import numpy as np
from numpy.typing import NDArray

from gencompress.formats import quaternions
from gencompress.formats.scene import CHUNK, Array


def _rotations() -> NDArray[np.float64]:
    """The rotations of a cube as unit quaternions [24, 4]."""
    found = [q for q in itertools.product((-1, 0, 1), repeat=4) if sum(map(abs, q)) in (1, 2, 4)]
    positive = [q for q in found if next(part for part in q if part) > 0]
    return np.array([np.array(q) / np.linalg.norm(q) for q in positive])


_CUBE = _rotations()
_AXES = np.abs(quaternions.matrices(_CUBE)).argmax(1)  # [24, 3]: which old axis is the new x, y and z
_REAL = (_CUBE * (1, -1, -1, -1)).T.astype(np.float32)  # q @ _REAL: the real parts of q with each of the 24


def least_turned(quats: Array, log_scales: Array) -> tuple[Array, Array]:
    """The same N ellipsoids with axes named so that each is turned least from the axes of the world.

    Rotations then fill a 24th of their space, and the real part is always the largest: as bytes they pack better.

    Args:
        quats: unit quaternions [N, 4].
        log_scales: [N, 3].
    """
    best = np.empty(len(quats), np.intp)
    for start in range(0, len(quats), CHUNK):
        part = slice(start, start + CHUNK)
        best[part] = np.abs(quats[part] @ _REAL).argmax(1)
    w, x, y, z = quats.T
    a, b, c, d = _CUBE.astype(np.float32)[best].T
    turned = np.column_stack(
        [
            w * a - x * b - y * c - z * d,
            w * b + x * a + y * d - z * c,
            w * c - x * d + y * a + z * b,
            w * d + x * c - y * b + z * a,
        ]
    )
    return turned, np.take_along_axis(log_scales, _AXES[best], axis=1)
