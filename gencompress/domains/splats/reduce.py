"""Fewer splats, round by round: every round deletes or merges what costs the images least, and measures anew.

A deletion costs the splat's exact leave-one-out error, a merge the predicted error of the pair's exchange. Both are
squared errors over the same views, so the cheapest are taken, whatever they are, as long as no splat takes part twice.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gencompress.core.subject import Progress
from gencompress.domains.splats.merge import NO_PAIRS, Merges, Pairs, candidate_pairs, merged
from gencompress.formats.cameras import Cameras
from gencompress.kernels.compiled import jit
from gencompress.kernels.splats import Splats

_NOBODY = -1  # partner of a deletion


@dataclass(frozen=True, eq=False)
class Reduced:
    """What is left of N source splats.

    Args:
        splats: the survivors in the order of the source, a merged one at the place of its first member [M].
        ids: the source splat at whose place every survivor stands, int32 [M].
        merges: all merges so far, in source numbers.
        rounds: of every round the squared error before it, the splats it left, its deletions and merges, and the error
            that they were predicted to add.
    """

    splats: Splats
    ids: NDArray[np.int32]
    merges: Merges
    rounds: tuple[dict[str, float], ...] = ()

    @classmethod
    def of(cls, splats: Splats) -> Reduced:
        """Before the first round."""
        return cls(splats, np.arange(len(splats), dtype=np.int32), Merges.none())

    def kept(self, count: int) -> NDArray[np.int32]:
        """Of `count` source splats those that live on, alone or in a merged one, ascending."""
        alive = np.zeros(count, bool)
        alive[self.ids] = True
        for first, second in zip(self.merges.first[::-1], self.merges.second[::-1], strict=True):
            alive[second] = alive[first]
        return np.flatnonzero(alive).astype(np.int32)


def reduce(
    splats: Splats,
    cameras: Cameras,
    targets: Tensor,
    count: int,
    ctx: Progress,
    *,
    ratio: float = 0.71,
    neighbours: int = 6,
) -> Reduced:
    """At most `count` splats that look like `splats` from `cameras`.

    Args:
        splats: N splats.
        cameras: V views that the error is counted on.
        targets: renders of the input in these views [V, H, W, 3].
        count: splats to leave, >= 1.
        ctx: progress, checkpoints after every round, stopping.
        ratio: part that one round leaves; a splat may take part in one deletion or merge of a round.
        neighbours: candidates for the partner of every splat; 0 deletes only.
    """
    state = Reduced.of(splats)
    saved = ctx.load_checkpoint()
    if saved is not None:
        state = resumed(splats, saved.tensors, saved.meta["rounds"])
    while len(state.splats) > count:
        state = one_round(state, cameras, targets, max(count, int(ratio * len(state.splats))), neighbours)
        ctx.progress(len(splats) - len(state.splats), len(splats) - count)
        ctx.save_checkpoint(len(state.rounds), recorded(state), {"rounds": list(state.rounds)})
        ctx.stop_if_requested()
    return state


def recorded(state: Reduced) -> dict[str, Tensor]:
    """All that is needed to come to `state` again from the source splats."""
    return {name: torch.from_numpy(array) for name, array in {**vars(state.merges), "ids": state.ids}.items()}


def resumed(splats: Splats, tensors: Mapping[str, Tensor], rounds: list[dict[str, Any]]) -> Reduced:
    """The state that `recorded` was given, from the same source splats."""
    arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
    ids = arrays.pop("ids")
    merges = Merges(**arrays)
    return Reduced(merges.apply(splats).take(torch.from_numpy(ids).long()), ids, merges, tuple(rounds))


def one_round(state: Reduced, cameras: Cameras, targets: Tensor, count: int, neighbours: int) -> Reduced:
    """Delete and merge until `count` splats are left, by errors measured once."""
    splats = state.splats
    seen, lost, error = measured(splats, cameras, targets)
    pairs = candidate_pairs(splats, cameras, seen, neighbours) if neighbours and len(splats) > 1 else NO_PAIRS
    deleted, joined = cheapest(lost, pairs, len(splats) - count)
    chosen = pairs.take(joined)
    record = {
        "error": error,
        "splats": count,
        "deleted": len(deleted),
        "merged": len(joined),
        "added": float(lost[deleted].sum() + chosen.errors.sum(dtype=np.float64)),
    }
    left, stays = _applied(splats, chosen, deleted)
    merges = state.merges.then(state.ids[chosen.first], state.ids[chosen.second], chosen.opacities)
    return Reduced(left, state.ids[stays], merges, (*state.rounds, record))


def measured(
    splats: Splats, cameras: Cameras, targets: Tensor
) -> tuple[NDArray[np.float32], NDArray[np.float64], float]:
    """What every splat does in every view [N, V, 2] (leave-one-out squared error, sum of blend weights), the error of
    deleting it [N], and the squared error of the renders as they are.

    A splat whose absence would carry the renders further from `targets` costs half of that in addition: the other half
    belongs to the removals that are made together with it. One whose absence would carry them closer gets no credit,
    since many splats would claim the same gain.
    """
    seen, error = np.empty((len(splats), len(cameras), 2), np.float32), 0.0
    lost = np.zeros(len(splats))
    for v in range(len(cameras)):
        target = targets[v : v + 1]
        found = splats.contributions(cameras.take(slice(v, v + 1)), target=target)
        seen[:, v, 0], seen[:, v, 1] = found.leave_one_out.cpu().numpy(), found.blend_sum.cpu().numpy()
        lost += (found.leave_one_out - 0.5 * found.toward.clamp_max(0)).cpu().numpy()
        error += float((found.image - target).square().sum())
    return seen, lost, error


def cheapest(lost: NDArray[np.float64], pairs: Pairs, removals: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Splats to delete and pairs to merge, `removals` in all: the cheapest in which no splat takes part twice.

    Args:
        lost: error of deleting each splat [N].
        pairs: merges.
        removals: splats to lose.
    """
    n = len(lost)
    cost = np.concatenate([lost, pairs.errors.astype(np.float64)])
    first = np.concatenate([np.arange(n, dtype=np.int32), pairs.first])
    second = np.concatenate([np.full(n, _NOBODY, np.int32), pairs.second])
    chosen = _disjoint(np.argsort(cost, kind="stable"), first, second, n, removals)
    return np.sort(chosen[chosen < n]), np.sort(chosen[chosen >= n]) - n


@jit
def _disjoint(
    order: NDArray[np.int64], first: NDArray[np.int32], second: NDArray[np.int32], count: int, removals: int
) -> NDArray[np.int64]:
    """The first `removals` of `order` whose splats are all different."""
    taken = np.zeros(count, np.bool_)
    chosen = np.empty(removals, np.int64)
    found = 0
    for operation in order:
        if found == removals:
            break
        a, b = first[operation], second[operation]
        if taken[a] or (b >= 0 and taken[b]):
            continue
        taken[a] = True
        if b >= 0:
            taken[b] = True
        chosen[found] = operation
        found += 1
    return chosen[:found]


def _applied(splats: Splats, pairs: Pairs, deleted: NDArray[np.int64]) -> tuple[Splats, NDArray[np.int64]]:
    """The splats after the chosen operations, and which of those before stand there."""
    gone = np.zeros(len(splats), bool)
    gone[deleted] = gone[pairs.second] = True
    stays = np.flatnonzero(~gone)
    left = splats.take(torch.from_numpy(stays))
    left.put_(torch.from_numpy(np.searchsorted(stays, pairs.first)), merged(splats, pairs))
    return left, stays
