"""The laws of removal: for every family and any plan, gates at 0 are removal, and its cost is known beforehand."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gencompress.core.cost import Work
from gencompress.core.gate import gated
from gencompress.core.group import Groups
from gencompress.core.plan import Plan
from gencompress.domains.diffusion.costs import cost_model, trace
from gencompress.domains.diffusion.families import FAMILIES, KINDS, family_of
from gencompress.domains.diffusion.groups import groups_of
from gencompress.domains.diffusion.removal import remove
from gencompress.errors import ConfigError
from tests.laws.denoisers import DEEP, NAMES, WIDTHS, denoiser, inputs, plans, relative, run

TOLERANCE = 1e-5
CASES = [(name, (*WIDTHS, "depth") if name in DEEP else WIDTHS) for name in NAMES] + [("dit", ("depth",))]
law = settings(deadline=None, derandomize=True, suppress_health_check=list(HealthCheck), database=None)


@pytest.fixture(scope="module", params=CASES, ids=lambda case: "-".join((case[0], *case[1][-1:])))
def case(request):
    name, kinds = request.param
    groups = groups_of(denoiser(name), kinds)
    assert all(g.exact for g in groups)
    costs = {metric: cost_model(denoiser(name), groups, metric) for metric in ("params", "macs", "bytes")}
    return name, groups, costs, inputs(name)


def spent(module: torch.nn.Module, work: Work) -> int:
    sizes = {n: p.numel() for n, p in module.named_parameters()}
    return sum(sizes[n] * count for n, count in work.positions.items()) + sum(work.products.values())


@settings(law, max_examples=8)
@given(data=st.data())
def test_removed_is_masked_and_costs_what_was_foretold(case, data):
    name, groups, costs, given_inputs = case
    plan = data.draw(plans(groups))
    small = remove(denoiser(name), groups, plan)

    with gated(denoiser(name), groups, plan.masks()):
        masked = run(denoiser(name), given_inputs)
    assert relative(run(small, given_inputs), masked) <= TOLERANCE

    parameters = list(small.parameters())
    assert costs["params"].total(plan.counts) == sum(p.numel() for p in parameters)
    assert costs["bytes"].total(plan.counts) == sum(p.numel() * p.element_size() for p in parameters)
    assert costs["macs"].total(plan.counts) == spent(small, trace(small))


@settings(law, max_examples=3)
@given(data=st.data())
def test_pruning_twice_is_pruning_once(case, data):
    name, groups, _, given_inputs = case
    first = data.draw(plans(groups))
    once = remove(denoiser(name), groups, first)
    left = groups_of_or_none(once, {g.kind for g in groups})
    if left is None:
        return
    second = data.draw(plans(left))
    twice = remove(once, left, second)

    with gated(once, left, second.masks()):
        assert relative(run(twice, given_inputs), run(once, given_inputs)) <= TOLERANCE
    if not any(g.kind == "depth" for g in groups):  # removed blocks rename those behind them
        direct = remove(denoiser(name), groups, joined(groups, first, second))
        assert torch.equal(run(twice, given_inputs), run(direct, given_inputs))
        assert twice.config.get("pruning") == direct.config.get("pruning")


def groups_of_or_none(module, kinds):
    """The groups that are left, None where a plan left no unit at all."""
    try:
        return groups_of(module, kinds)
    except ConfigError:
        return None


def joined(groups: Groups, first: Plan, second: Plan) -> Plan:
    """What both plans keep, in units of the dense model."""
    keep = {g.name: first.keep[g.name][second.keep.get(g.name, slice(None))] for g in groups}
    return Plan(keep, dict(first.sizes))


@settings(law, max_examples=2)
@given(data=st.data())
def test_saved_and_loaded_is_equal(case, data, tmp_path_factory):
    name, groups, _, given_inputs = case
    small = remove(denoiser(name), groups, data.draw(plans(groups)))
    folder = tmp_path_factory.mktemp("saved")
    small.save_pretrained(folder)
    loaded, info = type(small).from_pretrained(folder, output_loading_info=True)

    assert not info["missing_keys"] and not info["unexpected_keys"]
    loaded.requires_grad_(False)  # as `small` is: matmul adds up in another order where weights want gradients
    ours, theirs = small.state_dict(), loaded.state_dict()
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)
    assert torch.equal(run(loaded, given_inputs), run(small, given_inputs))


def test_every_family_and_kind_is_covered():
    assert {family_of(denoiser(name)).native for name, _ in CASES} == set(FAMILIES)
    assert {g.kind for name, wanted in CASES for g in groups_of(denoiser(name), wanted)} == set(KINDS)
