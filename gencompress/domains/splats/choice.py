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

from gencompress.formats.scene import SH_C0
from gencompress.kernels.compiled import jit
from gencompress.kernels.neighbours import nearest_neighbours, self_tuning_weights
from gencompress.kernels.splats import Splats

NEIGHBOURS = 12
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


def cheapest(
    costs: NDArray[np.float64],
    energies: NDArray[np.float64],
    first: NDArray[np.int32],
    second: NDArray[np.int32],
    likeness: Likeness,
    removals: int,
) -> NDArray[np.int64]:
    """The operations to carry out, `removals` of them or as many as there are, in the order in which they were chosen.

    Args:
        costs: what every operation by itself costs [M].
        energies: squared norm of the change that it makes to the images [M], >= 0.
        first: the splat that it takes part of, int32 [M].
        second: the other one of a merge, int32 [M]; -1 for a deletion. No splat takes part in two operations.
        likeness: of the N splats.
        removals: operations to choose.
    """
    order = np.argsort(costs, kind="stable")
    given = (costs[order], np.sqrt(energies)[order], first[order], second[order])
    return order[_choose(*given, likeness.index, likeness.weights, removals)]


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
    """`cheapest` of operations in ascending order of cost; those that became dearer wait in a heap."""
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
