"""The laws on StyleGAN2: gates on styles are removal, costs are known beforehand, budgets are met, results reload."""

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
from gencompress.criteria.random import random_scores
from gencompress.domains.stylegan.costs import cost_model, trace
from gencompress.domains.stylegan.domain import StyleGan
from gencompress.domains.stylegan.groups import KINDS, groups_of
from gencompress.domains.stylegan.load import Networks
from gencompress.domains.stylegan.model import Generator
from gencompress.domains.stylegan.removal import remove
from gencompress.errors import BudgetError
from tests.domains.stylegan.tiny import DIM, normal, tiny_generator
from tests.laws.denoisers import plans, relative

law = settings(deadline=None, derandomize=True, suppress_health_check=list(HealthCheck), database=None)
batches = pytest.mark.parametrize("batch", [1, 2])  # a single sample has weights of its own in large layers


@functools.cache
def dense(dtype=torch.float32):
    """One instance per process; no test changes it."""
    return tiny_generator().to(dtype)


def drawn(data, groups):
    """Any plan that leaves a channel of every layer."""
    plan = data.draw(plans(groups))
    return Plan({n: k if len(k) else torch.tensor([plan.sizes[n] - 1]) for n, k in plan.keep.items()}, plan.sizes)


def spent(generator: Generator, work: Work) -> int:
    sizes = {n: p.numel() for n, p in generator.named_parameters()}
    return sum(sizes[n] * count for n, count in work.positions.items()) + sum(work.products.values())


@batches
@settings(law, max_examples=15)
@given(data=st.data())
def test_removed_is_masked(batch, data):
    groups = groups_of(dense())
    plan = drawn(data, groups)
    z = normal(batch, DIM)
    with gated(dense(), groups, plan.masks()):
        masked = dense()(z)
    assert relative(remove(dense(), groups, plan)(z), masked) <= 1e-5


@batches
@settings(law, max_examples=15)
@given(data=st.data())
def test_in_double_precision_the_difference_is_rounding(batch, data):
    groups = groups_of(dense(torch.float64))
    plan = drawn(data, groups)
    z = normal(batch, DIM, dtype=torch.float64)
    with gated(dense(torch.float64), groups, plan.masks(torch.float64)):
        masked = dense(torch.float64)(z)
    assert relative(remove(dense(torch.float64), groups, plan)(z), masked) <= 1e-12


@pytest.mark.parametrize("index", range(6))
def test_every_group_alone(index):
    """Each group's gate does what its removal does, and something at all."""
    generator, groups = dense(torch.float64), groups_of(dense(torch.float64))
    keep = {g.name: torch.arange(g.size)[: g.size - 2 if i == index else None] for i, g in enumerate(groups)}
    plan, z = Plan(keep, {g.name: g.size for g in groups}), normal(2, DIM, dtype=torch.float64)
    with gated(generator, groups, {groups[index].name: plan.masks(torch.float64)[groups[index].name]}):
        masked = generator(z)
    assert relative(remove(generator, groups, plan)(z), masked) <= 1e-12
    assert relative(masked, generator(z)) > 1e-3


def test_gates_per_sample():
    groups, z = groups_of(dense(torch.float64)), normal(3, DIM, dtype=torch.float64)
    gates = {g.name: (normal(3, g.size, seed=i) > 0).double() for i, g in enumerate(groups)}
    with gated(dense(torch.float64), groups, gates):
        together = dense(torch.float64)(z)
    for i in range(3):
        with gated(dense(torch.float64), groups, {name: gate[i] for name, gate in gates.items()}):
            assert relative(dense(torch.float64)(z[i : i + 1]), together[i : i + 1]) <= 1e-12


def test_masking_features_instead_of_styles_is_not_removal():
    """Why gates are where they are: the norm of the weights would count the channels that are gone."""
    generator, groups = dense(torch.float64), groups_of(dense(torch.float64))
    keep = {g.name: torch.arange(3 if g.name == "conv1" else g.size) for g in groups}
    plan, z = Plan(keep, {g.name: g.size for g in groups}), normal(2, DIM, dtype=torch.float64)
    mask = plan.masks(torch.float64)["conv1"][None, :, None, None]
    handle = generator.conv1.register_forward_hook(lambda module, args, out: out * mask)
    try:
        assert relative(generator(z), remove(generator, groups, plan)(z)) > 1e-2
    finally:
        handle.remove()


def test_without_its_gain_folded_the_step_to_rgb_changes():
    """sqrt(C_kept / C) is in the weights of what is left, since the layer itself divides by sqrt(C_kept)."""
    groups = groups_of(dense())
    keep = {g.name: torch.arange(2 if g.name == "convs.1" else g.size) for g in groups}
    small = remove(dense(), groups, Plan(keep, {g.name: g.size for g in groups}))
    assert torch.allclose(small.to_rgbs[0].conv.weight, dense().to_rgbs[0].conv.weight[:, :, :2] * (2 / 5) ** 0.5)
    assert torch.equal(small.convs[2].conv.weight, dense().convs[2].conv.weight[:, :, :2])


