"""Fewer splats, round by round: every round deletes or merges what costs the images least, and measures anew.

A deletion costs the splat's exact leave-one-out error, a merge the predicted error of the pair's exchange. Both are
squared errors over the same views, so the cheapest are taken, whatever they are, as long as no splat takes part twice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gencompress.core.subject import Progress
from gencompress.criteria.leave_one_out import removal_costs
from gencompress.domains.splats.choice import Likeness, cheapest
from gencompress.domains.splats.merge import NO_PAIRS, Merges, Pairs, candidate_pairs, merged
from gencompress.formats.cameras import Cameras
from gencompress.kernels.splats import Splats

STAYS = np.iinfo(np.int32).max
FEWEST_ROUNDS = 4  # of a reduction that does not score only once


@dataclass(frozen=True, eq=False)
class Reduced:
    """What is left of N source splats.

    Args:
        splats: the survivors in the order of the source, a merged one at the place of its first member [M].
        gone: the round in which each source splat was deleted or taken in by another, `STAYS` if in none, int32 [N].
        merges: all merges so far, in source numbers.
        spared: source splats that are to outlive all others [N].
        rounds: of every round the squared error before it, the splats it left, its deletions and merges, and the error
            that they were predicted to add.
    """

    splats: Splats
    gone: NDArray[np.int32]
    merges: Merges
    spared: NDArray[np.bool_]
    rounds: tuple[dict[str, float], ...] = ()

    @classmethod
    def of(cls, splats: Splats) -> Reduced:
        """Before the first round, which tells what is spared."""
        return cls(splats, np.full(len(splats), STAYS, np.int32), Merges.none(), np.zeros(len(splats), bool))

    @property
    def ids(self) -> NDArray[np.int32]:
        """The source splat at whose place every survivor stands, ascending [M]."""
        return np.flatnonzero(self.gone == STAYS).astype(np.int32)

    def back(self, rounds: int, source: Splats) -> Reduced:
        """The state after the first `rounds` rounds."""
        if rounds == len(self.rounds):
            return self
        early = self.merges.rounds < rounds
        merges = Merges(*(array[early] for array in vars(self.merges).values()))
        gone = np.where(self.gone < rounds, self.gone, STAYS)
        return _replayed(source, gone, merges, self.spared, self.rounds[:rounds])


def reduce(
    splats: Splats,
    cameras: Cameras,
    targets: Tensor,
    count: int,
    ctx: Progress,
    *,
    ratio: float = 0.71,
    neighbours: int = 6,
    graph: bool = True,
    unseen: str = "prune",
    start: Reduced | None = None,
) -> Reduced:
    """At most `count` splats that look like `splats` from `cameras`.

    Args:
        splats: N splats.
        cameras: V views that the error is counted on.
        targets: renders of the input in these views [V, H, W, 3].
        count: splats to leave, >= 1.
        ctx: progress, checkpoints after every round, stopping.
        ratio: part that one round leaves, more if there would be fewer than `FEWEST_ROUNDS`; 0 makes one round. A splat
            may take part in one deletion or merge of a round.
        neighbours: candidates for the partner of every splat; 0 deletes only.
        graph: what goes makes like neighbours dearer in the same round (`gencompress.domains.splats.choice`).
        unseen: what becomes of splats that are drawn in no view: ``prune`` removes them first, ``keep`` last, by
            opacity times volume.
        start: a state of the same splats and options for another count: rounds that both have are not made again.
    """
    saved = ctx.load_checkpoint()
    if saved is not None:
        state = resumed(splats, saved.tensors, saved.meta["rounds"])
    elif start is not None:
        state = start.back(_shared_rounds(start, len(splats), count, ratio), splats)
    else:
        state = Reduced.of(splats)
    part = part_left(len(splats), count, ratio)
    while len(state.splats) > count:
        left = max(count, int(part * len(state.splats)))
        state = one_round(state, cameras, targets, left, neighbours, graph, unseen)
        ctx.progress(len(splats) - len(state.splats), len(splats) - count)
        ctx.save_checkpoint(len(state.rounds), recorded(state), {"rounds": list(state.rounds)})
        ctx.stop_if_requested()
    return state


def part_left(units: int, count: int, ratio: float) -> float:
    """Part of the splats that every round of a reduction from `units` to `count` leaves."""
    return max(ratio, (count / units) ** (1 / FEWEST_ROUNDS)) if ratio else 0.0


def _shared_rounds(state: Reduced, units: int, count: int, ratio: float) -> int:
    """How many rounds of `state` a reduction to `count` begins with; the last round of any stops at its own count."""
    left, part = units, part_left(units, count, ratio)
    for number, done in enumerate(state.rounds):
        left = max(count, int(part * left))
        if done["splats"] != left:
            return number
    return len(state.rounds)


def recorded(state: Reduced) -> dict[str, Tensor]:
    """All that is needed to come to `state` again from the source splats."""
    arrays = {**vars(state.merges), "gone": state.gone, "spared": state.spared}
    return {name: torch.tensor(array) for name, array in arrays.items()}


def resumed(splats: Splats, tensors: Mapping[str, Tensor], rounds: Sequence[dict[str, float]]) -> Reduced:
    """The state that `recorded` was given, from the same source splats."""
    arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
    gone, spared = arrays.pop("gone"), arrays.pop("spared")
    return _replayed(splats, gone, Merges(**arrays), spared, tuple(rounds))


def _replayed(
    source: Splats,
    gone: NDArray[np.int32],
    merges: Merges,
    spared: NDArray[np.bool_],
    rounds: tuple[dict[str, float], ...],
) -> Reduced:
    left = merges.apply(source).take(torch.from_numpy(np.flatnonzero(gone == STAYS)))
    return Reduced(left, gone.astype(np.int32), merges, spared, rounds)


def one_round(
    state: Reduced, cameras: Cameras, targets: Tensor, count: int, neighbours: int, graph: bool, unseen: str
) -> Reduced:
    """Delete and merge until `count` splats are left, by errors measured once; the first round sees what is unseen."""
    splats, ids = state.splats, state.ids
    seen, lost, error = measured(splats, cameras, targets)
    if unseen == "keep" and not state.rounds:
        state = replace(state, spared=np.count_nonzero(seen[:, :, 1], axis=1) == 0)
    pairs = candidate_pairs(splats, cameras, seen, neighbours) if neighbours and len(splats) > 1 else NO_PAIRS
    spared = state.spared[ids]
    if spared.any():
        pairs = pairs.take(np.flatnonzero(~spared[pairs.first] & ~spared[pairs.second]))
        lost = _above(lost, splats, spared)
    likeness = Likeness.of(splats) if graph else Likeness.none(len(splats))
    energies = seen[:, :, 0].sum(axis=1, dtype=np.float64)
    del seen  # the largest array of all
    deleted, joined = cheapest(lost, energies, pairs, likeness, len(splats) - count)
    chosen = pairs.take(joined)
    record = {
        "error": error,
        "splats": count,
        "deleted": len(deleted),
        "merged": len(joined),
        "added": float(lost[deleted].sum() + chosen.errors.sum(dtype=np.float64)),
    }
    gone = state.gone.copy()
    gone[ids[deleted]] = gone[ids[chosen.second]] = len(state.rounds)
    merges = state.merges.then(ids[chosen.first], ids[chosen.second], chosen.opacities)
    return Reduced(_applied(splats, chosen, deleted), gone, merges, state.spared, (*state.rounds, record))


def measured(
    splats: Splats, cameras: Cameras, targets: Tensor
) -> tuple[NDArray[np.float32], NDArray[np.float64], float]:
    """What every splat does in every view [N, V, 2] (leave-one-out squared error, sum of blend weights), the cost of
    deleting it [N] (`gencompress.criteria.leave_one_out.removal_costs`), and the squared error of the renders now.
    """
    seen, error = np.empty((len(splats), len(cameras), 2), np.float32), 0.0
    lost = np.zeros(len(splats))
    for v in range(len(cameras)):
        target = targets[v : v + 1].to(splats.means)
        found = splats.contributions(cameras.take(slice(v, v + 1)), target=target)
        seen[:, v, 0], seen[:, v, 1] = found.leave_one_out.cpu().numpy(), found.blend_sum.cpu().numpy()
        lost += removal_costs(found).cpu().numpy()
        error += float((found.image - target).square().sum())
    return seen, lost, error


def _applied(splats: Splats, pairs: Pairs, deleted: NDArray[np.int64]) -> Splats:
    """The splats after the chosen operations."""
    stays = np.ones(len(splats), bool)
    stays[deleted] = stays[pairs.second] = False
    left = splats.take(torch.from_numpy(np.flatnonzero(stays)))
    left.put_(torch.from_numpy(np.cumsum(stays)[pairs.first] - 1), merged(splats, pairs))
    return left


def _above(lost: NDArray[np.float64], splats: Splats, spared: NDArray[np.bool_]) -> NDArray[np.float64]:
    """`lost` [N] with the spared splats above all others, among themselves by opacity times volume."""
    volumes = (splats.opacities * splats.scales.prod(dim=1)).cpu().numpy()
    ranks = np.argsort(np.argsort(volumes, kind="stable"), kind="stable") + 1
    return np.where(spared, lost.max() + ranks, lost)
