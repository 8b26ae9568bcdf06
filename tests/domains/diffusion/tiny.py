"""Tiny pipelines of every supported family, built from configs alone: random weights, nothing is downloaded.

Every builder returns a pipeline in eval mode with the same weights on every call. Images are 16 px (32 px for Sana);
`SIZE` holds the resolution to pass to a pipeline whose own default is larger.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

import torch

PROMPTS = ["a red fox", "two green apples on a table"]
SIZE = {"SanaPipeline": 32, "FluxPipeline": 16, "StableDiffusion3Pipeline": 16}
CLASSES = 1000  # DiTPipeline hard-codes 1000 as the label of "no class"

Pipe = TypeVar("Pipe")


def _tiny(build: Callable[..., Pipe]) -> Callable[..., Pipe]:
    """Run a builder under its own seed, move every norm and bias off its trivial initial value, switch to eval."""

    @wraps(build)
    def built(*args: Any, **kwargs: Any) -> Pipe:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            pipe: Any = build(*args, **kwargs)
            for name in sorted(pipe.components):
                module = pipe.components[name]
                if isinstance(module, torch.nn.Module):
                    module.eval().requires_grad_(False)
                    for parameter in module.parameters():
                        if parameter.ndim == 1:
                            parameter.add_(0.1 * torch.randn_like(parameter))
        pipe.set_progress_bar_config(disable=True)
        return pipe

    return built


@_tiny
def tiny_ddpm(channels: int = 3, **scheduler: Any) -> Any:
    """Unconditional pixels, 16 px, with a DDIM scheduler (stock class DDIMPipeline).

    It predicts v: a random network that predicts noise would drive most pixels out of range.
    """
    from diffusers import DDIMPipeline, DDIMScheduler, UNet2DModel

    unet = UNet2DModel(
        sample_size=16,
        in_channels=channels,
        out_channels=channels,
        block_out_channels=(16, 32),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=4,
        attention_head_dim=8,
    )
    return DDIMPipeline(unet, DDIMScheduler(**{"clip_sample": False, "prediction_type": "v_prediction", **scheduler}))


@_tiny
def tiny_sd() -> Any:
    from diffusers import StableDiffusionPipeline, UNet2DConditionModel

    unet = UNet2DConditionModel(**_unet_config(cross_attention_dim=32))
    return StableDiffusionPipeline(
        vae=_vae(4),
        text_encoder=_clip(),
        tokenizer=_clip_tokenizer(),
        unet=unet,
        scheduler=_ddim(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


@_tiny
def tiny_sdxl() -> Any:
    from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline, UNet2DConditionModel

    unet = UNet2DConditionModel(
        **_unet_config(cross_attention_dim=64),
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + 32,
        use_linear_projection=True,
        transformer_layers_per_block=(1, 2),
    )
    return StableDiffusionXLPipeline(
        vae=_vae(4),
        text_encoder=_clip(),
        text_encoder_2=_clip(projection=True),
        tokenizer=_clip_tokenizer(),
        tokenizer_2=_clip_tokenizer(),
        unet=unet,
        scheduler=EulerDiscreteScheduler(beta_schedule="scaled_linear", timestep_spacing="leading", steps_offset=1),
        add_watermarker=False,
    )


@_tiny
def tiny_dit() -> Any:
    """Class-conditional, learned sigma (twice the channels), labels `class0` to `class999`."""
    from diffusers import DiTPipeline, DiTTransformer2DModel

    transformer = DiTTransformer2DModel(
        num_attention_heads=4,
        attention_head_dim=8,
        in_channels=4,
        out_channels=8,
        num_layers=2,
        sample_size=8,
        patch_size=2,
        num_embeds_ada_norm=CLASSES,
    )
    id2label = {str(i): f"class{i}, label{i}" for i in range(CLASSES)}
    return DiTPipeline(transformer, _vae(4), _ddim(), id2label=id2label)


@_tiny
def tiny_pixart(sigma: bool = False) -> Any:
    from diffusers import (
        DPMSolverMultistepScheduler,
        PixArtAlphaPipeline,
        PixArtSigmaPipeline,
        PixArtTransformer2DModel,
    )

    transformer = PixArtTransformer2DModel(
        num_attention_heads=4,
        attention_head_dim=8,
        in_channels=4,
        out_channels=8,
        num_layers=2,
        cross_attention_dim=32,
        sample_size=8,
        patch_size=2,
        caption_channels=32,
        use_additional_conditions=False,
    )
    pipeline = PixArtSigmaPipeline if sigma else PixArtAlphaPipeline
    return pipeline(
        tokenizer=_t5_tokenizer(),
        text_encoder=_t5(),
        vae=_vae(4),
        transformer=transformer,
        scheduler=DPMSolverMultistepScheduler(),
    )


@_tiny
def tiny_sd3() -> Any:
    from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline

    transformer = SD3Transformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=4,
        num_layers=3,
        attention_head_dim=8,
        num_attention_heads=4,
        joint_attention_dim=64,
        caption_projection_dim=32,
        pooled_projection_dim=64,
        out_channels=4,
        pos_embed_max_size=16,
        dual_attention_layers=(0,),
        qk_norm="rms_norm",
    )
    return StableDiffusion3Pipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=_vae(4, shift_factor=0.1),
        text_encoder=_clip(projection=True),
        tokenizer=_clip_tokenizer(),
        text_encoder_2=_clip(projection=True),
        tokenizer_2=_clip_tokenizer(),
        text_encoder_3=_t5(64),
        tokenizer_3=_t5_tokenizer(),
    )


@_tiny
def tiny_flux(guidance_embeds: bool = True) -> Any:
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel

    transformer = FluxTransformer2DModel(
        patch_size=1,
        in_channels=16,
        num_layers=1,
        num_single_layers=2,
        attention_head_dim=16,
        num_attention_heads=4,
        joint_attention_dim=32,
        pooled_projection_dim=32,
        guidance_embeds=guidance_embeds,
        axes_dims_rope=(4, 6, 6),
    )
    pipe = FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
        vae=_vae(4, shift_factor=0.1),
        text_encoder=_clip(),
        tokenizer=_clip_tokenizer(),
        text_encoder_2=_t5(),
        tokenizer_2=_t5_tokenizer(),
        transformer=transformer,
    )
    pipe.default_sample_size = 8  # the stock 128 would mean 4,096 image tokens
    return pipe


@_tiny
def tiny_sana() -> Any:
    from diffusers import AutoencoderDC, DPMSolverMultistepScheduler, SanaPipeline, SanaTransformer2DModel
    from transformers import Gemma2Config, Gemma2Model

    transformer = SanaTransformer2DModel(
        in_channels=4,
        out_channels=4,
        num_attention_heads=4,
        attention_head_dim=8,
        num_layers=2,
        num_cross_attention_heads=2,
        cross_attention_head_dim=16,
        cross_attention_dim=32,
        caption_channels=16,
        mlp_ratio=1.5,
        sample_size=8,
    )
    channels = (8, 8, 8)
    vae = AutoencoderDC(
        latent_channels=4,
        attention_head_dim=4,
        encoder_block_types=("ResBlock", "ResBlock", "EfficientViTBlock"),
        decoder_block_types=("ResBlock", "ResBlock", "EfficientViTBlock"),
        encoder_block_out_channels=channels,
        decoder_block_out_channels=channels,
        encoder_layers_per_block=(1, 1, 1),
        decoder_layers_per_block=(1, 1, 1),
        encoder_qkv_multiscales=((), (), (5,)),
        decoder_qkv_multiscales=((), (), (5,)),
        scaling_factor=0.41407,
    )
    tokenizer = _gemma_tokenizer()
    text_encoder = Gemma2Model(
        Gemma2Config(
            vocab_size=len(tokenizer),
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=2,
            head_dim=8,
            max_position_embeddings=4096,
            pad_token_id=0,
        )
    )
    scheduler = DPMSolverMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0, solver_order=2
    )
    return SanaPipeline(
        tokenizer=tokenizer, text_encoder=text_encoder, vae=vae, transformer=transformer, scheduler=scheduler
    )


TINY: dict[str, Callable[..., Any]] = {
    "ddpm": tiny_ddpm,
    "sd": tiny_sd,
    "sdxl": tiny_sdxl,
    "dit": tiny_dit,
    "pixart": tiny_pixart,
    "sd3": tiny_sd3,
    "flux": tiny_flux,
    "sana": tiny_sana,
}


def _ddim() -> Any:
    from diffusers import DDIMScheduler

    return DDIMScheduler(beta_schedule="scaled_linear", clip_sample=False, set_alpha_to_one=False, steps_offset=1)


def _unet_config(cross_attention_dim: int) -> dict[str, Any]:
    return {
        "sample_size": 8,
        "in_channels": 4,
        "out_channels": 4,
        "block_out_channels": (16, 32),
        "layers_per_block": 1,
        "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        "norm_num_groups": 4,
        "attention_head_dim": (2, 4),  # diffusers reads this as the number of heads
        "cross_attention_dim": cross_attention_dim,
    }


def _vae(latent_channels: int, **config: Any) -> Any:
    """Halves the resolution."""
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        block_out_channels=(8, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=latent_channels,
        norm_num_groups=4,
        sample_size=16,
        **config,
    )


def _clip(projection: bool = False) -> Any:
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    size = len(_clip_tokenizer())
    config = CLIPTextConfig(
        vocab_size=size,
        hidden_size=32,
        intermediate_size=37,
        projection_dim=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=77,
        bos_token_id=size - 2,
        eos_token_id=size - 1,
        pad_token_id=size - 1,
    )
    return (CLIPTextModelWithProjection if projection else CLIPTextModel)(config)


def _clip_tokenizer() -> Any:
    from transformers import CLIPTokenizer

    letters = [chr(c) for c in range(33, 127)]
    tokens = [*letters, *(c + "</w>" for c in letters), "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(vocab={t: i for i, t in enumerate(tokens)}, merges=[], model_max_length=77)


def _t5(width: int = 32) -> Any:
    from transformers import T5Config, T5EncoderModel

    size = len(_t5_tokenizer())
    return T5EncoderModel(
        T5Config(vocab_size=size, d_model=width, d_kv=8, d_ff=37, num_layers=2, num_heads=4, dropout_rate=0.0)
    )


def _t5_tokenizer() -> Any:
    from transformers import T5Tokenizer

    letters = [("▁", -2.0), *((chr(c), -3.0) for c in range(33, 127))]
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *letters]
    return T5Tokenizer(vocab=pieces, extra_ids=0, model_max_length=512)


def _gemma_tokenizer() -> Any:
    from transformers import GemmaTokenizer

    tokens = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "▁", "\n", *(chr(c) for c in range(33, 127))]
    return GemmaTokenizer(vocab={t: i for i, t in enumerate(tokens)}, merges=[])
