"""Example inputs run, costs are those of the real model, and no weight is read."""

from __future__ import annotations

import copy

import pytest
import torch

from gencompress.core.trace import on_meta
from gencompress.domains.diffusion.costs import cost_model, example_inputs, trace
from gencompress.domains.diffusion.groups import groups_of
from gencompress.errors import ModelError
from tests.laws.denoisers import NAMES, denoiser, run


@pytest.mark.parametrize("name", [n for n in NAMES if not n.startswith("flux")])
def test_example_inputs_are_of_the_native_size(name):
    given = example_inputs(denoiser(name))
    size = denoiser(name).config["sample_size"]
    assert run(denoiser(name), given).shape[-2:] == (size, size)


def test_flux_inputs_are_those_of_a_1024_px_picture():
    given = example_inputs(denoiser("flux"), "meta")
    assert given["hidden_states"].shape[1] == 4096
    assert run(on_meta(denoiser("flux")), given).shape == given["hidden_states"].shape


def test_traced_work_is_that_of_a_hand_count():
    """One DiT block of width 32 on 16 tokens: q, k, v, out and the two attention products."""
    model = denoiser("dit")
    work = trace(model)
    assert work.positions["transformer_blocks.0.attn1.to_q.weight"] == 16
    assert work.positions["transformer_blocks.0.norm1.linear.weight"] == 1
    assert work.products["transformer_blocks.0.attn1"] == 2 * 16 * 16 * 32


def test_a_copy_on_meta_shares_structure_and_holds_nothing():
    model = copy.deepcopy(denoiser("sd")).train()
    blank = on_meta(model)
    assert all(t.is_meta for t in blank.state_dict().values()) and not blank.training
    assert {k: v.shape for k, v in blank.state_dict().items()} == {k: v.shape for k, v in model.state_dict().items()}
    assert model.training and not any(t.is_meta for t in model.state_dict().values())


def test_bytes_follow_the_dtype_of_each_weight():
    model = copy.deepcopy(denoiser("dit"))
    model.transformer_blocks[0].to(torch.bfloat16)
    cost = cost_model(model, groups_of(model), "bytes")
    assert cost.dense == sum(p.numel() * p.element_size() for p in model.parameters())


def test_conditioning_that_no_supported_pipeline_gives_is_refused():
    from diffusers import UNet2DConditionModel

    unet = UNet2DConditionModel(
        block_out_channels=(8, 16),
        down_block_types=("DownBlock2D", "DownBlock2D"),
        mid_block_type="UNetMidBlock2D",
        up_block_types=("UpBlock2D", "UpBlock2D"),
        norm_num_groups=4,
        addition_embed_type="image",
        encoder_hid_dim=8,
        cross_attention_dim=8,
    )
    with pytest.raises(ModelError, match="'image'"):
        example_inputs(unet)
