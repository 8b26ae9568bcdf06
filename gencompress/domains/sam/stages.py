"""The stages of a SAM run, in the order in which recipes call them. Each writes a folder of the run directory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from gencompress import config as options
from gencompress.core.budget import Budget, solve
from gencompress.core.compensate import compensate_
from gencompress.core.group import Groups, shapes_of
from gencompress.core.plan import Plan
from gencompress.core.prune import kept_indices, removed_blocks, rescaled
from gencompress.core.recover import distil_
from gencompress.core.rounds import best_units, joined, uniform_counts
from gencompress.core.subject import Progress
from gencompress.criteria.disturbed_taylor import disturbed_taylor_scores
from gencompress.criteria.magnitude import magnitude_scores
from gencompress.criteria.random import random_scores
from gencompress.criteria.taylor import divide_by_cost, taylor_scores
from gencompress.domains.sam.align import Alignment, Inner
from gencompress.domains.sam.domain import Sam
from gencompress.domains.sam.subject import embeddings
from gencompress.domains.sam.teacher import Teacher
from gencompress.run import StageContext

Scores = dict[str, Tensor]
_SCORES, _PLAN, _LOSSES = "scores.safetensors", "plan.json", "losses.safetensors"
_BATCH = 8  # pictures in one forward of scoring and refitting


def budget_of(config: options.Config) -> Budget:
    """The budget that the options ask for."""
    return Budget(**{f.name: getattr(config.budget, f.name) for f in fields(Budget)})


def score(ctx: StageContext, teacher: Teacher, student: Sam, config: options.Config) -> None:
    """One number per unit of the student by the criterion of `config`: scores.safetensors."""
    budget, groups = budget_of(config), teacher.sam.groups
    zeros = {g.name: torch.zeros(g.size) for g in groups}
    solve(groups, zeros, budget, teacher.sam.cost(budget.metric))  # what cannot be met is refused before the hours
    scores = one_round_scores(teacher, student, config, ctx)
    save_file({name: values.float().contiguous() for name, values in scores.items()}, ctx.dir / _SCORES)


def one_round_scores(teacher: Teacher, student: Sam, config: options.Config, ctx: Progress) -> Scores:
    """Scores of the student's groups, [size] by group name."""
    criterion, groups = config.criterion, student.groups
    subject = student.subject(teacher.images, teacher.sam)
    if isinstance(criterion, options.RandomCriterion):
        return random_scores(groups, criterion.seed)
    if isinstance(criterion, options.MagnitudeCriterion):
        return magnitude_scores(dict(student.encoder.named_parameters()), groups, cast(Any, criterion.normalise))
    if isinstance(criterion, options.TaylorCriterion):
        scores = taylor_scores(subject, groups, criterion.samples, _BATCH, ctx)
        return divide_by_cost(scores, student.cost(budget_of(config).metric)) if criterion.per_cost else scores
    assert isinstance(criterion, options.DisturbedTaylorCriterion)
    how: Any = {"noise": criterion.noise, "normalise": criterion.normalise, "seed": criterion.seed}
    return disturbed_taylor_scores(subject, groups, criterion.samples, _BATCH, ctx, **how)


def read_scores(folder: Path) -> Scores:
    """Scores by group name, [size]."""
    return load_file(folder / _SCORES)


def make_plan(
    ctx: StageContext, teacher: Teacher, student: Sam, scores: Scores, last: bool, config: options.Config
) -> None:
    """The kept units of one round: plan.json.

    The part of every group that a uniform result would keep is what all but the last round keep; the last one spends
    what is left of the budget where it counts most, or the same everywhere if the budget is uniform.
    """
    budget = budget_of(config)
    cost = teacher.sam.cost(budget.metric)
    if budget.uniform or not last:
        counts = uniform_counts(teacher.sam.groups, budget, cost)
        plan = best_units(student.groups, scores, counts)
    else:
        rest = replace(budget, keep=None, target=budget.limit(cost))
        plan = solve(student.groups, scores, rest, student.cost(budget.metric))
    (ctx.dir / _PLAN).write_text(plan.to_json())


