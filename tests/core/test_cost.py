"""Costs against tensors that really were narrowed."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gencompress.core.cost import CostModel, Work
from gencompress.core.group import Group, Groups, Slice, shapes_of
from gencompress.core.prune import narrow
from gencompress.core.trace import trace_work
from gencompress.errors import BudgetError, PlanError
from tests.core.nets import Convolutions, Transformer, plan_of, plans, remove

TRANSFORMER, CONVOLUTIONS = Transformer(stages=2, depth=1), Convolutions()
NETS = {"transformer": TRANSFORMER, "convolutions": CONVOLUTIONS}
TYPES = (torch.float32, torch.bfloat16, torch.float64)


def parameters(net):
    """Parameters by name, in three types so that bytes are no multiple of the count."""
    named = net.named_parameters()
    return {name: p.detach().to(TYPES[i % 3]) for i, (name, p) in enumerate(named)}


@cache
def model(net, metric="params"):
    tensors = parameters(net)
    itemsize = {name: p.element_size() for name, p in tensors.items()}
    return CostModel(net.groups(), shapes_of(tensors), metric, traced(net), itemsize)


@cache
def traced(net):
    inputs = net.inputs(batch=1)
    return trace_work(net, lambda: net(*inputs))


def macs(net):
    """MACs of one pass through `net`, from its trace alone."""
    work, sizes = traced(net), {name: p.numel() for name, p in net.named_parameters()}
    return sum(n * sizes[name] for name, n in work.positions.items()) + sum(work.products.values())


@pytest.mark.parametrize("name", NETS)
@given(data=st.data())
def test_params_and_bytes_are_those_of_the_narrowed_tensors(name, data):
    net = NETS[name]
    plan = data.draw(plans(net.groups()))
    names = set(parameters(net))
    buffers = {n: b for n, b in net.state_dict().items() if n not in names}
    left = narrow(parameters(net) | buffers, net.groups(), plan)
    kept = [
        t for n, t in left.items() if not n.endswith((".index", "running_mean", "running_var", "num_batches_tracked"))
    ]
    assert model(net).total(plan.counts) == sum(t.numel() for t in kept)
    assert model(net, "bytes").total(plan.counts) == sum(t.numel() * t.element_size() for t in kept)


@pytest.mark.parametrize("name", NETS)
@given(data=st.data())
def test_macs_are_those_of_the_removed_model(name, data):
    net = NETS[name]
    plan = data.draw(plans(net.groups()))
    assert model(net, "macs").total(plan.counts) == macs(remove(net, net.groups(), plan))


@pytest.mark.parametrize("metric", ["params", "macs", "bytes"])
@pytest.mark.parametrize("name", NETS)
@given(data=st.data())
def test_expected_cost_is_the_total_on_integers(name, metric, data):
    cost = model(NETS[name], metric)
    counts = torch.tensor([data.draw(st.integers(0, g.size)) for g in cost.groups])
    assert cost.expected(counts.double()).item() == cost.total(counts)


@pytest.mark.parametrize("metric", ["params", "macs", "bytes"])
@pytest.mark.parametrize("name", NETS)
def test_gradient_of_the_expected_cost(name, metric):
    cost = model(NETS[name], metric)
    counts = (cost.sizes * torch.rand(len(cost.sizes))).double().requires_grad_()
    assert torch.autograd.gradcheck(cost.expected, counts)


def test_gradient_exists_where_counts_are_zero():
    cost = model(TRANSFORMER)
    counts = torch.zeros(len(cost.sizes), dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(cost.expected, counts)


def test_marginal_cost_is_that_of_one_unit():
    for metric in ("params", "macs"):
        cost = model(CONVOLUTIONS, metric)
        for group in cost.groups:
            one_less = cost.total({group.name: group.size - 1})
            assert cost.marginal()[group.name] == cost.dense - one_less


def test_prunable_is_what_falls_away_with_all_groups():
    cost = model(CONVOLUTIONS)
    sizes = {name: p.numel() for name, p in CONVOLUTIONS.named_parameters()}
    assert cost.dense == sum(sizes.values())
    assert cost.dense - cost.prunable == sizes["last.bias"]
    assert cost.total({}) == cost.dense


def test_a_tensor_sliced_twice_by_one_group_falls_with_the_square():
    groups = Groups((Group("g", "k", 3, (Slice("w", 0), Slice("w", 1, offset=1))),))
    cost = CostModel(groups, {"w": (5, 4)})
    assert [cost.total({"g": n}) for n in range(4)] == [2 * 1, 3 * 2, 4 * 3, 5 * 4]


def test_work_of_a_block_that_multiplies_in_its_own_forward_goes_with_the_block():
    groups = Groups((Group("blocks.1", "depth", 1, min_keep=0, stack="blocks.1."),))
    work = Work({"blocks.1.w": 2}, {"blocks.1": 100, "blocks.1.attn": 10, "blocks.10": 1})
    cost = CostModel(groups, {"blocks.1.w": (3,), "blocks.10.w": (4,)}, "macs", work)
    assert (cost.dense, cost.total({"blocks.1": 0})) == (117, 1)


def test_costs_of_large_models_are_exact():
    groups = Groups((Group("g", "ffn", 10**6 + 1, (Slice("w", 0),)),))
    cost = CostModel(groups, {"w": (10**6 + 1, 10**6 + 3)}, "macs", Work({"w": 4099}, {}))
    assert cost.dense == (10**6 + 1) * (10**6 + 3) * 4099
    assert cost.total({"g": 7}) == 7 * (10**6 + 3) * 4099


def test_no_groups_cost_nothing_less():
    cost = CostModel(Groups(()), {"w": (2, 3)})
    assert (cost.dense, cost.prunable, cost.expected(torch.zeros(0)).item()) == (6, 0, 6.0)


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        ({"metric": "flops"}, BudgetError, "unknown budget metric 'flops'"),
        ({"metric": "macs"}, BudgetError, "needs the traced work"),
        ({"metric": "bytes"}, BudgetError, "item size of every tensor"),
        ({"metric": "bytes", "itemsize": {"v": 4}}, BudgetError, r"lacks \['w'\]"),
        ({"metric": "macs", "work": Work({}, {"attn": 7})}, BudgetError, "'attn' .7 MACs. does not divide into its 3"),
        ({"shapes": {"w": (2, 2)}}, PlanError, "own 3 indices of 'w' dim 0, which has 2"),
        ({"shapes": {"w": ()}}, PlanError, "no dimension 0"),
    ],
)
def test_what_does_not_fit_is_refused(arguments, error, says):
    groups = Groups((Group("g", "head", 3, (Slice("w", 0),), work=("attn",)),))
    with pytest.raises(error, match=says):
        CostModel(groups, **{"shapes": {"w": (3, 2)}, **arguments})


def test_counts_are_checked():
    cost = model(CONVOLUTIONS)
    with pytest.raises(PlanError, match="unknown group 'midd'; did you mean 'mid'"):
        cost.total({"midd": 1})
    with pytest.raises(BudgetError, match="integer counts"):
        cost.total(torch.ones(2))


def test_untouched_plan_costs_the_dense_model():
    assert model(TRANSFORMER, "macs").total(plan_of(TRANSFORMER.groups()).counts) == macs(TRANSFORMER)
