"""The laws on SAM encoders: gates at 0 are removal, costs are known beforehand, budgets are met, results reload."""

from __future__ import annotations

import functools

import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from gencompress.core.budget import Budget, solve
from gencompress.core.cost import Work
from gencompress.core.gate import gated
from gencompress.core.plan import Plan
from gencompress.criteria.magnitude import magnitude_scores
from gencompress.criteria.random import random_scores
from gencompress.domains.sam.configs import why_not_stock
from gencompress.domains.sam.costs import cost_model, trace
from gencompress.domains.sam.domain import Sam
from gencompress.domains.sam.families import FAMILIES, KINDS, family_of
from gencompress.domains.sam.groups import groups_of
from gencompress.domains.sam.removal import remove, with_encoder
from gencompress.errors import BudgetError
from tests.domains.sam.tiny import embed, pixels, tiny_sam, tiny_sam2
from tests.laws.denoisers import plans, relative

law = settings(deadline=None, derandomize=True, suppress_health_check=list(HealthCheck), database=None)
MODELS = {"sam": tiny_sam, "sam2": tiny_sam2}
BY_DIM = ("width", "head_dim", "ffn", "depth")
BY_HEAD = ("width", "head", "ffn", "depth")
CASES = [("sam", BY_DIM), ("sam", BY_HEAD), ("sam2", BY_DIM)]
WIDTHS = [(name, kinds[:3]) for name, kinds in CASES]
named = pytest.mark.parametrize(("name", "kinds"), CASES)


@functools.cache
def encoder(name, attention="sdpa"):
    """One instance per process; no test changes it."""
    return MODELS[name](attention).vision_encoder


@functools.cache
def costed(name, kinds, metric, uniform=False):
    sam = Sam(MODELS[name](), kinds, uniform=uniform)
    return sam, sam.cost(metric)


@functools.cache
def linear(name, kinds):
    """MACs without the products of attention."""
    return cost_model(encoder(name), groups_of(encoder(name), kinds), "macs", attention=False)


def drawn(data, groups):
    """Any plan that leaves something of residual streams: nothing or everything of all other groups."""
    plan = data.draw(plans(groups))
    emptied = [g.name for g in groups.of_kind("width") if not len(plan.keep[g.name])]
    return Plan({**plan.keep, **{name: torch.tensor([0]) for name in emptied}}, plan.sizes)


def spent(module: torch.nn.Module, work: Work) -> int:
    sizes = {n: p.numel() for n, p in module.named_parameters()}
    return sum(sizes[n] * count for n, count in work.positions.items()) + sum(work.products.values())


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@named
@settings(law, max_examples=6)
@given(data=st.data())
def test_removed_is_masked_and_costs_what_was_foretold(name, kinds, attention, data):
    dense = encoder(name, attention)
    groups = groups_of(dense, kinds)
    assert all(g.exact for g in groups) and {g.kind for g in groups} == set(kinds)
    plan = drawn(data, groups)
    small = remove(dense, groups, plan)

    with gated(dense, groups, plan.masks()):
        masked = embed(dense, pixels())
    assert relative(embed(small, pixels()), masked) <= 1e-5

    parameters, work = list(small.parameters()), trace(small)
    foretold = {metric: costed(name, kinds, metric)[1].total(plan.counts) for metric in ("params", "bytes", "macs")}
    assert foretold == {
        "params": sum(p.numel() for p in parameters),
        "bytes": sum(p.numel() * p.element_size() for p in parameters),
        "macs": spent(small, work),
    }
    assert linear(name, kinds).total(plan.counts) == spent(small, Work(work.positions, {}))


@named
@settings(law, max_examples=4)
@given(data=st.data())
def test_macs_are_those_that_torch_counts(name, kinds, data):
    dense = encoder(name, "eager")
    groups = groups_of(dense, kinds)
    plan = drawn(data, groups)
    # torch's einsum multiplies element by element, uncounted, where it would sum over a single dimension
    assume(all(plan.counts[g.name] != 1 for g in groups.of_kind("head_dim")))
    small = remove(dense, groups, plan)
    with FlopCounterMode(display=False) as counter:
        embed(small, pixels(1))
    assert costed(name, kinds, "macs")[1].total(plan.counts) == counter.get_total_flops() / 2


@named
@settings(law, max_examples=4)
@given(data=st.data())
def test_in_double_precision_the_difference_is_rounding(name, kinds, data):
    dense = MODELS[name]().vision_encoder.double()
    groups = groups_of(dense, kinds)
    plan = drawn(data, groups)
    with gated(dense, groups, plan.masks(torch.float64)):
        masked = embed(dense, pixels(dtype=torch.float64))
    assert relative(embed(remove(dense, groups, plan), pixels(dtype=torch.float64)), masked) <= 1e-10


