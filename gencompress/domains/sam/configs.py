"""What stock configs can say about pruned encoders, and what they cannot."""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping
from itertools import pairwise
from typing import Any

from gencompress.core.prune import renamed
from gencompress.domains.sam.families import family_of
from gencompress.errors import ModelError


def without_layers(encoder: Any, removed: Mapping[str, list[int]]) -> Any:
    """The encoder's config without the removed layers; which of the others attend globally moves with them.

    Args:
        encoder: the encoder before removal.
        removed: indices of the removed layers by container (`gencompress.core.prune.removed_blocks`).
    """
    config = copy.deepcopy(encoder.config)
    for container, indices in removed.items():
        if container == "layers":
            config.num_hidden_layers -= len(indices)
            config.global_attn_indexes = _moved(config.global_attn_indexes, container, removed)
        else:
            backbone, ends = config.backbone_config, encoder.backbone.stage_ends
            starts = [0, *(end + 1 for end in ends)]
            gone = [sum(a <= i <= b for i in indices) for a, b in zip(starts, ends, strict=False)]
            backbone.blocks_per_stage = [n - g for n, g in zip(backbone.blocks_per_stage, gone, strict=True)]
            backbone.global_attention_blocks = _moved(backbone.global_attention_blocks, container, removed)
    return config


def _moved(indices: Collection[int], container: str, removed: Mapping[str, list[int]]) -> list[int]:
    names = (renamed(f"{container}.{i}", removed) for i in indices)
    return [int(name.rsplit(".", 1)[1]) for name in names if name is not None]


def why_not_stock(encoder: Any) -> str | None:
    """What keeps a stock config from describing the widths of `encoder`; None if one does."""
    if family_of(encoder).native == "SamVisionEncoder":
        return _vit_reason(encoder)
    return _hiera_reason(encoder)


def require_stock(encoder: Any) -> None:
    """Raise ModelError, saying what stands in the way, unless plain transformers can open `encoder` when saved."""
    reason = why_not_stock(encoder)
    if reason is not None:
        raise ModelError(f"a stock config cannot describe this encoder: {reason}")


def stock_config(config: Any, encoder: Any) -> Any:
    """`config` without ``pruning``, with the widths of `encoder` in its own terms; `why_not_stock` must be None."""
    config = copy.deepcopy(config)
    del config.pruning
    if family_of(encoder).native == "SamVisionEncoder":
        config.hidden_size = len(encoder.patch_embed.projection.weight)
        config.scale = config.hidden_size // 2  # derived, but written to config.json
        for layer in encoder.layers[:1]:
            config.num_attention_heads, config.mlp_dim = layer.attn.num_attention_heads, len(layer.mlp.lin1.weight)
        return config
    widths = _stage_widths(encoder)
    config.backbone_channel_list = widths[::-1]
    config.backbone_config.hidden_size, config.backbone_config.embed_dim_per_stage = widths[0], widths
    config.backbone_config.mlp_ratio = len(encoder.backbone.blocks[0].mlp.proj_in.weight) / widths[0]
    return config


def _vit_reason(encoder: Any) -> str | None:
    width = len(encoder.patch_embed.projection.weight)
    attention = [layer.attn for layer in encoder.layers]
    heads = sorted({attn.num_attention_heads for attn in attention})
    inner = sorted({len(attn.qkv.weight) // 3 for attn in attention})
    neurons = sorted({len(layer.mlp.lin1.weight) for layer in encoder.layers})
    for name, values in (("heads", heads), ("attention widths", inner), ("MLP widths", neurons)):
        if len(values) > 1:
            return f"layers have different {name}, {', '.join(map(str, values))}"
    if inner and inner[0] != width:
        return f"the residual stream is {width} wide, but the {heads[0]} heads of a layer are {inner[0]} wide"
    if 0 in (*heads, *neurons):
        return "layers have no units left"
    return None


def _hiera_reason(encoder: Any) -> str | None:
    backbone, widths = encoder.backbone, _stage_widths(encoder)
    if any(a == b for a, b in pairwise(widths)):
        return f"stages next to each other are equally wide, {', '.join(map(str, widths))}"
    ratio, start = len(backbone.blocks[0].mlp.proj_in.weight) / widths[0], 0
    for width, end in zip(widths, backbone.stage_ends, strict=True):
        for i in range(start, end + 1):
            inner, hidden = len(backbone.blocks[i].attn.qkv.weight) // 3, len(backbone.blocks[i].mlp.proj_in.weight)
            if inner != width:
                return f"the residual stream of block {i} is {width} wide, but its heads together are {inner} wide"
            if not hidden or hidden != int(width * ratio):
                return (
                    f"block {i} has {hidden} neurons for {width} channels, and the first block {ratio:.4g} per channel"
                )
        start = end + 1
    return None


def _stage_widths(encoder: Any) -> list[int]:
    return [conv.weight.shape[1] for conv in encoder.neck.convs][::-1]
