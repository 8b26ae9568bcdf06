"""The laws of budgets on real denoisers: met, within one step, and true of the model that is then made."""

from __future__ import annotations

import functools

import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from gencompress.core.budget import Budget, solve
from gencompress.core.plan import Plan, fingerprint
from gencompress.domains.diffusion.costs import cost_model
from gencompress.domains.diffusion.groups import groups_of
from gencompress.domains.diffusion.removal import remove
from gencompress.errors import BudgetError
from tests.laws.denoisers import denoiser

law = settings(deadline=None, derandomize=True, suppress_health_check=list(HealthCheck), database=None)


@functools.cache
def costed(name, metric, kinds=None):
    groups = groups_of(denoiser(name), kinds)
    return groups, cost_model(denoiser(name), groups, metric)


def scores_for(groups, seed):
    generator = torch.Generator().manual_seed(seed)
    return {g.name: torch.rand(g.size, generator=generator) for g in groups}


@pytest.mark.parametrize("name", ["ddpm", "sdxl", "sd3-dual", "flux", "sana"])
@settings(law, max_examples=15)
@given(
    keep=st.floats(0.05, 1.0),
    metric=st.sampled_from(["params", "macs", "bytes"]),
    scope=st.sampled_from(["prunable", "total"]),
    round_to=st.sampled_from([None, 2, 3]),
    seed=st.integers(0, 99),
)
def test_reached_is_within_one_step_of_asked(name, keep, metric, scope, round_to, seed):
    groups, cost = costed(name, metric)
    budget = Budget(metric=metric, keep=keep, scope=scope, round_to=round_to)
    try:
        plan = solve(groups, scores_for(groups, seed), budget, cost)
    except BudgetError as error:
        assert "reach" in str(error)  # says what can be reached; that it could not be met is checked here
        assume(False)
    limit, counts = budget.limit(cost), plan.counts
    assert cost.total(counts) == plan.budget["reached"] <= limit
    for group in groups:
        kept = counts[group.name]
        if kept < group.size:
            step = min(kept + (round_to or 1) - kept % (round_to or 1), group.size)
            assert cost.total({**counts, group.name: step}) > limit


@pytest.mark.parametrize("name", ["sd", "dit", "flux"])
def test_the_model_that_is_made_has_the_cost_that_was_reached(name):
    kinds = ("head", "ffn", "resnet", "time", "adaln")
    groups, cost = costed(name, "params", kinds)
    plan = solve(groups, scores_for(groups, 0), Budget(keep=0.6), cost, source=fingerprint(denoiser(name).state_dict()))
    small = remove(denoiser(name), groups, plan)
    assert sum(p.numel() for p in small.parameters()) == plan.budget["reached"]


@pytest.mark.parametrize("name", ["sd", "flux"])
def test_a_plan_read_back_makes_the_same_model(name):
    groups, cost = costed(name, "macs")
    plan = solve(groups, scores_for(groups, 1), Budget(metric="macs", keep=0.5), cost)
    again = Plan.from_json(plan.to_json())
    first, second = (remove(denoiser(name), groups, p).state_dict() for p in (plan, again))
    assert first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


def test_whole_blocks_go_before_the_budget_is_missed():
    groups, cost = costed("flux-joint", "params", ("depth",))
    plan = solve(groups, scores_for(groups, 0), Budget(keep=0.5), cost)
    small = remove(denoiser("flux-joint"), groups, plan)
    assert type(small).__name__ == "FluxTransformer2DModel"
    assert sum(p.numel() for p in small.parameters()) == plan.budget["reached"]
