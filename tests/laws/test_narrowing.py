"""One plan narrows weights, LoRA adapters and optimizer state alike."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model_state_dict, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from torch.utils._pytree import tree_map

from gencompress.core.adapters import narrow_lora, narrow_optimizer_
from gencompress.core.group import Groups
from gencompress.core.plan import Plan
from gencompress.core.prune import narrow
from gencompress.domains.diffusion.groups import groups_of
from gencompress.domains.diffusion.removal import remove
from tests.laws.denoisers import denoiser, inputs, plans, relative, run

law = settings(deadline=None, derandomize=True, suppress_health_check=list(HealthCheck), database=None)
ADAPTED = {
    "sd": ["to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2", "conv1", "conv2", "time_emb_proj"],
    "flux": ["to_q", "to_v", "to_out.0", "add_q_proj", "to_add_out", "proj_mlp", "proj_out", "norm.linear", "net.2"],
}
KINDS = {"sd": None, "flux": ("head", "ffn", "adaln")}


def adapted(name):
    """A copy of the denoiser with a random LoRA, and the LoRA's own tensors."""
    model = copy.deepcopy(denoiser(name))
    inject_adapter_in_model(LoraConfig(r=3, lora_alpha=6, target_modules=ADAPTED[name]), model)
    generator = torch.Generator().manual_seed(2)
    for key, parameter in model.named_parameters():
        if "lora_" in key:
            parameter.data = 0.3 * torch.randn(parameter.shape, generator=generator)
    return model, get_peft_model_state_dict(model)


def merged(base, lora):
    """The weights of `base` plus scale * B A, by module."""
    weights = {k: v.clone() for k, v in base.items()}
    for key in lora:
        if ".lora_A." in key:
            down, up = lora[key], lora[key.replace(".lora_A.", ".lora_B.")]
            module = key.split(".lora_A.")[0]
            delta = torch.einsum("or,ri...->oi...", up.flatten(1), down)
            weights[f"{module}.weight"] = weights[f"{module}.weight"] + 2.0 * delta
    return weights


@pytest.fixture(scope="module", params=ADAPTED)
def lora_case(request):
    model, lora = adapted(request.param)
    assert sum(isinstance(m, LoraLayer) for m in model.modules()) >= 10
    return request.param, lora, groups_of(denoiser(request.param), KINDS[request.param])


@settings(law, max_examples=10)
@given(data=st.data())
def test_lora_narrowed_then_merged_is_merged_then_narrowed(lora_case, data):
    name, lora, groups = lora_case
    plan = data.draw(plans(groups))
    dense = denoiser(name).state_dict()
    ours = merged(narrow(dense, groups, plan), narrow_lora(lora, groups, plan))
    theirs = narrow(merged(dense, lora), groups, plan)
    assert ours.keys() == theirs.keys()
    for key, weight in theirs.items():
        torch.testing.assert_close(ours[key], weight, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ADAPTED)
def test_a_narrowed_lora_loads_into_the_pruned_model(name):
    """peft itself takes the narrowed adapter, and the adapted pruned model is the pruned adapted model."""
    groups = groups_of(denoiser(name))
    plan = half(groups)
    _, lora = adapted(name)
    small = remove(denoiser(name), groups, plan)
    inject_adapter_in_model(LoraConfig(r=3, lora_alpha=6, target_modules=ADAPTED[name]), small)
    narrowed = narrow_lora(lora, groups, plan)
    names = {k.replace(".lora_A.", ".lora_A.default.").replace(".lora_B.", ".lora_B.default."): k for k in narrowed}
    result = small.load_state_dict({k: narrowed[v] for k, v in names.items()}, strict=False)
    assert not result.unexpected_keys and names

    fused = copy.deepcopy(denoiser(name)).double()  # unmerged and merged products round differently in fp32
    fused.load_state_dict(merged(fused.state_dict(), tree_map(doubled, lora)))
    given_inputs = tree_map(doubled, inputs(name))
    assert relative(run(small.double(), given_inputs), run(remove(fused, groups, plan), given_inputs)) <= 1e-9


def test_peft_refuses_outputs_that_stay_as_zeros():
    """Better than a shape error in the first forward."""
    groups = groups_of(denoiser("flux"), ("adaln",))
    small = remove(denoiser("flux"), groups, half(groups))
    with pytest.raises(ValueError, match="ScatterLinear"):
        inject_adapter_in_model(LoraConfig(r=3, target_modules=["norm.linear"]), small)


def doubled(value):
    return value.double() if isinstance(value, torch.Tensor) and value.is_floating_point() else value


def half(groups: Groups) -> Plan:
    return Plan({g.name: torch.arange(0, g.size, 2) for g in groups}, {g.name: g.size for g in groups})


@pytest.mark.parametrize(("name", "kinds"), [("sd", None), ("flux-joint", ("head", "ffn", "adaln", "depth"))])
def test_optimizer_state_follows_the_weights(name, kinds):
    model = copy.deepcopy(denoiser(name)).requires_grad_(True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    loss = model(**inputs(name), return_dict=False)[0].square().mean()
    loss.backward()
    optimizer.step()
    groups = groups_of(model, kinds)
    plan = half(groups)
    moments = {
        key: {n: optimizer.state[p][key] for n, p in model.named_parameters() if p in optimizer.state}
        for key in ("exp_avg", "exp_avg_sq")
    }
    small = remove(model, groups, plan)
    new = dict(small.named_parameters())
    full = {n: torch.zeros_like(p) for n, p in model.named_parameters()}
    narrow_optimizer_(optimizer, dict(model.named_parameters()), new, groups, plan)

    assert {id(p) for group in optimizer.param_groups for p in group["params"]} == {id(p) for p in new.values()}
    for key, before in moments.items():
        expected = narrow(full | before, groups, plan)
        for parameter_name, parameter in new.items():
            if parameter in optimizer.state:
                assert torch.equal(optimizer.state[parameter][key], expected[parameter_name])
    small(**inputs(name), return_dict=False)[0].square().mean().backward()
    optimizer.step()
    assert all(torch.isfinite(p).all() for p in new.values())
