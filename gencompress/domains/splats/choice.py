"""Which splats go in one round: the cheapest, where what has gone already makes its neighbours dearer.

Errors are measured for one removal at a time, but removals add up where they touch the same pixels:
``|d_i + d_j|^2 = |d_i|^2 + |d_j|^2 + 2 d_i . d_j``. Two neighbours that cover for each other both seem to be needed by
nobody, and rescoring finds out only when both are gone. So the splats are joined to their nearest neighbours in a
graph, whose weights say how alike two splats are in place and colour, and the last term is estimated as
``2 w_ij |d_i| |d_j|``: this is where the redundancy that a graph sees helps a score that sees the images.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gencompress.domains.splats.merge import Pairs
from gencompress.formats.scene import SH_C0
from gencompress.kernels.compiled import jit
from gencompress.kernels.neighbours import nearest_neighbours, self_tuning_weights
from gencompress.kernels.splats import Splats

NEIGHBOURS = 12
_NOBODY = -1  # partner of a deletion
COLOR_WIDTH = 0.15  # difference of two colours at which they are no longer alike


@dataclass(frozen=True, eq=False)
class Likeness:
    """How alike every splat and its nearest neighbours are.

    Args:
        index: the neighbours, int32 [N, k].
        weights: in [0, 1], fp32 [N, k].
    """

    index: NDArray[np.int32]
    weights: NDArray[np.float32]

    @classmethod
    def of(cls, splats: Splats) -> Likeness:
        """By distance, in units of the local spacing, and by the constant part of the colour."""
        found = nearest_neighbours(splats.means.cpu().numpy(), NEIGHBOURS)
        weights = self_tuning_weights(found)
        colors = splats.colors[:, 0].cpu().numpy() * np.float32(SH_C0 / COLOR_WIDTH)
        for j in range(weights.shape[1]):
            weights[:, j] *= np.exp(-np.square(colors - colors[found.index[:, j]]).sum(axis=1))
        return cls(found.index, weights)

    @classmethod
    def none(cls, count: int) -> Likeness:
        """Of splats that have nothing to do with each other."""
        return cls(np.empty((count, 0), np.int32), np.empty((count, 0), np.float32))


def cheapest(
    lost: NDArray[np.float64], energies: NDArray[np.float64], pairs: Pairs, likeness: Likeness, removals: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Splats to delete and pairs to merge, `removals` in all or as many as there are, each ascending.

    One after the other the operation is chosen that is the cheapest beside those chosen before it; no splat takes part
    twice.

    Args:
        lost: what deleting each splat costs by itself [N].
        energies: squared norm of the change that it makes to the images [N], >= 0; that of a merge is its error.
        pairs: merges.
        likeness: of the splats.
        removals: splats to lose.
    """
    n = len(lost)
    merging = pairs.errors.astype(np.float64)
    costs, norms = np.concatenate([lost, merging]), np.sqrt(np.concatenate([energies, merging]))
    first = np.concatenate([np.arange(n, dtype=np.int32), pairs.first])
    second = np.concatenate([np.full(n, _NOBODY, np.int32), pairs.second])
    order = np.argsort(costs, kind="stable")
    given = (costs[order], norms[order], first[order], second[order])
    chosen = order[_choose(*given, likeness.index, likeness.weights, removals)]
    return np.sort(chosen[chosen < n]), np.sort(chosen[chosen >= n]) - n


@jit
def _choose(
    costs: NDArray[np.float64],
    norms: NDArray[np.float64],
    first: NDArray[np.int32],
    second: NDArray[np.int32],
    index: NDArray[np.int32],
    weights: NDArray[np.float32],
    removals: int,
) -> NDArray[np.int64]:
    """`cheapest` of operations in ascending order of cost; those that became dearer wait in a heap.

    Costs only grow, so what is the cheapest by a cost that is still true is the cheapest of all.
    """
    taken = np.zeros(len(index), np.bool_)
    pressure = np.zeros(len(index))
    chosen = np.empty(removals, np.int64)
    found, following = 0, 0
    waiting = [(np.inf, np.int64(-1))]
    while found < removals:
        if following < len(costs) and costs[following] <= waiting[0][0]:
            known, operation = costs[following], np.int64(following)
            following += 1
        else:
            known, operation = heapq.heappop(waiting)
            if operation < 0:
                break
        a, b = first[operation], second[operation]
        if taken[a] or (b >= 0 and taken[b]):
            continue
        now = costs[operation] + norms[operation] * (pressure[a] if b < 0 else 0.5 * (pressure[a] + pressure[b]))
        if now > known:
            heapq.heappush(waiting, (now, operation))
            continue
        chosen[found] = operation
        found += 1
        share = 2 * norms[operation] if b < 0 else norms[operation]
        for splat in (a, b):
            if splat >= 0:
                taken[splat] = True
                for j in range(index.shape[1]):
                    pressure[index[splat, j]] += share * weights[splat, j]
    return chosen[:found]
