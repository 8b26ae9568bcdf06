"""Morton order: splats that are neighbours in space become neighbours in the file, which packs and streams better."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

_SPREAD = (
    (32, 0x1F00000000FFFF),
    (16, 0x1F0000FF0000FF),
    (8, 0x100F00F00F00F00F),
    (4, 0x10C30C30C30C30C3),
    (2, 0x1249249249249249),
)


def morton_order(means: NDArray[Any]) -> NDArray[np.int64]:
    """The order [N] of centres [N, 3] along the Z-curve of 2^21 cells per axis over their bounds; stable."""
    finite = np.where(np.isfinite(means), means, 0)
    low, high = finite.min(0), finite.max(0)
    key = np.zeros(len(means), np.uint64)
    for axis in range(3):
        extent = max(float(high[axis]) - float(low[axis]), 1e-30)
        cell = ((finite[:, axis].astype(np.float64) - low[axis]) * ((2**21 - 1) / extent)).astype(np.uint64)
        for shift, mask in _SPREAD:
            cell = (cell | cell << np.uint64(shift)) & np.uint64(mask)
        key |= cell << np.uint64(axis)
    return np.argsort(key, kind="stable")