@pytest.mark.parametrize(("name", "kinds"), WIDTHS)
@settings(law, max_examples=4)
@given(data=st.data())
def test_pruning_twice_is_pruning_once(name, kinds, data):
    dense = encoder(name)
    groups = groups_of(dense, kinds)
    first = drawn(data, groups)
    once = remove(dense, groups, first)
    left = groups_of(once, kinds)
    second = drawn(data, left)
    twice = remove(once, left, second)
    keep = {g.name: first.keep[g.name][second.keep.get(g.name, slice(None))] for g in groups}
    direct = remove(dense, groups, Plan(keep, dict(first.sizes)))
    assert relative(embed(twice, pixels()), embed(direct, pixels())) <= 1e-5
    assert {n: p.shape for n, p in twice.named_parameters()} == {n: p.shape for n, p in direct.named_parameters()}


@named
@settings(law, max_examples=4)
@given(data=st.data())
def test_both_attention_backends_agree_after_removal(name, kinds, data):
    groups = groups_of(encoder(name, "eager"), kinds)
    plan = drawn(data, groups)
    eager, sdpa = (remove(encoder(name, attention), groups, plan) for attention in ("eager", "sdpa"))
    assert relative(embed(eager, pixels()), embed(sdpa, pixels())) <= 1e-5


@named
@settings(law, max_examples=3)
@given(data=st.data())
def test_saved_and_loaded_is_equal(name, kinds, data, tmp_path_factory):
    model = MODELS[name]()
    groups = groups_of(model.vision_encoder, kinds)
    small = with_encoder(model, remove(model.vision_encoder, groups, drawn(data, groups)))
    folder = tmp_path_factory.mktemp("saved")
    small.save_pretrained(folder)
    loaded, info = type(model).from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    loaded.requires_grad_(False)
    ours, theirs = small.state_dict(), loaded.state_dict()
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)
    assert torch.equal(embed(small.vision_encoder, pixels()), embed(loaded.vision_encoder, pixels()))


@settings(law, max_examples=24)
@given(
    case=st.sampled_from(WIDTHS),
    keep=st.floats(0.2, 1.0),
    metric=st.sampled_from(["params", "macs", "bytes"]),
    scope=st.sampled_from(["prunable", "total"]),
)
def test_uniform_budgets_are_met_within_one_step_by_stock_models(case, keep, metric, scope):
    sam, cost = costed(*case, metric, uniform=True)
    scores = magnitude_scores(dict(sam.encoder.named_parameters()), sam.groups)
    budget = Budget(metric=metric, keep=keep, scope=scope, uniform=True)
    try:
        plan = solve(sam.groups, scores, budget, cost, sam.source)
    except BudgetError as error:
        assert "reach" in str(error)
        assume(False)
    small = sam.prune(plan)  # raises if its config is not a stock one
    assert not hasattr(small.encoder.config, "pruning")
    assert all(plan.counts[g.name] % 8 == 0 for g in sam.groups.of_kind("width", "ffn"))
    assert cost.total(plan.counts) == plan.budget["reached"] <= budget.limit(cost)
    if metric == "params":
        assert sum(p.numel() for p in small.encoder.parameters()) == plan.budget["reached"]

    wider = []  # what is narrowed together is widened by one step together
    for together in {g.tie or g.kind for g in sam.groups}:
        step = {g.name: plan.counts[g.name] + g.round_to for g in sam.groups if (g.tie or g.kind) == together}
        if all(count <= sam.groups.by_name[name].size for name, count in step.items()):
            wider.append(cost.total({**plan.counts, **step}))
    assert not wider or max(wider) > budget.limit(cost)


@settings(law, max_examples=20)
@given(
    case=st.sampled_from(WIDTHS),
    keep=st.floats(0.1, 1.0),
    metric=st.sampled_from(["params", "macs", "bytes"]),
    round_to=st.sampled_from([None, 4]),
    seed=st.integers(0, 99),
)
def test_budgets_per_layer_are_met_within_one_step_of_every_group(case, keep, metric, round_to, seed):
    sam, cost = costed(*case, metric)
    budget = Budget(metric=metric, keep=keep, round_to=round_to)
    try:
        plan = solve(sam.groups, random_scores(sam.groups, seed), budget, cost)
    except BudgetError as error:
        assert "reach" in str(error)
        assume(False)
    assert cost.total(plan.counts) == plan.budget["reached"] <= budget.limit(cost)
    for group in sam.groups:
        kept = plan.counts[group.name]
        if kept < group.size:
            step = min(kept + (round_to or 1) - kept % (round_to or 1), group.size)
            assert cost.total({**plan.counts, group.name: step}) > budget.limit(cost)


@pytest.mark.parametrize("name", MODELS)
def test_a_plan_that_keeps_everything_gives_an_equal_stock_encoder(name):
    groups = groups_of(encoder(name), BY_DIM)
    everything = Plan({g.name: torch.arange(g.size) for g in groups}, {g.name: g.size for g in groups})
    small = remove(encoder(name), groups, everything)
    assert why_not_stock(small) is None and not hasattr(small.config, "pruning")
    assert torch.equal(embed(small, pixels()), embed(encoder(name), pixels()))


def test_every_family_and_kind_is_covered():
    assert {family_of(encoder(name)).native for name in MODELS} == set(FAMILIES)
    assert {(name, kind) for name, kinds in CASES for kind in kinds} == {
        (name, kind) for name in MODELS for kind in family_of(encoder(name)).kinds
    } and set(KINDS) == {kind for _, kinds in CASES for kind in kinds}
