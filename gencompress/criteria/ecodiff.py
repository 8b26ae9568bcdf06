"""Masks learned end to end through the whole denoising run (EcoDiff, arXiv 2412.02852), always on budget.

Hard-concrete gates on frozen weights are trained so that the final latents stay those of the dense model. In place of
the published L1 regulariser, which moves all logits together and hardly ranks units, every update shifts all logits by
one constant, found by bisection, so that the expected cost equals the target; the gradient is the total derivative
through that shift. The target is ramped down from the dense cost.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Protocol

import torch
import torch.distributed as dist
from torch import Tensor

from gencompress.core.budget import Budget
from gencompress.core.cost import CostModel
from gencompress.core.gate import hard_concrete, open_probability
from gencompress.core.group import Groups
from gencompress.core.subject import Progress, TrajectorySubject
from gencompress.core.trajectory import final_latents, gate_gradient
from gencompress.errors import BudgetError, NumericsError

CHECKPOINT_EVERY = 5


class Settings(Protocol):
    """The options of `gencompress.config.EcoDiffCriterion`, where they are documented."""

    updates: int
    batch: int
    accumulate: int
    masks: int
    pool: int
    lr: float
    ramp: float
    delta: float
    temperature: float
    seed: int


def learn_gates(
    subject: TrajectorySubject,
    groups: Groups,
    cost: CostModel,
    budget: Budget,
    settings: Settings,
    ctx: Progress,
    warm_start: Mapping[str, Tensor] | None = None,
) -> tuple[dict[str, Tensor], Tensor]:
    """Learned logits as scores: the larger, the longer the unit stays.

    Args:
        subject: model and calibration trajectories; its weights are not touched.
        groups: groups with gate sites.
        cost: of the metric in which `budget` is given.
        budget: the target that the masks are learned for.
        settings: updates, batch, learning rate and so on.
        ctx: progress, checkpoints, stopping.
        warm_start: initial scores by group, in any unit; only their ranks are used.

    Returns:
        Scores by group [size], the mean over `masks` independent runs; and the learning curve [masks * updates, 2],
        loss and expected cost relative to the dense model.

    Raises:
        NumericsError: the loss is NaN or infinite.
        BudgetError: a group has no gate site, or the target is below what empty groups cost.
    """
    total = settings.masks * settings.updates
    saved = ctx.load_checkpoint()
    done, kept = (0, None) if saved is None else (saved.step, saved.tensors)
    sums = torch.zeros(groups.units) if kept is None else kept["sums"].clone()
    curve = torch.zeros(total, 2) if kept is None else kept["curve"].clone()
    learner: _Learner | None = None
    while done < total:
        if learner is None or done % settings.updates == 0:
            learner = _Learner(subject, groups, cost, budget, settings, warm_start, mask=done // settings.updates)
            if kept is not None and done % settings.updates:
                learner.load_(done % settings.updates, kept)
        figures = learner.update_()
        curve[done] = torch.tensor([figures["loss"], figures["keep"]])
        done += 1
        if done % settings.updates == 0:
            sums += learner.result()
        ctx.progress(done, total, **figures)
        if done % CHECKPOINT_EVERY == 0 or done == total or ctx.stop_requested:
            ctx.save_checkpoint(done, {**learner.tensors(), "sums": sums, "curve": curve})
        ctx.stop_if_requested()
    parts = (sums / settings.masks).split([g.size for g in groups])
    return {g.name: part.clone() for g, part in zip(groups, parts, strict=True)}, curve


class _Learner:
    """All logits in one fp32 vector [units], with Adam on it."""

    def __init__(
        self,
        subject: TrajectorySubject,
        groups: Groups,
        cost: CostModel,
        budget: Budget,
        settings: Settings,
        warm_start: Mapping[str, Tensor] | None,
        mask: int,
    ) -> None:
        for group in groups:
            if not group.sites:
                raise BudgetError(f"group {group.name!r} has no gate site, masks cannot be learned for it")
        self.subject, self.groups, self.cost, self.settings = subject, groups, cost, settings
        self.goal = budget.limit(cost)
        self.seed = settings.seed + mask
        self.sizes = [g.size for g in groups]
        self.owner = torch.repeat_interleave(torch.arange(len(groups)), torch.tensor(self.sizes))
        self.logits = _initial(groups, warm_start)
        self.first, self.second = torch.zeros_like(self.logits), torch.zeros_like(self.logits)
        self.average = torch.zeros_like(self.logits)
        self.done = 0
        self.targets: dict[int, Tensor] = {}
        self.rank, self.world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)

    def update_(self) -> dict[str, float]:
        """One Adam step on the mean gradient of `accumulate` batches of trajectories on every process."""
        target = self._target()
        shift, slope = self._shift(target)
        gradient, loss = torch.zeros_like(self.logits), 0.0
        for micro in range(self.settings.accumulate):
            index = (self.done * self.settings.accumulate + micro) * self.world + self.rank
            part, value = self._gradient(index, shift)
            gradient += part / self.settings.accumulate
            loss += value / self.settings.accumulate
        if self.world > 1:
            dist.all_reduce(gradient)
            gradient /= self.world
        # total derivative through the shift s(logits) that holds the expected cost: ds/dlogits = -slope / sum(slope)
        gradient -= slope * (gradient.sum() / slope.sum().clamp_min(1e-12))
        self._adam_(gradient)
        self.done += 1
        return {"loss": loss, "keep": target / self.cost.dense}

    def result(self) -> Tensor:
        """Logits [units], averaged over the updates after the ramp (Polyak)."""
        return self.average / max(1, self.done - self._ramp_updates()) if bool(self.average.any()) else self.logits

    def tensors(self) -> dict[str, Tensor]:
        """What a checkpoint holds."""
        return {"logits": self.logits, "first": self.first, "second": self.second, "average": self.average}

    def load_(self, step: int, tensors: Mapping[str, Tensor]) -> None:
        """Continue after `step`."""
        self.done = step
        for name in self.tensors():
            setattr(self, name, tensors[name].clone())

    def _ramp_updates(self) -> int:
        return max(1, round(self.settings.ramp * self.settings.updates))

    def _target(self) -> float:
        progress = min(1.0, (self.done + 1) / self._ramp_updates())
        return self.cost.dense + progress * (self.goal - self.cost.dense)

    def _counts(self, logits: Tensor) -> Tensor:
        expected = open_probability(logits.double(), self.settings.temperature)
        return expected.new_zeros(len(self.sizes)).index_add(0, self.owner, expected)

    def _shift(self, target: float) -> tuple[float, Tensor]:
        """The shift at which the expected cost is `target`, and the slope of the cost there [units]."""
        low, high = -60.0 - float(self.logits.max()), 60.0 - float(self.logits.min())
        if float(self.cost.expected(self._counts(self.logits + low))) > target:
            raise BudgetError(f"the target of {target:,.0f} {self.cost.metric} is below the cost of the emptied model")
        for _ in range(60):
            middle = (low + high) / 2
            if float(self.cost.expected(self._counts(self.logits + middle))) > target:
                high = middle
            else:
                low = middle
        leaf = (self.logits + low).double().requires_grad_()
        (slope,) = torch.autograd.grad(self.cost.expected(self._counts(leaf)), leaf)
        return low, slope.float()

    def _gradient(self, index: int, shift: float) -> tuple[Tensor, float]:
        """Gradient [units] and loss of one batch: every trajectory has its own masks, drawn once."""
        settings = self.settings
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + index)
        noise = torch.rand(settings.batch, len(self.logits), generator=generator)
        leaf = (self.logits + shift).requires_grad_()
        gates = hard_concrete(leaf.expand_as(noise), noise, settings.temperature, settings.delta)
        batch = self.subject.trajectories(index % settings.pool, settings.batch)
        target = self._dense(index % settings.pool, batch)
        parts = gates.detach().to(target.device).split(self.sizes, dim=-1)
        by_name = {g.name: part for g, part in zip(self.groups, parts, strict=True)}
        loss, grads = gate_gradient(
            self.subject.rollout, batch, self.groups, by_name, lambda z: log_error(z.float(), target)
        )
        stacked = torch.cat([grads[g.name].float().cpu() for g in self.groups], dim=-1)
        (gradient,) = torch.autograd.grad(gates, leaf, stacked)
        if not bool(torch.isfinite(gradient).all()):
            raise NumericsError("the gradient of the masks holds NaN or infinity; try fp32 or fewer steps")
        return gradient, loss

    def _dense(self, index: int, batch: object) -> Tensor:
        """Final latents of the dense run, one target per trajectory, computed once."""
        if index not in self.targets:
            self.targets[index] = final_latents(self.subject.rollout, batch).float()
        return self.targets[index]

    def _adam_(self, gradient: Tensor, beta1: float = 0.9, beta2: float = 0.95) -> None:
        """Adam without weight decay; the learning rate falls to a tenth along a cosine after the ramp."""
        self.first.lerp_(gradient, 1 - beta1)
        self.second.lerp_(gradient.square(), 1 - beta2)
        step = self.done + 1
        scale = math.sqrt(1 - beta2**step) / (1 - beta1**step)
        after = max(0.0, (step - self._ramp_updates()) / max(1, self.settings.updates - self._ramp_updates()))
        lr = self.settings.lr * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * after)))
        self.logits -= lr * scale * self.first / (self.second.sqrt() + 1e-12)
        self.logits -= self.logits.mean()  # only differences matter, the shift carries the level
        if step > self._ramp_updates():
            self.average += self.logits


def log_error(latents: Tensor, target: Tensor, floor: float = 1e-4) -> Tensor:
    """Mean over samples of the log of each sample's mean squared error, for latents [B, ...].

    A pruned model sends a few trajectories to another image altogether. Their squared errors are orders of magnitude
    above the others' and say little about which unit matters; the log weighs each trajectory by its relative error,
    as PSNR does.
    """
    return ((latents - target).square().flatten(1).mean(1) + floor).log().mean()


def _initial(groups: Groups, warm_start: Mapping[str, Tensor] | None, spread: float = 3.0) -> Tensor:
    """Zero logits, or the ranks of `warm_start` over all groups spread evenly over ``[-spread/2, spread/2]``."""
    if warm_start is None:
        return torch.zeros(groups.units)
    flat = torch.cat([warm_start[g.name].detach().cpu().double() for g in groups])
    ranks = torch.empty_like(flat)
    ranks[flat.argsort(stable=True)] = torch.linspace(-0.5, 0.5, len(flat), dtype=torch.float64)
    return (ranks * spread).float()