@settings(law, max_examples=10)
@given(data=st.data())
def test_the_mapping_and_all_latents_stay(data):
    groups = groups_of(dense())
    small = remove(dense(), groups, drawn(data, groups))
    z = normal(3, DIM)
    w = dense().mapping(z)
    assert torch.equal(small.mapping(z), w) and torch.equal(small.latent_avg, dense().latent_avg)
    assert torch.equal(small.mean_latent(100), dense().mean_latent(100))
    plus = normal(2, dense().config.latents, DIM)  # as a projector finds it
    for codes in (w, plus):
        assert small(codes, space="w").shape == dense()(codes, space="w").shape
    for ours, theirs in zip(small.noises.buffers(), dense().noises.buffers(), strict=True):
        assert torch.equal(ours, theirs) and ours.data_ptr() != theirs.data_ptr()


@batches
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_plan_that_keeps_everything_changes_nothing(batch, dtype):
    generator = dense(dtype)
    groups = groups_of(generator)
    everything = Plan({g.name: torch.arange(g.size) for g in groups}, {g.name: g.size for g in groups})
    small = remove(generator, groups, everything)
    ours, theirs = small.state_dict(), generator.state_dict()
    assert small.config == generator.config and all(torch.equal(ours[n], theirs[n]) for n in theirs)
    assert torch.equal(small(normal(batch, DIM)), generator(normal(batch, DIM)))


@settings(law, max_examples=10)
@given(data=st.data(), dtype=st.sampled_from([torch.float32, torch.float16]))
def test_costs_are_what_was_foretold(data, dtype):
    generator = dense(dtype)
    groups = groups_of(generator)
    assert all(g.exact for g in groups) and {g.kind for g in groups} == set(KINDS)
    plan = drawn(data, groups)
    small = remove(generator, groups, plan)
    parameters = list(small.parameters())
    foretold = {
        metric: cost_model(generator, groups, metric).total(plan.counts) for metric in ("params", "bytes", "macs")
    }
    assert foretold == {
        "params": sum(p.numel() for p in parameters),
        "bytes": sum(p.numel() * p.element_size() for p in parameters),
        "macs": spent(small, trace(small)),
    }
    without = cost_model(generator, groups, "macs", filters=False).total(plan.counts)
    assert without == spent(small, trace(small, filters=False)) < foretold["macs"]


@settings(law, max_examples=8)
@given(data=st.data())
def test_macs_are_those_that_torch_counts(data):
    groups = groups_of(dense())
    plan = drawn(data, groups)
    small = remove(dense(), groups, plan)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        small(normal(1, DIM))
    assert cost_model(dense(), groups, "macs").total(plan.counts) == counter.get_total_flops() / 2


@settings(law, max_examples=8)
@given(data=st.data())
def test_pruning_twice_is_pruning_once(data):
    groups = groups_of(dense(torch.float64))
    first = drawn(data, groups)
    once = remove(dense(torch.float64), groups, first)
    left = groups_of(once)
    second = drawn(data, left)
    twice = remove(once, left, second)
    keep = {g.name: first.keep[g.name][second.keep[g.name]] for g in groups}
    direct = remove(dense(torch.float64), groups, Plan(keep, dict(first.sizes)))
    z = normal(2, DIM, dtype=torch.float64)
    assert twice.config == direct.config and relative(twice(z), direct(z)) <= 1e-12


@settings(law, max_examples=5)
@given(data=st.data())
def test_saved_and_loaded_is_equal(data, tmp_path_factory):
    groups = groups_of(dense())
    small = remove(dense(), groups, drawn(data, groups))
    folder = tmp_path_factory.mktemp("saved") / "g"
    small.save_pretrained(folder)
    loaded = Generator.from_pretrained(folder)
    ours, theirs = small.state_dict(), loaded.state_dict()
    assert loaded.config == small.config
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[n], theirs[n]) for n in ours)
    assert relative(loaded(normal(2, DIM)), small(normal(2, DIM))) <= 1e-6


@settings(law, max_examples=24)
@given(
    keep=st.floats(0.1, 1.0),
    metric=st.sampled_from(["params", "macs", "bytes"]),
    round_to=st.sampled_from([1, 2]),
    uniform=st.booleans(),
    seed=st.integers(0, 99),
)
def test_budgets_are_met_within_one_step(keep, metric, round_to, uniform, seed):
    gan = StyleGan(Networks(tiny_generator((24, 24, 24, 24, 16, 16))), round_to=round_to)
    cost, budget = gan.cost(metric), Budget(metric=metric, keep=keep, uniform=uniform)
    try:
        plan = solve(gan.groups, random_scores(gan.groups, seed), budget, cost, gan.source)
    except BudgetError as error:
        assert "reach" in str(error)
        assume(False)
    small = gan.prune(plan)
    assert cost.total(plan.counts) == plan.budget["reached"] <= budget.limit(cost)
    assert small.cost(metric).dense == plan.budget["reached"]
    if not uniform:
        for group in gan.groups:
            kept = plan.counts[group.name]
            assert kept % round_to == 0 or kept == 1
            if kept < group.size:
                step = min(kept + round_to - kept % round_to, group.size)
                assert cost.total({**plan.counts, group.name: step}) > budget.limit(cost)
