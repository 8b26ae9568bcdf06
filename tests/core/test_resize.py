from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from gencompress.core.group import shapes_of
from gencompress.core.prune import narrow, resize_spec
from gencompress.core.resize import ScatterLinear, resize_
from tests.core.nets import Transformer, plan_of


def small() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 6), nn.GroupNorm(2, 6), nn.Conv2d(6, 6, 3, groups=6), nn.Embedding(5, 3))


def test_sizes_and_attributes_follow():
    net = small()
    net[0].requires_grad_(False)
    resize_(
        net,
        {
            "0": {"weight": [3, 2], "bias": [3]},
            "1": {"weight": [3], "bias": [3], "num_groups": 1},
            "2": {"weight": [3, 1, 3, 3], "bias": [3], "groups": 3},
            "3": {"weight": [5, 2]},
        },
    )
    assert (net[0].in_features, net[0].out_features, net[0].weight.requires_grad) == (2, 3, False)
    assert (net[1].num_channels, net[1].num_groups) == (3, 1)
    assert (net[2].in_channels, net[2].out_channels, net[2].groups) == (3, 3, 3)
    assert (net[3].num_embeddings, net[3].embedding_dim) == (5, 2)


@pytest.mark.parametrize("norm", [nn.LayerNorm(6), nn.RMSNorm(6)])
def test_layer_norms_follow(norm):
    resize_(norm, {"": {name: [4] for name, _ in norm.named_parameters()}})
    assert norm.normalized_shape == (4,)
    assert norm(torch.randn(2, 4)).shape == (2, 4)


def test_a_spec_survives_json_and_builds_the_pruned_model_on_meta():
    net = Transformer(stages=1, depth=2)
    groups = net.groups()
    keep = {g.name: [0] for g in groups if g.kind != "depth"}
    plan = plan_of(groups, keep)
    spec = json.loads(json.dumps(resize_spec(groups, plan, shapes_of(net.state_dict()))))
    with torch.device("meta"):
        twin = Transformer(stages=1, depth=2)
    resize_(twin, spec)
    assert all(t.is_meta for t in twin.state_dict().values())
    twin.load_state_dict(narrow(net.state_dict(), groups, plan), assign=True)
    assert torch.isfinite(twin(*Transformer.inputs())).all()


def test_scattered_layers_keep_dtype_bias_and_trainability():
    net = nn.Sequential(nn.Linear(3, 8, bias=False, dtype=torch.bfloat16)).requires_grad_(False)
    resize_(net, {"0": {"weight": [2, 3], "scatter": 8}})
    thin = net[0]
    assert isinstance(thin, ScatterLinear) and thin.bias is None
    assert (thin.weight.dtype, thin.weight.requires_grad, thin.full_features) == (torch.bfloat16, False, 8)
    assert thin(torch.ones(2, 3, dtype=torch.bfloat16)).shape == (2, 8)
    resize_(net, {"0": {"weight": [1, 3]}})
    assert (thin.index.shape, thin.out_features, thin.full_features) == ((1,), 1, 8)


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ([], "must map module paths"),
        ({"0": [3]}, "of '0' must map names to sizes"),
        ({"9": {}}, "names '9', which this architecture does not have"),
        ({"0.weight": {}}, "names '0.weight', which"),
        ({"0": {"weights": [3, 4]}}, r"reshapes 0.weights to \[3, 4\], but there is no 2-d tensor"),
        ({"0": {"weight": [3]}}, "no 1-d tensor"),
        ({"0": {"in_features": [3]}}, "no 1-d tensor"),
        ({"0": {"weight": [7, 4]}}, r"from \[6, 4\] to \[7, 4\], which is not smaller"),
        ({"0": {"weight": [10**12, 4]}}, "not smaller"),
        ({"0": {"weight": [-1, 4]}}, "not smaller"),
        ({"0": {"weight": [2.0, 4]}}, "not smaller"),
        ({"0": {"weight": [True, 4]}}, "not smaller"),
        ({"0": {"weight": "6"}}, "sets 0.weight, which is no integer"),
        ({"0": {"forward": 3}}, "sets 0.forward, which is no integer"),
        ({"0": {"training": 0}}, "sets 0.training, which is no integer"),
        ({"1": {"num_groups": 4}}, r"to 4, which is not in \[0, 2\]"),
        ({"1": {"num_groups": -1}}, r"to -1, which is not in \[0, 2\]"),
        ({"1": {"num_groups": "1"}}, "to '1', which is not in"),
        ({"1": {"num_groups": True}}, "to True, which is not in"),
        ({"1": {"scatter": 6}}, "scatters the outputs of '1', which is no plain Linear"),
        ({"0": {"scatter": 6}}, "needs scatter=6 and the shape of 'weight'"),
        ({"0": {"scatter": 10**12, "weight": [3, 4]}}, "needs scatter=6"),
        ({"0": {"scatter": 6, "weight": [7, 4]}}, "not smaller"),
    ],
)
def test_hostile_specs_are_refused_by_name(spec, says):
    with pytest.raises(ValueError, match=says):
        resize_(small(), spec)
