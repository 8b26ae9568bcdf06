"""k-means of many points with many centroids on a CPU: Lloyd's steps inside blocks of neighbouring centroids.

A step of Lloyd compares every point with every centroid: 500,000 with 65,536 of 45 numbers each are 3 Tflop.
Here the centroids are cut into blocks of neighbours by random hyperplanes, and each point is compared with those of one
block only, all blocks in parallel; the next round cuts elsewhere. The error never grows, since a point's present
centroid is always in its block. After Wang et al., Fast Approximate k-Means via Cluster Closures (CVPR 2012), and the
trees of Dasgupta and Freund, Random Projection Trees and Low Dimensional Manifolds (STOC 2008).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gencompress.kernels.compiled import Floats, Ints, Longs, jit, parallel

BLOCK = 256  # centroids that a point is compared with in one round
ROUNDS = 20  # in which centroids move
SETTLING = 4  # rounds after them in which only points do
TRAINING = 1 << 20  # points that the centroids are fitted to


class Clusters(NamedTuple):
    """Centroids [k, D] and the index [N] of each point's centroid."""

    centroids: Floats
    labels: Ints


def kmeans(points: Floats, k: int, seed: int = 0) -> Clusters:
    """Clusters that make the sum of squared distances small; the same for any number of threads.

    Args:
        points: [N, ...], D finite numbers each; a memory map is read in pieces. Of more than `TRAINING`, a sample is
            fitted.
        k: centroids wanted; at most N are made.
        seed: of the sample, of the first centroids and of the hyperplanes.
    """
    rng = np.random.default_rng(seed)
    if len(points) <= TRAINING:
        return _fit(_rows(points), min(k, len(points)), rng)
    sample = np.sort(rng.choice(len(points), TRAINING, replace=False))
    centroids = _fit(_rows(points[sample]), k, rng).centroids
    parts = (points[start : start + TRAINING] for start in range(0, len(points), TRAINING))
    labels = [_nearest(_rows(part), centroids, rng) for part in parts]
    return Clusters(centroids, np.concatenate(labels))


def _rows(points: Floats) -> Floats:
    return np.ascontiguousarray(points, np.float32).reshape(len(points), -1)


