"""The stages of a diffusion run, in the order in which recipes call them. Each writes a folder of the run directory."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from gencompress import config as options
from gencompress.core.budget import Budget, require_reachable, solve
from gencompress.core.compensate import compensate_, consumers
from gencompress.core.group import shapes_of
from gencompress.core.plan import Plan
from gencompress.core.prune import removed_blocks
from gencompress.core.subject import Progress
from gencompress.core.trajectory import final_latents, roll
from gencompress.criteria.ecodiff import learn_gates, log_error
from gencompress.criteria.gauss_newton import gauss_newton_scores
from gencompress.criteria.magnitude import magnitude_scores
from gencompress.criteria.random import random_scores
from gencompress.criteria.taylor import divide_by_cost, fisher_scores, taylor_scores
from gencompress.domains.diffusion.domain import Diffusion
from gencompress.domains.diffusion.recovery import recover_
from gencompress.run import StageContext
from gencompress.run.atomic import write_json

Scores = dict[str, Tensor]
_SCORES = "scores.safetensors"
_CURVE = "curve.safetensors"


def score(ctx: StageContext, dense: Diffusion, config: options.Config) -> None:
    """One number per unit by the criterion of `config`: scores.safetensors."""
    budget = Budget.of(config.budget)
    require_reachable(dense.groups, budget, dense.cost(budget.metric))
    _save_scores(ctx, one_shot_scores(dense, config.criterion, config, ctx))


def warm_start(ctx: StageContext, dense: Diffusion, config: options.Config) -> None:
    """Scores that the masks start from, by the cheaper criterion that ``criterion.warm_start`` names."""
    budget = Budget.of(config.budget)
    require_reachable(dense.groups, budget, dense.cost(budget.metric))
    criterion = cast(options.EcoDiffCriterion, config.criterion)
    if criterion.warm_start != "none":
        _save_scores(ctx, one_shot_scores(dense, options.CRITERIA[criterion.warm_start](), config, ctx))


def learn_masks(ctx: StageContext, dense: Diffusion, warm: Scores | None, config: options.Config) -> None:
    """Masks learned through the whole denoising run: their logits as scores.safetensors, and the learning curve."""
    criterion = cast(options.EcoDiffCriterion, config.criterion)
    budget = Budget.of(config.budget)
    cost = dense.cost(budget.metric)
    scores, curve = learn_gates(dense.subject, dense.groups, cost, budget, criterion, ctx, warm)
    _save_scores(ctx, scores)
    save_file({"curve": curve}, ctx.dir / _CURVE)


def choose(ctx: StageContext, dense: Diffusion, candidates: Mapping[str, Scores], config: options.Config) -> None:
    """Of several scores, those whose pruned and compensated pipeline stays closest to the dense one.

    Judged on calibration trajectories that no score was made from: scores.safetensors, choice.json with all errors.
    """
    errors = {}
    for name, scores in candidates.items():
        budget, settings = Budget.of(config.budget), config.compensate
        plan = solve(dense.groups, scores, budget, dense.cost(budget.metric))
        pruned = dense.prune(plan)
        if settings.trajectories:
            refit(dense, pruned, plan, settings.trajectories, config.denoise.batch, settings.damping, ctx)
        errors[name] = held_out_error(dense, pruned, config.denoise.batch)
    best = min(errors, key=errors.__getitem__)
    _save_scores(ctx, candidates[best])
    write_json(ctx.dir / "choice.json", {"chosen": best, "log_error": errors})


def method_of(run: Path, config: options.Config) -> str:
    """The criterion whose scores the plan was made from: that of `config`, or the one that `choose` preferred."""
    path = run / "choose" / "choice.json"
    chosen = json.loads(path.read_text())["chosen"] if path.exists() else LEARNED
    return config.criterion.name if chosen == LEARNED else str(chosen)


LEARNED = "learned masks"  # their name among the candidates of `choose`
HELD_OUT = 100_000  # first calibration trajectory of `held_out_error`, far behind those that scores are made from


def held_out_error(dense: Diffusion, pruned: Diffusion, batch: int, trajectories: int = 16) -> float:
    """Mean log of the squared error of final latents, over calibration trajectories that nothing was learned on."""
    errors = []
    for index in range(-(-trajectories // batch)):
        given = dense.subject.trajectories(HELD_OUT // batch + index, batch)
        ours, theirs = final_latents(pruned.denoising, given), final_latents(dense.denoising, given)
        errors.append(log_error(ours.float(), theirs.float()).item())
    return sum(errors) / len(errors)


def one_shot_scores(
    dense: Diffusion, criterion: options.CriterionConfig, config: options.Config, ctx: Progress
) -> Scores:
    """Scores of every criterion that needs no learning."""
    groups, batch = dense.groups, config.denoise.batch
    if isinstance(criterion, options.RandomCriterion):
        return random_scores(groups, criterion.seed)
    if isinstance(criterion, options.MagnitudeCriterion):
        return magnitude_scores(dict(dense.denoiser.named_parameters()), groups, cast(Any, criterion.normalise))
    if isinstance(criterion, options.TaylorCriterion):
        scores = taylor_scores(dense.subject, groups, criterion.samples, batch, ctx)
    elif isinstance(criterion, options.FisherCriterion):
        scores = fisher_scores(dense.subject, groups, criterion.samples, batch, ctx)
    else:
        assert isinstance(criterion, options.GaussNewtonCriterion)
        scores = gauss_newton_scores(dense.subject, groups, criterion.trajectories, batch, ctx, criterion.seed)
    return divide_by_cost(scores, dense.cost(Budget.of(config.budget).metric)) if criterion.per_cost else scores


def read_scores(folder: Path) -> Scores:
    """Scores by group name, [size]; empty if the stage found none to make."""
    path = folder / _SCORES
    return load_file(path) if path.exists() else {}


def read_curve(folder: Path, updates: int) -> dict[str, list[Any]] | None:
    """Learning curve as the report reads it, steps counted anew for every mask; None where nothing was learned."""
    path = folder / _CURVE
    if not path.exists():
        return None
    curve = load_file(path)["curve"]
    steps = [i % updates + 1 for i in range(len(curve))]
    return {"step": steps, "loss": curve[:, 0].tolist(), "keep": curve[:, 1].tolist()}


def make_plan(ctx: StageContext, dense: Diffusion, scores: Scores, config: options.Config) -> None:
    """The kept units under the budget: plan.json."""
    budget = Budget.of(config.budget)
    plan = solve(dense.groups, scores, budget, dense.cost(budget.metric), dense.source, vars(config.criterion))
    (ctx.dir / "plan.json").write_text(plan.to_json())


def read_plan(folder: Path) -> Plan:
    """The plan of `make_plan`."""
    return Plan.load(folder / "plan.json")


def prune(ctx: StageContext, dense: Diffusion, plan: Plan) -> None:
    """Physical removal: the pruned denoiser as a diffusers component folder."""
    cast(Any, dense.prune(plan).denoiser).save_pretrained(ctx.dir)


def compensate(ctx: StageContext, dense: Diffusion, pruned: Diffusion, plan: Plan, config: options.Config) -> None:
    """Closed-form refit of the layers that lost inputs, on the dense pipeline's calibration trajectories."""
    settings = config.compensate
    refit(dense, pruned, plan, settings.trajectories, config.denoise.batch, settings.damping, ctx)
    cast(Any, pruned.denoiser).save_pretrained(ctx.dir)


