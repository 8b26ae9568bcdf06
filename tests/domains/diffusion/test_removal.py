"""Removal leaves the input alone, owns its tensors, and keeps what is not a width."""

from __future__ import annotations

import copy

import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor

from gencompress.core.plan import Plan, fingerprint
from gencompress.domains.diffusion.groups import groups_of
from gencompress.domains.diffusion.removal import remove
from gencompress.errors import PlanError
from tests.laws.denoisers import denoiser, inputs, relative, run


def keep(groups, share, source=None):
    kept = {g.name: torch.arange(round(g.size * share)) for g in groups}
    return Plan(kept, {g.name: g.size for g in groups}, source=source or {})


def test_the_input_is_untouched_and_nothing_is_shared():
    model = denoiser("flux")
    before = {k: v.clone() for k, v in model.state_dict().items()}
    config = dict(model.config)
    groups = groups_of(model, ("head", "ffn", "adaln", "depth"))
    small = remove(model, groups, keep(groups, 0.5))
    for tensor in small.state_dict().values():
        tensor.zero_()
    after = model.state_dict()
    assert all(torch.equal(after[k], v) for k, v in before.items())
    assert dict(model.config) == config and "pruning" not in model.config


def test_what_is_no_width_is_kept():
    model = copy.deepcopy(denoiser("pixart")).to(torch.bfloat16).train()
    model.proj_out.requires_grad_(True)
    groups = groups_of(model)
    small = remove(model, groups, keep(groups, 0.5))
    assert small.training and small.dtype == torch.bfloat16
    assert {n for n, p in small.named_parameters() if p.requires_grad} == {"proj_out.weight", "proj_out.bias"}
    assert "pos_embed.pos_embed" not in small.state_dict()  # a buffer that no state dict holds
    assert torch.equal(small.pos_embed.pos_embed, model.pos_embed.pos_embed)


def test_a_plan_for_other_weights_is_refused_unless_asked_for():
    model, tuned = denoiser("dit"), copy.deepcopy(denoiser("dit"))
    tuned.proj_out_2.bias.data += 1
    groups = groups_of(model)
    plan = keep(groups, 0.5, fingerprint(model.state_dict()))
    with pytest.raises(PlanError, match="other weights"):
        remove(tuned, groups, plan)
    small = remove(tuned, groups, plan, other_weights=True)
    assert torch.equal(small.proj_out_2.bias, tuned.proj_out_2.bias)


def test_a_plan_for_another_architecture_is_refused():
    groups = groups_of(denoiser("dit"))
    with pytest.raises(PlanError):
        remove(denoiser("pixart"), groups_of(denoiser("pixart")), keep(groups, 0.5))


def test_whole_blocks_alone_give_the_stock_class():
    model = denoiser("sd3-dual")
    groups = groups_of(model, ["depth"])
    plan = Plan({g.name: torch.arange(i % 2) for i, g in enumerate(groups)}, {g.name: 1 for g in groups})
    assert plan.counts == {f"transformer_blocks.{i}": i % 2 for i in range(4)}
    small = remove(model, groups, plan)
    assert type(small) is type(model) and "pruning" not in small.config
    assert small.config["num_layers"] == 3 and len(small.transformer_blocks) == 3
    assert small.config["dual_attention_layers"] == (1,)  # of (0, 2, 3), blocks 1, 3 and 4 stay


def test_a_plan_that_keeps_everything_gives_an_equal_model_of_the_stock_class():
    groups = groups_of(denoiser("sd"))
    small = remove(denoiser("sd"), groups, keep(groups, 1.0))
    assert type(small) is type(denoiser("sd"))
    assert torch.equal(run(small, inputs("sd")), run(denoiser("sd"), inputs("sd")))


def test_attention_slicing_works_with_one_head():
    groups = groups_of(denoiser("sd"), ["head"])
    one = Plan({g.name: torch.tensor([0]) for g in groups}, {g.name: g.size for g in groups})
    small = remove(denoiser("sd"), groups, one)
    plain = run(small, inputs("sd"))
    small.set_attention_slice("auto")
    assert relative(run(small, inputs("sd")), plain) <= 1e-5


@pytest.mark.parametrize("name", ["ddpm", "sd", "sd3", "flux", "sana", "pixart"])
def test_modules_without_heads_keep_working_when_processors_are_switched(name):
    groups = groups_of(denoiser(name), ["head"])
    small = remove(denoiser(name), groups, keep(groups, 0.0))
    plain = run(small, inputs(name))
    assert torch.isfinite(plain).all()
    for module in small.modules():
        if hasattr(module, "set_processor"):
            module.set_processor(AttnProcessor())
    assert torch.equal(run(small, inputs(name)), plain)
    assert torch.equal(run(copy.deepcopy(small), inputs(name)), plain)


def test_biases_of_emptied_branches_can_be_trained():
    groups = groups_of(denoiser("ddpm-classes"))
    small = remove(denoiser("ddpm-classes"), groups, keep(groups, 0.0)).requires_grad_(True)
    small(**inputs("ddpm-classes"), return_dict=False)[0].square().mean().backward()
    missing = [n for n, p in small.named_parameters() if p.numel() and p.grad is None]
    assert all("conv2.bias" not in n and "to_out" not in n for n in missing)
    assert all(torch.isfinite(p.grad).all() for p in small.parameters() if p.grad is not None)


def test_tensor_parallel_blocks_of_flux_follow():
    groups = groups_of(denoiser("flux"))
    small = remove(denoiser("flux"), groups, keep(groups, 0.5))
    block = small.single_transformer_blocks[0]
    if not hasattr(denoiser("flux").single_transformer_blocks[0].proj_out, "_tp_packed_row_blocks"):
        pytest.skip("this diffusers has no tensor parallelism for FLUX")
    heads, neurons = block.proj_out._tp_packed_row_blocks
    assert (heads, neurons) == (block.attn.to_v.out_features, block.proj_mlp.out_features)
    assert heads + neurons == block.proj_out.in_features and block.mlp_hidden_dim == neurons
