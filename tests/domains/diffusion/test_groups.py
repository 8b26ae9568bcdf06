"""What is offered for removal, and what is not because it would not be exact."""

from __future__ import annotations

import copy

import pytest
import torch

from gencompress.core.group import shapes_of
from gencompress.core.plan import Plan
from gencompress.core.trace import on_meta
from gencompress.domains.diffusion.families import FAMILIES
from gencompress.domains.diffusion.groups import groups_of
from gencompress.domains.diffusion.removal import remove
from gencompress.errors import ConfigError, ModelError
from tests.laws.denoisers import NAMES, WIDTHS, denoiser

ALL = (*WIDTHS, "depth")


def half(groups):
    return Plan({g.name: torch.arange(g.size // 2) for g in groups}, {g.name: g.size for g in groups})


def kinds(groups):
    return {g.kind for g in groups}


@pytest.mark.parametrize("name", NAMES)
def test_groups_fit_their_model_and_need_no_weights(name):
    groups = groups_of(denoiser(name), ALL)
    groups.check(shapes_of(denoiser(name).state_dict()))
    assert groups_of(on_meta(denoiser(name)), ALL) == groups


@pytest.mark.parametrize("name", NAMES)
def test_a_pruned_model_offers_what_is_left(name):
    groups = groups_of(denoiser(name), WIDTHS)
    plan = half(groups)
    left = groups_of(remove(denoiser(name), groups, plan), WIDTHS)
    assert {g.name: g.size for g in left} == {n: c for n, c in plan.counts.items() if c}


def test_adaln_and_depth_are_given_only_when_named():
    for name, native in (("flux", "FluxTransformer2DModel"), ("sd3-dual", "SD3Transformer2DModel")):
        assert kinds(groups_of(denoiser(name))) == set(FAMILIES[native].widths) == {"head", "ffn"}
        assert kinds(groups_of(denoiser(name), ["depth"])) == {"depth"}
        assert kinds(groups_of(denoiser(name), ["adaln", "head", "resnet"])) == {"adaln", "head"}


def test_unknown_kinds_name_the_nearest():
    with pytest.raises(ConfigError, match=r"'heads'.*'head'"):
        groups_of(denoiser("dit"), ["heads"])


def test_kinds_that_a_family_lacks_altogether_name_what_it_has():
    with pytest.raises(ConfigError, match="head, ffn"):
        groups_of(denoiser("dit"), ["resnet"])


def test_other_models_are_refused_by_name():
    with pytest.raises(ModelError, match=r"Linear.*UNet2DConditionModel.*FluxTransformer2DModel"):
        groups_of(torch.nn.Linear(2, 2))


def test_blocks_that_the_rest_depends_on_are_not_offered():
    assert "transformer_blocks.0" not in groups_of(denoiser("dit"), ["depth"]).by_name
    last = f"transformer_blocks.{len(denoiser('sd3-dual').transformer_blocks) - 1}"
    assert last not in groups_of(denoiser("sd3-dual"), ["depth"]).by_name
    for name in ("dit", "pixart", "sana", "sd3-dual", "flux-joint"):
        model = denoiser(name)
        blocks = len(model.transformer_blocks) + len(getattr(model, "single_transformer_blocks", ()))
        assert len(groups_of(model, ["depth"])) < blocks


def test_joint_heads_span_both_streams():
    groups = groups_of(denoiser("sd3-dual"))
    first, last = groups.by_name["transformer_blocks.0.attn"], groups.by_name["transformer_blocks.4.attn"]
    assert [s.module for s in first.sites] == [
        "transformer_blocks.0.attn.to_out.0",
        "transformer_blocks.0.attn.to_add_out",
    ]
    assert [s.module for s in last.sites] == ["transformer_blocks.4.attn.to_out.0"]
    assert "transformer_blocks.2.attn2" in groups.by_name and "transformer_blocks.1.attn2" not in groups.by_name


def test_single_blocks_read_heads_before_neurons():
    groups = groups_of(denoiser("flux"))
    heads = groups.by_name["single_transformer_blocks.0.attn"]
    neurons = groups.by_name["single_transformer_blocks.0.proj_mlp"]
    assert heads.sites[0].module == neurons.sites[0].module == "single_transformer_blocks.0.proj_out"
    assert (heads.sites[0].offset, neurons.sites[0].offset) == (0, heads.size * heads.sites[0].block)


def test_heads_under_a_norm_across_heads_are_left_out():
    from diffusers import SanaTransformer2DModel

    config = {
        "num_attention_heads": 2,
        "attention_head_dim": 4,
        "num_cross_attention_heads": 2,
        "cross_attention_head_dim": 4,
        "cross_attention_dim": 8,
        "caption_channels": 8,
        "num_layers": 1,
    }
    assert kinds(groups_of(SanaTransformer2DModel(**config))) == {"head", "ffn"}
    assert kinds(groups_of(SanaTransformer2DModel(**config, qk_norm="rms_norm_across_heads"))) == {"ffn"}


def _unet(**config):
    from diffusers import UNet2DConditionModel

    stock = {
        "sample_size": 8,
        "block_out_channels": (8, 16),
        "layers_per_block": 1,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        "norm_num_groups": 4,
        "attention_head_dim": 2,
        "cross_attention_dim": 8,
    }
    return UNet2DConditionModel(**stock | config)


def test_attention_over_added_keys_is_left_out():
    types = {
        "down_block_types": ("DownBlock2D", "SimpleCrossAttnDownBlock2D"),
        "mid_block_type": "UNetMidBlock2DSimpleCrossAttn",
        "up_block_types": ("SimpleCrossAttnUpBlock2D", "UpBlock2D"),
    }
    assert "head" in kinds(groups_of(_unet()))
    assert kinds(groups_of(_unet(**types))) == {"resnet", "time"}


def test_the_time_embedding_is_left_out_where_something_else_is_joined_to_it():
    assert "time_embedding.linear_2" in groups_of(_unet()).by_name
    concat = _unet(class_embed_type="timestep", class_embeddings_concat=True)
    assert "time_embedding.linear_2" not in groups_of(concat).by_name
    assert "time_embedding.linear_1" in groups_of(concat).by_name
    identity = _unet(class_embed_type="identity")
    assert "time_embedding.linear_2" not in groups_of(identity).by_name


def test_attached_adapters_and_fused_projections_are_refused():
    from peft import LoraConfig, inject_adapter_in_model

    model = copy.deepcopy(denoiser("sd"))
    inject_adapter_in_model(LoraConfig(r=2, target_modules=["to_q"]), model)
    with pytest.raises(ModelError, match="unload"):
        groups_of(model)
    fused = copy.deepcopy(denoiser("sd"))
    fused.fuse_qkv_projections()
    with pytest.raises(ModelError, match="unfuse_qkv_projections"):
        groups_of(fused)


def test_a_processor_with_weights_is_refused():
    from diffusers.models.attention_processor import IPAdapterAttnProcessor2_0

    model = copy.deepcopy(denoiser("sd"))
    attn = model.mid_block.attentions[0].transformer_blocks[0].attn2
    attn.set_processor(IPAdapterAttnProcessor2_0(hidden_size=32, cross_attention_dim=32))
    with pytest.raises(ModelError, match="IPAdapterAttnProcessor2_0"):
        groups_of(model)
