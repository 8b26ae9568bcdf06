from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from gencompress.core.adapters import narrow_lora, narrow_optimizer_
from gencompress.core.gate import gated
from gencompress.core.group import Group, Groups, Rescale, Slice
from gencompress.core.prune import narrow
from gencompress.errors import PlanError
from tests.core.nets import Convolutions, Transformer, plan_of, plans, remove

OPTIMIZERS = {
    "adamw": lambda p: torch.optim.AdamW(p, lr=1e-2, amsgrad=True),
    "momentum": lambda p: torch.optim.SGD(p, lr=1e-2, momentum=0.9),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=1e-2, centered=True),
}


def step(net, optimizer, inputs, plan=None, groups=None):
    optimizer.zero_grad()
    if plan is None:
        net(*inputs).square().mean().backward()
    else:
        with gated(net, groups, plan.masks(torch.float64)):
            net(*inputs).square().mean().backward()
    optimizer.step()


@pytest.mark.parametrize("kind", OPTIMIZERS)
@pytest.mark.parametrize("make", [Transformer, Convolutions])
def test_training_goes_on_as_if_the_units_had_been_gated_away(kind, make):
    """Units that are gated to zero do not influence the others' gradients, so both ways update the others alike."""
    net, inputs = make().double(), [x.double() for x in make.inputs()]
    groups = net.groups()
    keep = {g.name: list(range(g.size))[:: 2 if g.size > 1 else 1] for g in groups}
    if make is Transformer:
        keep |= {"stages.1": [], "stages.2.blocks.0": []}
    plan = plan_of(groups, keep)
    optimizer = OPTIMIZERS[kind](net.parameters())
    for _ in range(3):
        step(net, optimizer, inputs)

    pruned = remove(net, groups, plan)
    narrowed = OPTIMIZERS[kind](copy.deepcopy(net).parameters())  # an optimizer with the dense history
    old = dict(zip(dict(net.named_parameters()), narrowed.param_groups[0]["params"], strict=True))
    narrowed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    narrow_optimizer_(narrowed, old, dict(pruned.named_parameters()), groups, plan)
    assert {id(p) for p in narrowed.param_groups[0]["params"]} == {id(p) for p in pruned.parameters()}
    assert set(narrowed.state) == set(pruned.parameters())

    for _ in range(2):
        step(net, optimizer, inputs, plan, groups)
        step(pruned, narrowed, inputs)
    expected = narrow(net.state_dict(), groups, plan)
    for name, parameter in pruned.named_parameters():
        torch.testing.assert_close(parameter, expected[name])


def test_parameter_groups_keep_their_options_and_order():
    net = Convolutions()
    named = dict(net.named_parameters())
    optimizer = torch.optim.AdamW(
        [{"params": [named["last.bias"], named["first.weight"]], "lr": 0.5}, {"params": [named["up.weight"]]}], lr=0.1
    )
    pruned = remove(net, net.groups(), plan_of(net.groups(), {"mid": [0]}))
    new = dict(pruned.named_parameters())
    narrow_optimizer_(optimizer, named, new, net.groups(), plan_of(net.groups(), {"mid": [0]}))
    assert [g["lr"] for g in optimizer.param_groups] == [0.5, 0.1]
    assert [[id(p) for p in g["params"]] for g in optimizer.param_groups] == [
        [id(new["last.bias"]), id(new["first.weight"])],
        [id(new["up.weight"])],
    ]


def test_an_optimizer_that_cannot_be_narrowed_is_left_alone():
    net = Convolutions()
    groups, named = net.groups(), dict(net.named_parameters())
    plan = plan_of(groups, {"mid": [0]})
    new = dict(remove(net, groups, plan).named_parameters())
    factored = torch.optim.Adafactor(net.parameters())
    step(net, factored, net.inputs())
    before = [id(p) for p in factored.param_groups[0]["params"]]
    with pytest.raises(PlanError, match=r"'row_var' of 'first.weight' has shape .* fresh optimizer"):
        narrow_optimizer_(factored, named, new, groups, plan)
    assert [id(p) for p in factored.param_groups[0]["params"]] == before
    assert set(factored.state) == set(net.parameters())
    with pytest.raises(PlanError, match="not one of the dense model"):
        narrow_optimizer_(torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=1), named, new, groups, plan)
    with pytest.raises(PlanError, match=r"no 'first\.weight' of the shape"):
        narrow_optimizer_(torch.optim.SGD(net.parameters(), lr=1), named, named, groups, plan)


