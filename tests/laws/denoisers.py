"""Tiny denoisers of every family on which the laws are checked, and random inputs and plans for them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from gencompress.core.group import Groups
from gencompress.core.plan import Plan
from gencompress.domains.diffusion.costs import example_inputs
from gencompress.domains.diffusion.load import denoiser_of
from tests.domains.diffusion.tiny import TINY


def _unet_with_classes() -> nn.Module:
    """Scale-shift ResNets, class embedding, and samplers that are ResNets themselves."""
    from diffusers import UNet2DModel

    return UNet2DModel(
        sample_size=16,
        in_channels=3,
        out_channels=3,
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("ResnetDownsampleBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "ResnetUpsampleBlock2D"),
        norm_num_groups=4,
        attention_head_dim=4,
        num_class_embeds=5,
        resnet_time_scale_shift="scale_shift",
    )


def _unet_with_labels() -> nn.Module:
    """A text UNet with class labels through an MLP, guidance through the time MLP, and attention to the text alone."""
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=4,
        attention_head_dim=2,
        cross_attention_dim=12,
        only_cross_attention=(False, True),
        class_embed_type="timestep",
        time_cond_proj_dim=6,
        resnet_time_scale_shift="scale_shift",
    )


def _sd3_with_dual_blocks() -> nn.Module:
    from diffusers import SD3Transformer2DModel

    return SD3Transformer2DModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        num_layers=5,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=16,
        caption_projection_dim=16,
        pooled_projection_dim=16,
        pos_embed_max_size=16,
        dual_attention_layers=(0, 2, 3),
        qk_norm="rms_norm",
    )


def _flux_with_joint_blocks() -> nn.Module:
    from diffusers import FluxTransformer2DModel

    return FluxTransformer2DModel(
        in_channels=8,
        num_layers=3,
        num_single_layers=3,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=12,
        pooled_projection_dim=12,
        axes_dims_rope=(2, 2, 4),
    )


_OWN: dict[str, Callable[[], nn.Module]] = {
    "ddpm-classes": _unet_with_classes,
    "sd-labels": _unet_with_labels,
    "sd3-dual": _sd3_with_dual_blocks,
    "flux-joint": _flux_with_joint_blocks,
}
NAMES = (*TINY, *_OWN)
DEEP = ("pixart", "sana", "sd3-dual", "flux-joint")  # on these, whole blocks are removed too
WIDTHS = ("head", "ffn", "resnet", "time", "adaln")


@functools.cache
def denoiser(name: str) -> nn.Module:
    """One instance per process, in evaluation mode; no test changes it."""
    if name in TINY:
        return denoiser_of(TINY[name]())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return _OWN[name]().eval().requires_grad_(False)


def inputs(name: str, batch: int = 2) -> dict[str, Any]:
    """Random inputs of a small size that the denoiser takes, the same on every call."""
    generator = torch.Generator().manual_seed(1)

    def fill(key: str, value: Any) -> Any:
        if isinstance(value, dict):
            return {k: fill(k, v) for k, v in value.items()}
        if not isinstance(value, Tensor):
            return value
        if key in ("img_ids", "txt_ids"):
            return torch.arange(8)[:, None].repeat(1, 3).to(value)
        shape = (batch, 8, value.shape[2]) if value.ndim == 3 else (batch, *value.shape[1:])
        if not value.is_floating_point():
            return torch.randint(0, 4, shape, generator=generator)
        return torch.randn(shape, generator=generator)

    return {key: fill(key, value) for key, value in example_inputs(denoiser(name)).items()}


@torch.no_grad()
def run(module: nn.Module, given: dict[str, Any]) -> Tensor:
    """The prediction for `given`."""
    return module(**given, return_dict=False)[0]


def relative(a: Tensor, b: Tensor) -> float:
    """Largest difference, relative to the largest value of `b`."""
    return float((a - b).abs().max() / b.abs().max())


def plans(groups: Groups) -> st.SearchStrategy[Plan]:
    """Plans that keep anything from nothing to everything of each group, whatever its ``min_keep``."""

    def some(size: int) -> st.SearchStrategy[Tensor]:
        picks = st.tuples(st.integers(0, size), st.integers(0, 2**16))
        edges = st.sampled_from([(0, 0), (1, 1), (size, 0)])
        return (picks | edges).map(lambda p: _choose(size, min(p[0], size), p[1]))

    keep = st.fixed_dictionaries({g.name: some(g.size) for g in groups})
    return keep.map(lambda kept: Plan(kept, {g.name: g.size for g in groups}))


def _choose(size: int, count: int, seed: int) -> Tensor:
    return torch.randperm(size, generator=torch.Generator().manual_seed(seed))[:count].sort().values
