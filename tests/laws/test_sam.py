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
from gencompress.domains.sam.costs import cost_model, trace
from gencompress.domains.sam.domain import Sam
from gencompress.domains.sam.groups import KINDS, groups_of
from gencompress.domains.sam.removal import remove, why_not_stock, with_encoder
from gencompress.errors import BudgetError
from tests.domains.sam.tiny import embed, pixels, tiny_sam
from tests.laws.denoisers import plans, relative

law = settings(deadline=None, derandomize=True, suppress_health_check=list(HealthCheck), database=None)
BY_DIM = ("width", "head_dim", "ffn", "depth")
BY_HEAD = ("width", "head", "ffn", "depth")
CASES = [(BY_DIM, "eager"), (BY_DIM, "sdpa"), (BY_HEAD, "eager"), (BY_HEAD, "sdpa")]


@functools.cache
def encoder(attention="sdpa"):
    """One instance per process; no test changes it."""
    return tiny_sam(attention).vision_encoder


def drawn(data, groups):
    """Any plan that leaves a residual stream: nothing or everything of all other groups."""
    plan = data.draw(plans(groups))
    if "residual" in plan.keep and not len(plan.keep["residual"]):
        plan = Plan({**plan.keep, "residual": torch.tensor([0])}, plan.sizes)
    return plan


@functools.cache
def costs(kinds, attention):
    """Cost models of every kind; MACs with the products of attention and without."""
    dense = encoder(attention)
    groups = groups_of(dense, kinds)
    found = {metric: cost_model(dense, groups, metric) for metric in ("params", "bytes", "macs")}
    return found | {"linear": cost_model(dense, groups, "macs", attention=False)}


@functools.cache
def costed(kinds, metric, uniform=False):
    sam = Sam(tiny_sam(), kinds, uniform=uniform)
    return sam, sam.cost(metric)


def spent(module: torch.nn.Module, work: Work) -> int:
    sizes = {n: p.numel() for n, p in module.named_parameters()}
    return sum(sizes[n] * count for n, count in work.positions.items()) + sum(work.products.values())


@pytest.mark.parametrize(("kinds", "attention"), CASES)
@settings(law, max_examples=8)
@given(data=st.data())
def test_removed_is_masked_and_costs_what_was_foretold(kinds, attention, data):
    dense = encoder(attention)
    groups = groups_of(dense, kinds)
    assert all(g.exact for g in groups) and {g.kind for g in groups} == set(kinds) <= set(KINDS)
    plan = drawn(data, groups)
    small = remove(dense, groups, plan)

    with gated(dense, groups, plan.masks()):
        masked = embed(dense, pixels())
    assert relative(embed(small, pixels()), masked) <= 1e-5

    parameters, work = list(small.parameters()), trace(small)
    foretold = {name: cost.total(plan.counts) for name, cost in costs(kinds, attention).items()}
    assert foretold == {
        "params": sum(p.numel() for p in parameters),
        "bytes": sum(p.numel() * p.element_size() for p in parameters),
        "macs": spent(small, work),
        "linear": spent(small, Work(work.positions, {})),
    }


@pytest.mark.parametrize("kinds", [BY_DIM, BY_HEAD])
@settings(law, max_examples=4)
@given(data=st.data())
def test_macs_are_those_that_torch_counts(kinds, data):
    dense = encoder("eager")
    groups = groups_of(dense, kinds)
    plan = drawn(data, groups)
    # torch's einsum multiplies element by element, uncounted, where it would sum over a single dimension
    assume(all(plan.counts[g.name] != 1 for g in groups.of_kind("head_dim")))
    small = remove(dense, groups, plan)
    with FlopCounterMode(display=False) as counter:
        embed(small, pixels(1))
    assert costs(kinds, "eager")["macs"].total(plan.counts) == counter.get_total_flops() / 2


@settings(law, max_examples=4)
@given(data=st.data())
def test_in_double_precision_the_difference_is_rounding(data):
    dense = tiny_sam("sdpa").vision_encoder.double()
    groups = groups_of(dense)
    plan = drawn(data, groups)
    with gated(dense, groups, plan.masks(torch.float64)):
        masked = embed(dense, pixels(dtype=torch.float64))
    assert relative(embed(remove(dense, groups, plan), pixels(dtype=torch.float64)), masked) <= 1e-12