def _fit(points: Floats, k: int, rng: np.random.Generator) -> Clusters:
    """Rounds from randomly chosen points as centroids, whose first blocks are neighbouring points."""
    leaf = _tree(points, -(-k // BLOCK), rng)
    chosen = np.sort(rng.choice(len(points), k, replace=False))
    chosen = chosen[np.argsort(leaf[chosen], kind="stable")]
    centroids, block = points[chosen], leaf[chosen]
    labels = np.minimum(np.searchsorted(block, leaf), k - 1).astype(np.int32)
    for step in range(ROUNDS + SETTLING):
        _round(points, Clusters(centroids, labels), block, move=step < ROUNDS)
        block = _tree(centroids, -(-k // BLOCK), rng)
    return Clusters(centroids, labels)


def _nearest(points: Floats, centroids: Floats, rng: np.random.Generator) -> Ints:
    """The index [N] of the nearest centroid or one hardly farther, found from the block with the nearest middle."""
    block = _tree(centroids, -(-len(centroids) // BLOCK), rng)
    first = np.unique(block, return_index=True)[1]
    middles = np.stack([centroids[block == index].mean(0) for index in range(len(first))])
    half = (middles**2).sum(1) / 2
    parts = np.array_split(points, -(-len(points) // (1 << 14)))
    labels = first[np.concatenate([(half - part @ middles.T).argmin(1) for part in parts])].astype(np.int32)
    for _ in range(ROUNDS):
        _round(points, Clusters(centroids, labels), block, move=False)
        block = _tree(centroids, len(first), rng)
    return labels


def _tree(points: Floats, leaves: int, rng: np.random.Generator) -> Ints:
    """The leaf [N] of each point, after halving the points by random hyperplanes into `leaves` of nearly equal size."""
    order = np.arange(len(points), dtype=np.int32)
    bounds = np.linspace(0, len(points), leaves + 1).astype(np.int64)
    _halve(points, order, bounds, rng.random((leaves, 2)))
    labels = np.empty(len(points), np.int32)
    labels[order] = np.repeat(np.arange(leaves, dtype=np.int32), np.diff(bounds))
    return labels


def _round(points: Floats, clusters: Clusters, block: Ints, move: bool) -> None:
    """Compare all points with the centroids of their block [k]; labels change, and with `move` centroids, in place."""
    count = int(block.max()) + 1
    members, member_bounds = _grouped(block, count)
    rows, row_bounds = _grouped(block[clusters.labels], count)
    parallel(_refine, count, points, *clusters, members, member_bounds, rows, row_bounds, move)


def _grouped(groups: Ints, count: int) -> tuple[Ints, Longs]:
    """Indices in the order of their group, and where each of `count` groups begins and ends in it."""
    order = np.argsort(groups.astype(np.uint16) if count < 1 << 16 else groups, kind="stable")
    return order.astype(np.int32), np.searchsorted(groups[order], np.arange(count + 1))


@jit
def _halve(points: Floats, order: Ints, bounds: Longs, draws: NDArray[np.float64]) -> None:
    """Sort `order` in place so that leaf i is ``order[bounds[i]:bounds[i + 1]]``."""
    stack = [(0, len(bounds) - 1)]
    while stack:
        first, last = stack.pop()
        middle = (first + last) // 2
        if middle == first:
            continue
        start, stop = bounds[first], bounds[last]
        part = order[start:stop].copy()
        # the direction from one point to another: more often one in which they are spread
        ends = (draws[middle] * len(part)).astype(np.int64)
        direction = points[part[ends[1]]] - points[part[ends[0]]]
        along = np.empty(len(part), np.float32)
        for i in range(len(part)):
            along[i] = _dot(points[part[i]], direction)
        order[start:stop] = part[np.argsort(along)]
        stack.append((first, middle))
        stack.append((middle, last))


@jit
def _dot(a: Floats, b: Floats) -> np.float32:
    total = np.float32(0)
    for d in range(len(a)):
        total += a[d] * b[d]
    return total


@jit
def _refine(
    start: int,
    stop: int,
    points: Floats,
    centroids: Floats,
    labels: Ints,
    members: Ints,
    member_bounds: Longs,
    rows: Ints,
    row_bounds: Longs,
    move: bool,
) -> None:
    """One step of Lloyd in each of the blocks [start, stop)."""
    for block in range(start, stop):
        ids = members[member_bounds[block] : member_bounds[block + 1]]
        own = rows[row_bounds[block] : row_bounds[block + 1]]
        error = np.empty(len(own), np.float32)
        _assign(points, centroids, labels, ids, own, error)
        if move:
            _move(points, centroids, labels, ids, own, error)


@jit
def _assign(points: Floats, centroids: Floats, labels: Ints, ids: Ints, own: Ints, error: Floats) -> None:
    """Label the points `own` with the nearest of the centroids `ids`, and give the squared distance."""
    table = centroids[ids].T.copy()
    half = np.empty(len(ids), np.float32)  # |p - c|^2 / 2 - |p|^2 / 2 = |c|^2 / 2 - p c
    for j in range(len(ids)):
        half[j] = _dot(centroids[ids[j]], centroids[ids[j]]) * np.float32(0.5)
    score = np.empty(len(ids), np.float32)
    for i in range(len(own)):
        point = points[own[i]]
        score[:] = half
        for d in range(len(point)):
            x = point[d]
            for j in range(len(ids)):
                score[j] -= x * table[d, j]
        best = 0
        for j in range(1, len(ids)):
            if score[j] < score[best]:
                best = j
        labels[own[i]] = ids[best]
        error[i] = _dot(point, point) + 2 * score[best]


@jit
def _move(points: Floats, centroids: Floats, labels: Ints, ids: Ints, own: Ints, error: Floats) -> None:
    """Centroids `ids` to the mean of their points; one without points to the point `own` of the largest error."""
    place = np.searchsorted(ids, labels[own])
    sums = np.zeros((len(ids), points.shape[1]), np.float64)
    counts = np.zeros(len(ids), np.int64)
    for i in range(len(own)):
        counts[place[i]] += 1
        for d in range(points.shape[1]):
            sums[place[i], d] += points[own[i], d]
    for j in range(len(ids)):
        if counts[j] > 0:
            centroids[ids[j]] = sums[j] / counts[j]
        elif len(own) > 0:
            far = np.argmax(error)
            error[far] = 0
            centroids[ids[j]] = points[own[far]]
