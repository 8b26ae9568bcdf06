"""Costs of a denoiser: example inputs at its native size, traced work, and the exact cost model of its groups."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from gencompress.core.cost import CostModel, Metric, Work, cost_of
from gencompress.core.group import Groups
from gencompress.core.trace import on_meta, trace_work
from gencompress.domains.diffusion.families import family_of
from gencompress.errors import ModelError

Inputs = dict[str, Any]


def cost_model(denoiser: nn.Module, groups: Groups, metric: Metric = "params") -> CostModel:
    """The exact cost of every plan for `groups`, in parameters, MACs of one forward at batch 1, or bytes of weights."""
    return cost_of(denoiser, groups, metric, trace)


def trace(denoiser: nn.Module) -> Work:
    """MACs of one forward at batch 1 and native resolution, found on the meta device: no weight is read or copied."""
    twin = on_meta(denoiser)
    inputs = example_inputs(twin, "meta")
    return trace_work(twin, lambda: twin(**inputs))


def example_inputs(denoiser: Any, device: torch.device | str = "cpu") -> Inputs:
    """Keyword arguments of one forward of `denoiser`, batch 1, at the resolution and text length it was made for.

    FLUX's config names no resolution; its inputs are those of a 1024 px picture.

    Raises:
        ModelError: the denoiser wants conditioning that no supported pipeline gives it.
    """
    new = _Factory(torch.device(device), denoiser.dtype)
    return _INPUTS[family_of(denoiser).native](denoiser, new)


class _Factory:
    """Makes the tensors: zeros of the model's dtype, or integers."""

    def __init__(self, device: torch.device, dtype: torch.dtype) -> None:
        self.device, self.dtype = device, dtype

    def __call__(self, *shape: int) -> Tensor:
        return torch.zeros(shape, device=self.device, dtype=self.dtype)

    def integers(self, *shape: int) -> Tensor:
        return torch.zeros(shape, device=self.device, dtype=torch.int64)


def _square(size: int | tuple[int, int] | list[int] | None) -> tuple[int, int]:
    """``sample_size`` as (height, width); a config without one gets 64, which every UNet depth divides."""
    if size is None:
        return 64, 64
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def _unet2d(unet: Any, new: _Factory) -> Inputs:
    config = unet.config
    inputs: Inputs = {"sample": new(1, config.in_channels, *_square(config.sample_size)), "timestep": new.integers(1)}
    if unet.class_embedding is not None:
        inputs["class_labels"] = _class_labels(unet, new)
    return inputs


def _class_labels(unet: Any, new: _Factory) -> Tensor:
    if isinstance(unet.class_embedding, nn.Embedding) or unet.config.class_embed_type == "timestep":
        return new.integers(1)
    if isinstance(unet.class_embedding, nn.Identity):
        return new(1, unet.time_embedding.linear_2.out_features)
    return new(1, unet.config.projection_class_embeddings_input_dim)


def _unet2d_condition(unet: Any, new: _Factory) -> Inputs:
    config = unet.config
    inputs = _unet2d(unet, new)
    width = config.cross_attention_dim if config.encoder_hid_dim is None else config.encoder_hid_dim
    inputs["encoder_hidden_states"] = new(1, 77, width if isinstance(width, int) else width[0])
    if config.time_cond_proj_dim is not None:
        inputs["timestep_cond"] = new(1, config.time_cond_proj_dim)
    if config.addition_embed_type == "text_time":
        pooled = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
        inputs["added_cond_kwargs"] = {"text_embeds": new(1, pooled), "time_ids": new(1, 6)}
    elif config.addition_embed_type not in (None, "text"):
        raise ModelError(f"addition_embed_type {config.addition_embed_type!r} is not supported; text_time and text are")
    return inputs


def _dit(dit: Any, new: _Factory) -> Inputs:
    return {
        "hidden_states": new(1, dit.config.in_channels, *_square(dit.config.sample_size)),
        "timestep": new.integers(1),
        "class_labels": new.integers(1),
    }


def _pixart(pixart: Any, new: _Factory) -> Inputs:
    config = pixart.config
    extra = pixart.use_additional_conditions
    return {
        "hidden_states": new(1, config.in_channels, *_square(config.sample_size)),
        "encoder_hidden_states": new(1, 120, config.caption_channels or config.cross_attention_dim),
        "timestep": new.integers(1),
        "added_cond_kwargs": {
            "resolution": new(1, 2) if extra else None,
            "aspect_ratio": new(1, 1) if extra else None,
        },
    }


def _sd3(sd3: Any, new: _Factory) -> Inputs:
    config = sd3.config
    return {
        "hidden_states": new(1, config.in_channels, *_square(config.sample_size)),
        "encoder_hidden_states": new(1, 77 + 256, config.joint_attention_dim),  # CLIP, then T5
        "pooled_projections": new(1, config.pooled_projection_dim),
        "timestep": new.integers(1),
    }


def _flux(flux: Any, new: _Factory) -> Inputs:
    config = flux.config
    picture, text = (1024 // 16) ** 2, 512
    inputs: Inputs = {
        "hidden_states": new(1, picture, config.in_channels),
        "encoder_hidden_states": new(1, text, config.joint_attention_dim),
        "pooled_projections": new(1, config.pooled_projection_dim),
        "timestep": new(1),
        "img_ids": new(picture, 3),
        "txt_ids": new(text, 3),
    }
    if config.guidance_embeds:
        inputs["guidance"] = new(1)
    return inputs


def _sana(sana: Any, new: _Factory) -> Inputs:
    config = sana.config
    inputs: Inputs = {
        "hidden_states": new(1, config.in_channels, *_square(config.sample_size)),
        "encoder_hidden_states": new(1, 300, config.caption_channels),
        "timestep": new.integers(1),
    }
    if config.guidance_embeds:
        inputs["guidance"] = new(1)
    return inputs


_INPUTS: Mapping[str, Callable[[Any, _Factory], Inputs]] = {
    "UNet2DModel": _unet2d,
    "UNet2DConditionModel": _unet2d_condition,
    "DiTTransformer2DModel": _dit,
    "PixArtTransformer2DModel": _pixart,
    "SD3Transformer2DModel": _sd3,
    "FluxTransformer2DModel": _flux,
    "SanaTransformer2DModel": _sana,
}