@pytest.mark.parametrize("kinds", [BY_DIM[:3], BY_HEAD[:3]])
@settings(law, max_examples=4)
@given(data=st.data())
def test_pruning_twice_is_pruning_once(kinds, data):
    dense = encoder()
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


@settings(law, max_examples=4)
@given(data=st.data())
def test_both_attention_backends_agree_after_removal(data):
    groups = groups_of(encoder("eager"), BY_DIM)
    plan = drawn(data, groups)
    eager, sdpa = (remove(encoder(name), groups_of(encoder(name), BY_DIM), plan) for name in ("eager", "sdpa"))
    assert type(eager.layers) is type(sdpa.layers)
    assert relative(embed(eager, pixels()), embed(sdpa, pixels())) <= 1e-5


@settings(law, max_examples=3)
@given(data=st.data())
def test_saved_and_loaded_is_equal(data, tmp_path_factory):
    model = tiny_sam()
    groups = groups_of(model.vision_encoder, BY_DIM)
    small = with_encoder(model, remove(model.vision_encoder, groups, drawn(data, groups)))
    folder = tmp_path_factory.mktemp("saved")
    small.save_pretrained(folder)
    loaded, info = type(model).from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    loaded.requires_grad_(False)
    ours, theirs = small.state_dict(), loaded.state_dict()
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)
    assert torch.equal(embed(small.vision_encoder, pixels()), embed(loaded.vision_encoder, pixels()))


@settings(law, max_examples=20)
@given(
    keep=st.floats(0.2, 1.0),
    metric=st.sampled_from(["params", "macs", "bytes"]),
    scope=st.sampled_from(["prunable", "total"]),
    kinds=st.sampled_from([BY_DIM[:3], BY_HEAD[:3]]),
)
def test_uniform_budgets_are_met_within_one_step_by_stock_models(keep, metric, scope, kinds):
    sam, cost = costed(kinds, metric, uniform=True)
    scores = magnitude_scores(dict(sam.encoder.named_parameters()), sam.groups)
    budget = Budget(metric=metric, keep=keep, scope=scope, uniform=True)
    try:
        plan = solve(sam.groups, scores, budget, cost, sam.source)
    except BudgetError as error:
        assert "reach" in str(error)
        assume(False)
    small = sam.prune(plan)  # raises if its config is not a stock one
    config = small.encoder.config
    assert config.hidden_size % 8 == config.mlp_dim % 8 == config.hidden_size % config.num_attention_heads == 0
    assert not hasattr(config, "pruning")
    assert cost.total(plan.counts) == plan.budget["reached"] <= budget.limit(cost)
    if metric == "params":
        assert sum(p.numel() for p in small.encoder.parameters()) == plan.budget["reached"]

    wider = []
    for kinds_of_step in ({"ffn"}, {"width", "head", "head_dim"}):
        step = {g.name: plan.counts[g.name] + g.round_to for g in sam.groups if g.kind in kinds_of_step}
        if all(step[name] <= sam.groups.by_name[name].size for name in step):
            wider.append(cost.total({**plan.counts, **step}))
    assert not wider or max(wider) > budget.limit(cost)


@settings(law, max_examples=15)
@given(
    keep=st.floats(0.1, 1.0),
    metric=st.sampled_from(["params", "macs", "bytes"]),
    round_to=st.sampled_from([None, 4]),
    seed=st.integers(0, 99),
)
def test_budgets_per_layer_are_met_within_one_step_of_every_group(keep, metric, round_to, seed):
    sam, cost = costed(BY_DIM[:3], metric)
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
            assert cost.total({**plan.counts, group.name: kept + (round_to or 1)}) > budget.limit(cost)


def test_a_plan_that_keeps_everything_gives_an_equal_stock_encoder():
    groups = groups_of(encoder(), BY_DIM)
    small = remove(
        encoder(), groups, Plan({g.name: torch.arange(g.size) for g in groups}, {g.name: g.size for g in groups})
    )
    assert why_not_stock(small) is None and not hasattr(small.config, "pruning")
    assert torch.equal(embed(small, pixels()), embed(encoder(), pixels()))