def read_plan(folder: Path) -> Plan:
    """The plan of `make_plan` or `join`."""
    return Plan.load(folder / _PLAN)


def join(ctx: StageContext, teacher: Teacher, plans: list[Plan], config: options.Config) -> None:
    """What all rounds together removed from the dense model: plan.json."""
    budget = budget_of(config)
    cost = teacher.sam.cost(budget.metric)
    method = {**vars(config.criterion), "rounds": len(plans)}
    plan = joined(teacher.sam.groups, plans, budget, cost, teacher.sam.source, method)
    (ctx.dir / _PLAN).write_text(plan.to_json())


def slim(
    ctx: StageContext,
    teacher: Teacher,
    student: Sam,
    plan: Plan,
    inner: Inner | None,
    steps: int,
    config: options.Config,
) -> None:
    """Remove what `plan` drops from the student, refit, align with the teacher: a model folder, and the losses.

    Args:
        ctx: of the stage.
        teacher: the dense model and the pictures.
        student: the model before this round.
        plan: of this round.
        inner: features that the round leaves comparable with those before it; None aligns embeddings alone.
        steps: of the alignment.
        config: all options.
    """
    pruned = student.prune(plan)
    if config.compensate.images:
        refit(teacher, student, pruned, plan, config, ctx)
    losses: list[float] = []
    if isinstance(config.recover, options.AlignRecover):
        guide = None if inner is None else student.encoder
        losses = align_(pruned.encoder, teacher, guide, inner or "blocks", steps, config.recover, config.run.seed, ctx)
    pruned.model.save_pretrained(ctx.dir)
    save_file({"loss": torch.tensor(losses)}, ctx.dir / _LOSSES)


def read_losses(folder: Path) -> list[float]:
    """The loss at every step of `slim`."""
    losses: list[float] = load_file(folder / _LOSSES)["loss"].tolist()
    return losses


def align_(
    encoder: nn.Module,
    teacher: Teacher,
    guide: nn.Module | None,
    inner: Inner,
    steps: int,
    how: options.AlignRecover,
    seed: int,
    ctx: Progress,
) -> list[float]:
    """Train a pruned encoder in place; the loss at every step. Raises what `distil_` raises."""
    loss = Alignment(
        encoder, teacher.images, teacher.cache.targets, how.batch, steps, guide, inner, cast(Any, how.weights)
    )
    encoder.requires_grad_(True)
    losses = distil_(encoder, loss, ctx, steps=steps, lr=how.lr, ema=how.ema, seed=seed)
    encoder.requires_grad_(False)
    return losses


def refit(teacher: Teacher, student: Sam, pruned: Sam, plan: Plan, config: options.Config, ctx: Progress) -> None:
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


def _gain(groups: Groups, plan: Plan, module: str, outputs: Tensor | None) -> Tensor | None:
    """What the removal multiplies the kept outputs of a layer with: queries, where heads got narrower."""
    factor, stop = rescaled(groups, plan).get(f"{module}.weight", (1.0, None))
    if outputs is None or stop is None:
        return None
    return torch.where(outputs < stop, factor, 1.0)


def readers(groups: Groups, plan: Plan, shapes: dict[str, tuple[int, ...]]) -> dict[str, Tensor | None]:
    """Layers whose inputs lose units by `plan`, with the outputs that they keep (None: all of them)."""
    stays = kept_indices(groups, plan, shapes)
    narrowed = {tensor.removesuffix(".weight") for tensor, dim in stays if dim == 1 and tensor.endswith(".weight")}
    found = {name: stays.get((f"{name}.weight", 0)) for name in narrowed}
    return {name: outputs for name, outputs in found.items() if outputs is None or len(outputs)}