def recover(ctx: StageContext, dense: Diffusion, pruned: Diffusion, config: options.Config) -> None:
    """Distillation from the dense denoiser: the recovered one, and its losses."""
    losses = recover_(pruned, dense, cast(options.DistilRecover, config.recover), ctx)
    cast(Any, pruned.denoiser).save_pretrained(ctx.dir)
    save_file({"loss": torch.tensor(losses)}, ctx.dir / "losses.safetensors")


def refit(
    dense: Diffusion, pruned: Diffusion, plan: Plan, trajectories: int, batch: int, damping: float, ctx: Progress
) -> Mapping[str, float]:
    """`compensate_` over every step of `trajectories` dense runs; changes the weights of `pruned` in place."""
    modules = consumers(dense.groups, plan, shapes_of(dense.denoiser.state_dict()))
    calls = []
    for index in range(-(-trajectories // batch)):
        given = dense.subject.trajectories(index, batch)
        states = roll(dense.denoising, given)
        for i, state in enumerate(states[:-1]):
            calls.append(_call(dense, i, state[0], given))
    with torch.no_grad():
        return compensate_(
            pruned.denoiser,
            dense.denoiser,
            modules,
            calls,
            ctx,
            damping,
            removed=removed_blocks(dense.groups, plan),
        )


def _call(dense: Diffusion, i: int, latents: Tensor, given: Any) -> Any:
    from dataclasses import replace

    return lambda module: replace(dense.denoising, module=module).predict(i, latents, given)


def _save_scores(ctx: StageContext, scores: Scores) -> None:
    save_file({name: score.float().contiguous() for name, score in scores.items()}, ctx.dir / _SCORES)
