"""A round of SlimSAM: score the units of some kinds, choose, remove, refit, and align with the dense model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from gencompress import config as options
from gencompress.core.budget import Budget, solve
from gencompress.core.compensate import compensate_
from gencompress.core.group import Groups, shapes_of
from gencompress.core.plan import Plan
from gencompress.core.prune import kept_indices, removed_blocks, rescaled
from gencompress.core.recover import distil_
from gencompress.core.rounds import best_units, uniform_counts
from gencompress.core.subject import Progress
from gencompress.criteria.disturbed_taylor import disturbed_taylor_scores
from gencompress.criteria.magnitude import magnitude_scores
from gencompress.criteria.random import random_scores
from gencompress.criteria.taylor import divide_by_cost, taylor_scores
from gencompress.domains.sam.align import Alignment, Inner
from gencompress.domains.sam.domain import Sam
from gencompress.domains.sam.subject import embeddings
from gencompress.domains.sam.teacher import Teacher

Scores = dict[str, Tensor]
_BATCH = 8  # pictures in one forward of scoring and refitting


@dataclass(frozen=True)
class Round:
    """One turn of pruning and distilling.

    Args:
        name: of its stages.
        kinds: of the groups that it prunes.
        inner: features that it leaves comparable with those before; None aligns embeddings alone.
        part: of all steps of the alignment.
    """

    name: str
    kinds: tuple[str, ...]
    inner: Inner | None
    part: float

    def of(self, student: Sam) -> Sam:
        """The student with the groups of this round."""
        return replace(student, kinds=self.kinds, uniform=False)


def scored(teacher: Teacher, student: Sam, config: options.Config, ctx: Progress) -> Scores:
    """Scores of the student's groups by the criterion of `config`, [size] by group name."""
    criterion, groups = config.criterion, student.groups
    subject = student.subject(teacher.images, teacher.cache.targets)
    if isinstance(criterion, options.RandomCriterion):
        return random_scores(groups, criterion.seed)
    if isinstance(criterion, options.MagnitudeCriterion):
        return magnitude_scores(dict(student.encoder.named_parameters()), groups, cast(Any, criterion.normalise))
    if isinstance(criterion, options.TaylorCriterion):
        scores = taylor_scores(subject, groups, criterion.samples, _BATCH, ctx)
        return divide_by_cost(scores, student.cost(Budget.of(config.budget).metric)) if criterion.per_cost else scores
    assert isinstance(criterion, options.DisturbedTaylorCriterion)
    how: Any = {"noise": criterion.noise, "normalise": criterion.normalise, "seed": criterion.seed}
    return disturbed_taylor_scores(subject, groups, criterion.samples, _BATCH, ctx, **how)


def planned(teacher: Teacher, student: Sam, scores: Scores, last: bool, config: options.Config) -> Plan:
    """The kept units of one round.

    The part of every group that a uniform result would keep is what all but the last round keep; the last one spends
    what is left of the budget where it counts most, or the same everywhere if the budget is uniform.
    """
    budget = Budget.of(config.budget)
    cost = teacher.sam.cost(budget.metric)
    if budget.uniform or not last:
        return best_units(student.groups, scores, uniform_counts(teacher.sam.groups, budget, cost))
    rest = replace(budget, keep=None, target=budget.limit(cost))
    return solve(student.groups, scores, rest, student.cost(budget.metric))


def repair_(
    pruned: Sam, student: Sam, teacher: Teacher, plan: Plan, turn: Round, config: options.Config, ctx: Progress
) -> list[float]:
    """Refit what `plan` took from the student and align it with the teacher, in place; the losses of the alignment.

    Args:
        pruned: ``student.prune(plan)``; its encoder is changed.
        student: the model before this round.
        teacher: the dense model and the pictures.
        plan: of this round.
        turn: this round.
        config: all options.
        ctx: for progress, checkpoints and stopping.
    """
    if config.compensate.images:
        refit_(pruned, student, teacher, plan, config, ctx)
    if not isinstance(config.recover, options.AlignRecover):
        return []
    how, encoder = config.recover, pruned.encoder.requires_grad_(True)
    steps = round(turn.part * how.steps)
    guide = None if turn.inner is None else student.encoder
    inner, weights = turn.inner or "blocks", cast(Any, how.weights)
    loss = Alignment(encoder, teacher.images, teacher.cache.targets, how.batch, steps, guide, inner, weights)
    losses = distil_(encoder, loss, ctx, steps=steps, lr=how.lr, ema=how.ema, seed=config.run.seed)
    encoder.requires_grad_(False)
    return losses


def refit_(pruned: Sam, student: Sam, teacher: Teacher, plan: Plan, config: options.Config, ctx: Progress) -> None:
    """`compensate_` of the layers that lost inputs, on the teacher's pictures; changes `pruned` in place.

    A narrower residual stream is one that every layer reads through a norm: those are refitted as well, although their
    groups have no gate at their inputs.
    """
    groups, shapes = student.groups, shapes_of(student.encoder.state_dict())
    modules = readers(groups, plan, shapes)
    gains = {name: gain for name in modules if (gain := _gain(groups, plan, name, modules[name])) is not None}

    def forward(index: int) -> Callable[[nn.Module], object]:
        return lambda encoder: embeddings(encoder, teacher.images(index, _BATCH))

    forwards = [forward(index) for index in range(-(-config.compensate.images // _BATCH))]
    removed = removed_blocks(groups, plan)
    damping = config.compensate.damping
    compensate_(pruned.encoder, student.encoder, modules, forwards, ctx, damping, removed=removed, gains=gains)


def readers(groups: Groups, plan: Plan, shapes: dict[str, tuple[int, ...]]) -> dict[str, Tensor | None]:
    """Layers whose inputs lose units by `plan`, with the outputs that they keep (None: all of them)."""
    stays = kept_indices(groups, plan, shapes)
    narrowed = {tensor.removesuffix(".weight") for tensor, dim in stays if dim == 1 and tensor.endswith(".weight")}
    found = {name: stays.get((f"{name}.weight", 0)) for name in narrowed}
    return {name: outputs for name, outputs in found.items() if outputs is None or len(outputs)}


def _gain(groups: Groups, plan: Plan, module: str, outputs: Tensor | None) -> Tensor | None:
    """What the removal multiplies the kept outputs of a layer with: queries, where heads got narrower."""
    factor, stop = rescaled(groups, plan).get(f"{module}.weight", (1.0, None))
    if outputs is None or stop is None:
        return None
    return torch.where(outputs < stop, factor, 1.0)
