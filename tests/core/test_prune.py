"""The law of the house: the model gated with hard 0/1 gates equals the model from which the units were removed."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from gencompress.core.gate import gated
from gencompress.core.group import Group, Groups, Rescale, Slice, shapes_of
from gencompress.core.plan import Plan
from gencompress.core.prune import complement, kept_indices, narrow, removed_blocks, renamed, resize_spec
from gencompress.core.resize import ScatterLinear
from gencompress.errors import PlanError
from tests.core.nets import Convolutions, Transformer, block_groups, distance, plan_of, plans, remove

NETS = {"transformer": Transformer(), "convolutions": Convolutions()}


def masked(net: nn.Module, groups: Groups, plan: Plan, inputs) -> torch.Tensor:
    with torch.no_grad(), gated(net, groups, plan.masks()):
        return net(*inputs)


@torch.no_grad()
def run(net: nn.Module, inputs) -> torch.Tensor:
    return net(*inputs)


@pytest.mark.parametrize("name", NETS)
@given(data=st.data())
def test_removed_equals_gated(name, data):
    net = NETS[name]
    plan, inputs = data.draw(plans(net.groups())), net.inputs()
    pruned = remove(net, net.groups(), plan)
    assert distance(run(pruned, inputs), masked(net, net.groups(), plan, inputs)) < 1e-5


@given(data=st.data())
def test_pruned_networks_may_be_pruned_again(data):
    net, inputs = NETS["convolutions"], NETS["convolutions"].inputs()
    once = remove(net, net.groups(), data.draw(plans(net.groups())))
    plan = data.draw(plans(once.groups()))
    assert distance(run(remove(once, once.groups(), plan), inputs), masked(once, once.groups(), plan, inputs)) < 1e-5


def widths(net: Transformer) -> Groups:
    """All groups of a transformer but the stages and blocks as a whole."""
    shapes = shapes_of(net.state_dict())
    paths = [n for n, m in net.named_modules() if n.endswith(tuple(f"blocks.{i}" for i in range(9)))]
    return Groups(tuple(g for path in paths for g in block_groups(path, shapes) if g.kind != "depth"))


@given(data=st.data())
def test_scattered_outputs_compose_when_pruned_again(data):
    net = Transformer(stages=1, depth=1)
    inputs = net.inputs()
    first = data.draw(plans(widths(net)))
    once = remove(net, widths(net), first)
    second = data.draw(plans(widths(once)))
    twice = remove(once, widths(once), second)
    assert distance(run(twice, inputs), masked(once, widths(once), second, inputs)) < 1e-5
    both = {n: first.keep[n][second.keep[n]].tolist() for n in first.keep}
    direct = remove(net, widths(net), plan_of(widths(net), both))
    assert distance(run(twice, inputs), run(direct, inputs)) < 1e-6
    for name, tensor in direct.state_dict().items():
        assert torch.equal(tensor, twice.state_dict()[name]), name


def test_scattered_outputs_are_zero_and_know_their_place():
    net = Transformer(stages=1, depth=1)
    groups, path = net.groups(), "stages.0.blocks.0.mod"
    pruned = remove(net, groups, plan_of(groups, {path: [1, 4, 5]}))
    thin, dense = pruned.get_submodule(path), net.get_submodule(path)
    assert isinstance(thin, ScatterLinear) and thin.index.tolist() == [1, 4, 5]
    context = torch.randn(3, 7)
    expected = torch.zeros(3, 12)
    expected[:, [1, 4, 5]] = dense(context)[:, [1, 4, 5]]
    torch.testing.assert_close(thin(context), expected)


def test_a_scattered_block_structure_keeps_whole_blocks_of_outputs():
    # units of two neighbouring outputs, behind an offset that no group owns
    slices = (Slice("mod.weight", 0, offset=1, block=2), Slice("mod.bias", 0, offset=1, block=2))
    groups = Groups((Group("g", "adaln", 3, slices, scatter=("mod",)),))
    tensors = {"mod.weight": torch.randn(8, 2), "mod.bias": torch.randn(8)}
    narrowed = narrow(tensors, groups, plan_of(groups, {"g": [0, 2]}))
    assert narrowed["mod.index"].tolist() == [0, 1, 2, 5, 6, 7]
    assert torch.equal(narrowed["mod.bias"], tensors["mod.bias"][[0, 1, 2, 5, 6, 7]])


def test_removed_blocks_and_stages_close_ranks():
    net, gone = Transformer(stages=3, depth=2), {"stages.0": [], "stages.1.blocks.0": [], "stages.2.blocks.1": []}
    groups = net.groups()
    plan = plan_of(groups, gone)
    assert removed_blocks(groups, plan) == {"stages": [0], "stages.1.blocks": [0], "stages.2.blocks": [1]}
    left = {n: t for n, t in narrow(net.state_dict(), groups, plan).items() if n.endswith("up.weight")}
    assert set(left) == {"stages.0.blocks.0.up.weight", "stages.1.blocks.0.up.weight"}
    assert torch.equal(left["stages.0.blocks.0.up.weight"], net.stages[1].blocks[1].up.weight)
    assert torch.equal(left["stages.1.blocks.0.up.weight"], net.stages[2].blocks[0].up.weight)


@pytest.mark.parametrize(
    ("name", "becomes"),
    [
        ("blocks.0.w", "blocks.0.w"),
        ("blocks.1.w", None),
        ("blocks.1", None),
        ("blocks.2", "blocks.1"),
        ("blocks.10.w", "blocks.8.w"),
        ("blocks.11", "blocks.9"),
        ("other.blocks.1.w", "other.blocks.1.w"),
        ("myblocks.1.w", "myblocks.1.w"),
        ("blocks.1x.w", "blocks.1x.w"),
        ("blocks.w", "blocks.w"),
        ("blocks.5.inner.0.w", None),
        ("blocks.6.inner.0.w", None),
        ("blocks.6.inner.3.w", "blocks.4.inner.2.w"),
    ],
)
def test_renaming(name, becomes):
    removed = {"blocks": [1, 5], "blocks.6.inner": [0]}
    assert renamed(name, removed) == becomes
    flat = None if becomes is None else becomes.replace(".", "_")
    assert renamed(name.replace(".", "_"), removed, "_") == flat


def test_renaming_at_the_top():
    assert [renamed(n, {"": [0]}) for n in ("0.w", "1.w", "head.w")] == [None, "0.w", "head.w"]


def test_spec_names_what_changes_and_nothing_else():
    net = NETS["convolutions"]
    groups = net.groups()
    assert resize_spec(groups, plan_of(groups), shapes_of(net.state_dict())) == {}
    spec = resize_spec(groups, plan_of(groups, {"mid": [0, 3]}), shapes_of(net.state_dict()))
    assert set(spec) == {"first", "norm", "depthwise", "batch_norm", "up"}
    assert spec["first"] == {"weight": [6, 3, 3, 3], "bias": [6]}
    assert spec["depthwise"] == {"weight": [6, 1, 3, 3], "bias": [6], "groups": 6}
    assert spec["norm"] == {"weight": [6], "bias": [6], "num_groups": 2}
    assert spec["up"] == {"weight": [6, 8, 4, 4]}


def test_layers_know_their_new_sizes():
    net = NETS["convolutions"]
    pruned = remove(net, net.groups(), plan_of(net.groups(), {"mid": [1], "late": [0, 5]}))
    assert (pruned.first.in_channels, pruned.first.out_channels) == (3, 3)
    assert (pruned.depthwise.in_channels, pruned.depthwise.out_channels, pruned.depthwise.groups) == (3, 3, 3)
    assert (pruned.norm.num_groups, pruned.norm.num_channels, pruned.batch_norm.num_features) == (1, 3, 3)
    assert (pruned.up.in_channels, pruned.up.out_channels) == (3, 2)
    assert isinstance(pruned.batch_norm.running_mean, torch.Tensor)
    assert "batch_norm.running_mean" in dict(pruned.named_buffers())
    assert set(dict(pruned.named_parameters())) == set(dict(net.named_parameters()))


def test_removal_leaves_the_dense_model_as_it_was():
    net = Transformer()
    before = copy.deepcopy(net.state_dict())
    groups = net.groups()
    plan = plan_of(groups, {g.name: [] if g.kind == "depth" else [0] for g in list(groups)[2:7]})
    tensors = net.state_dict()
    names = list(tensors)
    narrow(tensors, groups, plan)
    assert list(tensors) == names
    assert all(torch.equal(t, before[n]) for n, t in net.state_dict().items())


def test_untouched_tensors_are_shared_and_touched_ones_are_not():
    tensors = NETS["convolutions"].state_dict()
    narrowed = narrow(tensors, NETS["convolutions"].groups(), plan_of(NETS["convolutions"].groups(), {"late": [1]}))
    assert narrowed["first.weight"] is tensors["first.weight"]
    assert narrowed["last.weight"].is_contiguous()
    assert narrowed["last.weight"].untyped_storage().nbytes() == narrowed["last.weight"].numel() * 4


def test_works_on_the_meta_device():
    net = Transformer()
    tensors = {n: t.to("meta") for n, t in net.state_dict().items()}
    groups = net.groups()
    plan = plan_of(groups, {"stages.0.blocks.0.ff": [1, 2], "stages.1.blocks.1.mod": [0]})
    narrowed = narrow(tensors, groups, plan)
    assert shapes_of(narrowed) == shapes_of(narrow(net.state_dict(), groups, plan))


def test_kept_indices_are_the_complement_of_the_removed_units():
    groups = Groups((Group("g", "head", 2, (Slice("w", 0, offset=1, block=2, repeat=2, pitch=5),)),))
    plan = plan_of(groups, {"g": [1]})
    assert kept_indices(groups, plan, {"w": (11, 3)})["w", 0].tolist() == [0, 3, 4, 5, 8, 9, 10]
    assert kept_indices(groups, plan_of(groups), {"w": (11, 3)}) == {}
    assert complement(torch.tensor([3, 0, 3]), 5).tolist() == [1, 2, 4]


def test_foreign_plans_are_refused():
    net = Convolutions()
    other = Groups((Group("other", "ffn", 3),))
    for function in (kept_indices, resize_spec):
        with pytest.raises(PlanError, match="for other groups"):
            function(net.groups(), plan_of(other), shapes_of(net.state_dict()))
    with pytest.raises(PlanError, match="for other groups"):
        narrow(net.state_dict(), net.groups(), plan_of(other))
    with pytest.raises(PlanError, match="which the model does not have"):
        narrow(Transformer().state_dict(), net.groups(), plan_of(net.groups()))


def test_values_that_depend_on_a_width_are_rescaled_with_it():
    """Queries are the first 4 rows; what a removed unit owned plays no part, nor do groups that keep everything."""
    tensors = {"qkv": torch.arange(24.0).reshape(12, 2), "table": torch.ones(3, 4), "other": torch.ones(5)}
    dims = Group(
        "dims",
        "head_dim",
        4,
        (Slice("qkv", 0, repeat=3, pitch=4), Slice("table", 1)),
        rescale=(Rescale("qkv", 0.5, stop=4), Rescale("table", -0.5)),
    )
    whole = Group("whole", "ffn", 5, (Slice("other", 0),), rescale=(Rescale("other", 2.0),))
    groups = Groups((dims, whole))
    plan = plan_of(groups, {"dims": [2]})
    before = {name: t.clone() for name, t in tensors.items()}
    out = narrow(tensors, groups, plan)
    assert torch.equal(out["qkv"], tensors["qkv"][[2, 6, 10]] * torch.tensor([[0.5], [1], [1]]))
    assert torch.equal(out["table"], torch.full((3, 1), 2.0)) and out["other"] is tensors["other"]
    assert all(torch.equal(tensors[name], t) for name, t in before.items())
    assert narrow(tensors, groups, plan_of(groups, {"dims": []}))["qkv"].shape == (0, 2)
