"""Leave-one-out error of splats, exact, and scored again on the survivors round after round.

Removing splat i changes the render C by -d_i. What that costs is judged against the renders T of the input:

    |C - d_i - T|^2 - |C - T|^2 = |d_i|^2 - 2 d_i . (C - T)

In the first round C = T and the cost is the plain leave-one-out error |d_i|^2 (GaussianPOP). Later the second term
tells which removals make the damage done so far worse, and which would repair it. It holds for one splat at a time,
but a round removes many: if all that promise to repair the same damage go, they overshoot it by far. So what makes
things worse counts by half, and what promises a repair hardly at all.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from gencompress.core.subject import Progress
from gencompress.formats.cameras import Cameras
from gencompress.kernels import Contributions
from gencompress.kernels.splats import Splats

WORSE, REPAIR = 0.5, 0.1  # weights of the second term by its sign, found on two scenes (benchmarks/splats_quality.py)


def leave_one_out_scores(splats: Splats, cameras: Cameras, unseen: str = "prune") -> dict[str, Tensor]:
    """Squared error over pixels, channels and views if a splat alone goes: ``{"splats": [N]}`` >= 0.

    Args:
        splats: what is scored.
        cameras: the views.
        unseen: what becomes of splats that are drawn in no view: ``prune`` leaves them the score 0, ``keep`` ranks
            them above all others, by opacity times volume.
    """
    found = splats.contributions(cameras)
    scores = found.leave_one_out
    return {"splats": _above(scores, splats, found.hits == 0) if unseen == "keep" else scores}


def removal_costs(found: Contributions) -> Tensor:
    """What the removal of each splat costs in a round that removes many [N]; negative if it repairs.

    Args:
        found: contributions against the renders of the input as target.
    """
    return found.leave_one_out - WORSE * found.toward.clamp_max(0) - REPAIR * found.toward.clamp_min(0)


def round_counts(units: int, count: int, ratio: float) -> list[int]:
    """Splats left after every round, the last `count`; a round leaves about `ratio` in [0, 1) of those before it."""
    if units <= count:
        return []
    if ratio <= count / units:
        return [count]
    rounds = math.ceil(math.log(count / units) / math.log(ratio) - 1e-9)
    return [round(units * (count / units) ** ((i + 1) / rounds)) for i in range(rounds)]


@dataclass(frozen=True, eq=False)
class Elimination:
    """The order in which splats go.

    Args:
        scores: place in the order of removal [N], 0 goes first: the survivors at any number are the highest scores.
        curve: splats left, and the mean squared error per pixel and channel of their renders as measured.
    """

    scores: Tensor
    curve: tuple[tuple[int, float], ...]


def eliminate(
    splats: Splats,
    cameras: Cameras,
    count: int,
    ctx: Progress,
    *,
    ratio: float = 0.84,
    target: Tensor | None = None,
    unseen: str = "prune",
    most_error: float = math.inf,
) -> Elimination:
    """Remove the cheapest splats and score the survivors again, until `count` are left.

    Args:
        splats: N splats.
        cameras: C views.
        count: where to stop, >= 1; what is left then is ranked by the last costs.
        ctx: progress, checkpoints after every round, stopping.
        ratio: part of the splats that a round leaves, in [0, 1); 0 scores once.
        target: renders [C, H, W, 3] to stay close to; None is those of `splats`.
        unseen: as in `leave_one_out_scores`; those of the first round are meant.
        most_error: stop before `count` when the measured error exceeds this.
    """
    if target is None:
        target = splats.render(cameras).image
    state = _State.of(splats)
    saved = ctx.load_checkpoint()
    if saved is not None:
        state = _State(**saved.tensors, curve=[(int(n), float(error)) for n, error in saved.meta["curve"]])
    for left in round_counts(len(splats), count, ratio)[len(state.curve) :]:
        alive = splats.take(state.alive)
        found = alive.contributions(cameras, target=target)
        if unseen == "keep" and not state.curve:
            state.spared = found.hits == 0
        state.curve.append((len(alive), _mean_square(found.image, target)))
        if state.curve[-1][1] > most_error:
            break
        state.remove_(_above(removal_costs(found), alive, state.spared[state.alive]), left)
        ctx.progress(len(splats) - left, len(splats) - count, error=state.curve[-1][1])
        ctx.save_checkpoint(len(state.curve), state.tensors(), {"curve": state.curve})
        ctx.stop_if_requested()
    else:
        state.curve.append((len(state.alive), _mean_square(splats.take(state.alive).render(cameras).image, target)))
    return Elimination(state.scores, tuple(state.curve))


@dataclass(eq=False)
class _State:
    """Scores so far [N], indices of the splats that are left [M], those to spare [N]; and the curve."""

    scores: Tensor
    alive: Tensor
    spared: Tensor
    curve: list[tuple[int, float]]

    @classmethod
    def of(cls, splats: Splats) -> _State:
        every = torch.arange(len(splats), device=splats.means.device)
        return cls(torch.zeros(len(splats), device=every.device), every, torch.zeros_like(every, dtype=torch.bool), [])

    def remove_(self, costs: Tensor, left: int) -> None:
        """Rank those that are left by `costs` [M], and keep the `left` dearest."""
        order = costs.argsort(stable=True)
        places = torch.arange(len(self.scores) - len(order), len(self.scores), device=order.device)
        self.scores[self.alive[order]] = places.float()
        self.alive = self.alive[order[len(order) - left :]].sort().values

    def tensors(self) -> dict[str, Tensor]:
        """What a checkpoint holds."""
        return {"scores": self.scores, "alive": self.alive, "spared": self.spared}


def _above(scores: Tensor, splats: Splats, chosen: Tensor) -> Tensor:
    """`scores` [N], with the `chosen` above all others, among themselves by opacity times volume; fp64."""
    volumes = splats.opacities * splats.scales.prod(dim=1)
    ranks = volumes.argsort(stable=True).argsort(stable=True) + 1
    return torch.where(chosen, scores.double().max() + ranks, scores.double())


def _mean_square(image: Tensor, target: Tensor) -> float:
    """Of the pixels as they are shown, in [0, 1]."""
    errors = (F.mse_loss(a.clamp(0, 1), b.clamp(0, 1)).double() for a, b in zip(image, target, strict=True))
    return float(sum(errors)) / len(image)
