"""Nearest neighbours of millions of points, and the random walk on their graph, in bounded memory."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.spatial import cKDTree

_CHUNK = 1 << 16
_DUPLICATE = 1e-9  # distance relative to the largest one, below which two points are the same
_WIDTH_NEIGHBOUR = 7


@dataclass(frozen=True, eq=False)
class Neighbours:
    """The k nearest other points of every point, nearest first.

    Args:
        index: int32 [N, k].
        distance: fp32 [N, k].
    """

    index: NDArray[np.int32]
    distance: NDArray[np.float32]


def nearest_neighbours(points: NDArray[np.floating], k: int) -> Neighbours:
    """The `k` nearest neighbours of every one of `points` [N, 3], finite; of fewer points all others.

    Points are visited along a space-filling curve, which keeps the tree in the cache: several times as fast as in the
    order of a scene file.
    """
    n = len(points)
    k = min(k, n - 1)
    index, distance = np.empty((n, k), np.int32), np.empty((n, k), np.float32)
    if k == 0:
        return Neighbours(index, distance)
    order = morton_order(points)
    ordered = np.ascontiguousarray(points[order], dtype=np.float64)
    tree = cKDTree(ordered)
    for start in range(0, n, _CHUNK):
        rows = np.arange(start, min(start + _CHUNK, n))
        far, found = tree.query(ordered[rows], k=k + 1)
        # Among duplicates the point itself need not be the first that is found, nor be found at all.
        itself = found == rows[:, None]
        itself[~itself.any(axis=1), -1] = True
        index[order[rows]] = order[found[~itself]].reshape(-1, k)
        distance[order[rows]] = far[~itself].reshape(-1, k)
    return Neighbours(index, distance)


def morton_order(points: NDArray[np.floating]) -> NDArray[np.int64]:
    """Order [N] of finite `points` [N, 3] along the Z curve, 21 bits a coordinate; stable among equal cells."""
    low = points.min(axis=0).astype(np.float64)
    extent = float((points.max(axis=0) - low).max()) or 1.0
    code = np.zeros(len(points), np.uint64)
    for axis in range(3):
        cells = ((points[:, axis] - low[axis]) / extent * (2**21 - 1)).astype(np.uint64)
        code |= _spread(cells) << np.uint64(axis)
    return np.argsort(code, kind="stable")


def _spread(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Two zero bits between all bits of 21-bit numbers."""
    for shift, mask in (
        (32, 0x1F00000000FFFF),
        (16, 0x1F0000FF0000FF),
        (8, 0x100F00F00F00F00F),
        (4, 0x10C30C30C30C30C3),
        (2, 0x1249249249249249),
    ):
        values = (values | (values << np.uint64(shift))) & np.uint64(mask)
    return values


class RandomWalk:
    """The operator P = D^-1 W of a graph in which i and j are joined if one is among the neighbours of the other.

    Args:
        index: the neighbours of every point, int32 [N, k], k > 0.
        weights: of the joints, fp32 [N, k].
    """

    def __init__(self, index: NDArray[np.int32], weights: NDArray[np.float32]) -> None:
        n, k = index.shape
        if k == 0:
            raise ValueError("a random walk needs at least two points")
        starts = np.arange(0, n * k + 1, k, dtype=np.int32 if n * k < 2**31 else np.int64)
        self._out = csr_array((weights.reshape(-1), index.reshape(-1), starts), shape=(n, n))
        one_way = _one_way(index)
        ends = np.append(0, one_way.sum(axis=1).cumsum()).astype(starts.dtype)
        self._back = csr_array((weights[one_way], index[one_way], ends), shape=(n, n)).T
        self._degrees = self._weigh(np.ones((n, 1), np.float32))

    @classmethod
    def among(cls, points: NDArray[np.floating], k: int) -> RandomWalk:
        """On the graph of the `k` nearest neighbours of `points` [N, 3] with `self_tuning_weights`."""
        return cls(*_tuned(points, k))

    def __matmul__(self, signal: NDArray[np.floating]) -> NDArray[np.float32]:
        """``P @ signal`` for a signal [N, D]; a point without any weight keeps its own."""
        walked = self._weigh(np.asarray(signal, np.float32))
        lonely = self._degrees[:, 0] <= 0
        walked /= np.where(lonely[:, None], 1, self._degrees)
        walked[lonely] = signal[lonely]
        return walked

    def _weigh(self, signal: NDArray[np.float32]) -> NDArray[np.float32]:
        found = np.asarray(self._out @ signal, np.float32)
        found += self._back @ signal
        return found


def _tuned(points: NDArray[np.floating], k: int) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Neighbours and weights; the distances, as large as they, are dropped."""
    found = nearest_neighbours(points, k)
    return found.index, self_tuning_weights(found)


def self_tuning_weights(neighbours: Neighbours) -> NDArray[np.float32]:
    """``w_ij = exp(-d_ij^2 / (s_i s_j))`` in [0, 1] of every point and its neighbours [N, k].

    s is the distance to the 7th neighbour (Zelnik-Manor and Perona, NIPS 2004); duplicates have weight 1.
    """
    index, distance = neighbours.index, neighbours.distance
    if not distance.size:
        return np.zeros_like(distance)
    width = distance[:, min(_WIDTH_NEIGHBOUR, distance.shape[1]) - 1]
    tiny = _DUPLICATE * float(distance.max())
    weights = np.empty_like(distance)
    for start in range(0, len(index), _CHUNK):
        rows = slice(start, start + _CHUNK)
        d = distance[rows]
        with np.errstate(divide="ignore", invalid="ignore"):
            weights[rows] = np.exp(-(d**2) / (width[rows, None] * width[index[rows]]))
        weights[rows][d <= tiny] = 1
    return weights


def _one_way(index: NDArray[np.int32]) -> NDArray[np.bool_]:
    """Whether i is not among the neighbours of its neighbour ``index[i, j]`` [N, k]."""
    one_way = np.empty(index.shape, dtype=bool)
    for start in range(0, len(index), _CHUNK):
        rows = np.arange(start, min(start + _CHUNK, len(index)))
        for j in range(index.shape[1]):
            one_way[rows, j] = (index[index[rows, j]] != rows[:, None]).all(axis=1)
    return one_way