class Fused(nn.Module):
    """A list of blocks with a fused projection, a convolution, and one layer that no group touches."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.ModuleDict({"qkv": nn.Linear(5, 24), "out": nn.Linear(8, 5), "conv": nn.Conv2d(4, 6, 3)})
            for _ in range(3)
        )
        self.free = nn.Linear(5, 5)

    def groups(self) -> Groups:
        items = []
        for i in range(3):
            at = f"blocks.{i}"
            heads = (
                Slice(f"{at}.qkv.weight", 0, block=2, repeat=3, pitch=8),
                Slice(f"{at}.qkv.bias", 0, block=2, repeat=3, pitch=8),
                Slice(f"{at}.out.weight", 1, block=2),
            )
            items.append(Group(f"{at}.heads", "head", 4, heads))
            items.append(Group(f"{at}.in", "resnet", 2, (Slice(f"{at}.conv.weight", 1, block=2),)))
            items.append(Group(f"{at}.mid", "resnet", 6, (Slice(f"{at}.conv.weight", 0), Slice(f"{at}.conv.bias", 0))))
            items.append(Group(at, "depth", 1, min_keep=0, stack=f"{at}."))
        return Groups(tuple(items))


PEFT = ("{module}.lora_A.weight", "{module}.lora_B.weight", ".", "unet.")
ADAPTER = ("{module}.lora_A.default.weight", "{module}.lora_B.default.weight", ".", "base_model.model.")
DIFFUSERS = ("{module}.lora.down.weight", "{module}.lora.up.weight", ".", "unet.")
KOHYA = ("{module}.lora_down.weight", "{module}.lora_up.weight", "_", "lora_unet_")
PLAIN = ("{module}.lora_A.weight", "{module}.lora_B.weight", ".", "")


def lora(net: nn.Module, scheme, rank: int = 2) -> dict[str, torch.Tensor]:
    """Random low-rank factors for every Linear and convolution of `net`."""
    down, up, separator, prefix = scheme
    noise, out = torch.Generator().manual_seed(0), {}
    for name, module in net.named_modules():
        if isinstance(module, (nn.Linear, nn.Conv2d)):
            weight, path = module.weight, prefix + name.replace(".", separator)
            out[down.format(module=path)] = torch.randn(rank, *weight.shape[1:], generator=noise)
            ones = [1] * (weight.ndim - 2)
            out[up.format(module=path)] = torch.randn(weight.shape[0], rank, *ones, generator=noise)
            out[f"{path}.alpha"] = torch.tensor(float(rank))
    return out


def merged(tensors: dict[str, torch.Tensor], factors: dict[str, torch.Tensor], scheme) -> dict[str, torch.Tensor]:
    """W + B A for every weight that has factors."""
    down, up, separator, prefix = scheme
    out = dict(tensors)
    for name, weight in tensors.items():
        path = prefix + name.removesuffix(".weight").replace(".", separator)
        if down.format(module=path) in factors:
            a, b = factors[down.format(module=path)], factors[up.format(module=path)]
            out[name] = weight + (b.flatten(1) @ a.flatten(1)).reshape(weight.shape)
    return out


@pytest.mark.parametrize("scheme", [PEFT, ADAPTER, DIFFUSERS, KOHYA, PLAIN], ids=lambda s: s[3] + s[0][9:])
@given(data=st.data())
def test_narrowing_commutes_with_merging(scheme, data):
    net = Fused()
    groups, tensors, factors = net.groups(), net.state_dict(), lora(net, scheme)
    plan = data.draw(plans(groups))
    after = narrow(merged(tensors, factors, scheme), groups, plan)
    before = merged(narrow(tensors, groups, plan), narrow_lora(factors, groups, plan, scheme[3]), scheme)
    assert set(after) == set(before)
    for name in after:
        torch.testing.assert_close(before[name], after[name])


def test_names_follow_removed_blocks():
    net = Fused()
    plan = plan_of(net.groups(), {"blocks.1": []})
    for scheme in (PEFT, KOHYA):
        old = lora(net, scheme)
        new = narrow_lora(old, net.groups(), plan, scheme[3])
        moved = {n: n.replace("blocks.2", "blocks.1").replace("blocks_2", "blocks_1") for n in old}
        assert set(new) == {m for n, m in moved.items() if "blocks.1" not in n and "blocks_1" not in n}
        assert all(new[moved[n]] is old[n] for n in old if "blocks.2" in n or "blocks_2" in n)


def test_other_components_and_other_parts_of_a_lora_pass():
    net = Fused()
    plan = plan_of(net.groups(), {"blocks.0.mid": [0]})
    other = {"text_encoder.blocks.0.conv.lora_A.weight": torch.ones(2, 9), "anything": torch.ones(1)}
    passing = {
        "unet.blocks.0.conv.alpha": torch.tensor(4.0),
        "unet.blocks.0.conv.lora_mid.weight": torch.ones(2, 2, 3, 3),
        "unet.free.lora_B.weight": torch.ones(5, 2),
    }
    narrowed = narrow_lora(passing | other, net.groups(), plan, "unet.")
    assert all(narrowed[n] is t for n, t in (passing | other).items())
    bias = narrow_lora({"unet.blocks.0.conv.lora_B.bias": torch.arange(6.0)}, net.groups(), plan, "unet.")
    assert bias["unet.blocks.0.conv.lora_B.bias"].tolist() == [0.0]


@pytest.mark.parametrize(
    ("tensors", "says"),
    [
        (
            {"transformer.x.lora_A.weight": torch.ones(1)},
            "no LoRA tensor begins with 'unet.'; the names begin like 'tra",
        ),
        ({}, "no LoRA tensor begins with 'unet.'"),
        ({"unet.blocks.0.conv.lora_magnitude_vector": torch.ones(6)}, "not a LoRA matrix"),
        ({"unet.blocks.0.conv.hada_w1_a": torch.ones(6, 2)}, "not a LoRA matrix"),
        ({"unet.blocks.0.attn.processor.to_q_lora.down.weight": torch.ones(2, 6)}, "not a LoRA matrix"),
        (
            {"unet.blocks.0.conv.lora_B.weight": torch.ones(5, 2, 1, 1)},
            r"\(5, 2, 1, 1\) should have 6 entries along dim",
        ),
        ({"unet.blocks.0.conv.lora_A.weight": torch.ones(2)}, "should have 4 entries along dimension 1"),
    ],
)
def test_what_cannot_be_narrowed_is_refused(tensors, says):
    net = Fused()
    with pytest.raises(PlanError, match=says):
        narrow_lora(tensors, net.groups(), plan_of(net.groups(), {"blocks.0.mid": [0]}), "unet.")


def test_a_lora_of_rescaled_rows_is_rescaled_with_them():
    group = Group(
        "dims",
        "head_dim",
        4,
        (Slice("qkv.weight", 0, repeat=3, pitch=4),),
        rescale=(Rescale("qkv.weight", 0.5, stop=4),),
    )
    groups = Groups((group,))
    plan = plan_of(groups, {"dims": [0, 3]})
    base, down, up = torch.randn(12, 5), torch.randn(2, 5), torch.randn(12, 2)
    narrowed = narrow_lora({"qkv.lora_A.weight": down, "qkv.lora_B.weight": up}, groups, plan)
    ours = narrow({"qkv.weight": base}, groups, plan)["qkv.weight"]
    ours = ours + narrowed["qkv.lora_B.weight"] @ narrowed["qkv.lora_A.weight"]
    torch.testing.assert_close(ours, narrow({"qkv.weight": base + up @ down}, groups, plan)["qkv.weight"])
