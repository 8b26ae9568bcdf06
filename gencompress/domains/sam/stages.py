"""The stages of a SAM run, in the order in which recipes call them. Each writes a folder of the run directory."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from gencompress.config import Config
from gencompress.core.budget import Budget, require_reachable
from gencompress.core.plan import Plan
from gencompress.core.rounds import joined
from gencompress.domains.sam.domain import Sam
from gencompress.domains.sam.quiet import without_bars
from gencompress.domains.sam.rounds import Round, Scores, planned, repair_, scored
from gencompress.domains.sam.teacher import Teacher
from gencompress.run import StageContext

_SCORES, _PLAN, _LOSSES = "scores.safetensors", "plan.json", "losses.safetensors"


def score(ctx: StageContext, teacher: Teacher, student: Sam, config: Config) -> None:
    """One number per unit of the student: scores.safetensors."""
    budget = Budget.of(config.budget)
    require_reachable(teacher.sam.groups, budget, teacher.sam.cost(budget.metric))
    scores = scored(teacher, student, config, ctx)
    save_file({name: values.float().contiguous() for name, values in scores.items()}, ctx.dir / _SCORES)


def read_scores(folder: Path) -> Scores:
    """Scores by group name, [size]."""
    found: dict[str, Tensor] = load_file(folder / _SCORES)
    return found


def make_plan(ctx: StageContext, teacher: Teacher, student: Sam, scores: Scores, last: bool, config: Config) -> None:
    """The kept units of one round: plan.json."""
    (ctx.dir / _PLAN).write_text(planned(teacher, student, scores, last, config).to_json())


def read_plan(folder: Path) -> Plan:
    """The plan of `make_plan` or `join`."""
    return Plan.load(folder / _PLAN)


def slim(ctx: StageContext, teacher: Teacher, student: Sam, plan: Plan, turn: Round, config: Config) -> None:
    """Remove, refit and align: a model folder, and the loss at every step."""
    pruned = student.prune(plan)
    losses = repair_(pruned, student, teacher, plan, turn, config, ctx)
    with without_bars():
        pruned.model.save_pretrained(ctx.dir)
    save_file({"loss": torch.tensor(losses)}, ctx.dir / _LOSSES)


def read_losses(folder: Path) -> list[float]:
    """The losses of `slim`."""
    losses: list[float] = load_file(folder / _LOSSES)["loss"].tolist()
    return losses


def join(ctx: StageContext, teacher: Teacher, plans: list[Plan], config: Config) -> None:
    """What all rounds together removed from the dense model: plan.json."""
    budget = Budget.of(config.budget)
    cost = teacher.sam.cost(budget.metric)
    method = {**vars(config.criterion), "rounds": len(plans)}
    plan = joined(teacher.sam.groups, plans, budget, cost, teacher.sam.source, method)
    (ctx.dir / _PLAN).write_text(plan.to_json())
