"""Physical removal: a plan turns an image encoder into a smaller one, and leaves the input as it was."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from transformers.models.sam.modeling_sam import SamVisionEncoder

from gencompress.core.group import Groups, shapes_of
from gencompress.core.plan import Plan
from gencompress.core.prune import removed_blocks, renamed, resize_spec
from gencompress.core.rebuild import fill_, merged_spec, require_fitting
from gencompress.domains.sam.groups import require_supported
from gencompress.domains.sam.modeling import PRUNING_VERSION
from gencompress.errors import ModelError


def remove(encoder: Any, groups: Groups, plan: Plan, *, other_weights: bool = False) -> nn.Module:
    """The encoder without the units that `plan` drops, as a new module that shares no tensor with the old one.

    Its config is a stock one if all layers are equally wide and the residual stream is as wide as their heads
    together; else ``config.pruning`` has the widths of every layer. It may be pruned again.

    Args:
        encoder: the `vision_encoder` of a `SamModel`, dense or pruned before.
        groups: groups of `encoder`, from `groups_of`.
        plan: the units to keep; its source is checked against the weights if it names one.
        other_weights: apply the plan to another fine-tune of the model that it was made for.

    Raises:
        ModelError: not the encoder of a `SamModel`.
        PlanError: the plan is for other groups or other weights.
    """
    require_supported(encoder)
    tensors = encoder.state_dict()
    require_fitting(plan, groups, tensors, other_weights=other_weights)
    removed = removed_blocks(groups, plan)
    config = _without_layers(encoder.config, removed)
    spec = resize_spec(groups, plan, shapes_of(tensors))
    modules = merged_spec(getattr(config, "pruning", None), spec, removed)
    config.pruning = {"version": PRUNING_VERSION, "modules": modules}
    new = _on_meta(config)
    if why_not_stock(new) is None:
        new = _on_meta(_stock(config, new))
    fill_(new, encoder, groups, plan)
    return new


def why_not_stock(encoder: Any) -> str | None:
    """What keeps a stock config from describing the widths of `encoder`; None if one does."""
    width = len(encoder.patch_embed.projection.weight)
    heads, inner, neurons = (sorted(values) for values in _layer_widths(encoder))
    for name, values in (("heads", heads), ("attention widths", inner), ("MLP widths", neurons)):
        if len(values) > 1:
            return f"layers have different {name}, {', '.join(map(str, values))}"
    if inner and inner[0] != width:
        return f"the residual stream is {width} wide, but the {heads[0]} heads of a layer are {inner[0]} wide"
    if 0 in (*heads, *neurons):
        return "layers have no units left"
    return None


def require_stock(encoder: Any) -> None:
    """Raise ModelError, saying what stands in the way, unless plain transformers can open `encoder` when saved."""
    reason = why_not_stock(encoder)
    if reason is not None:
        raise ModelError(f"a stock config cannot describe this encoder: {reason}")


def with_encoder(model: Any, encoder: nn.Module) -> Any:
    """A copy of a whole `SamModel` around another image encoder; prompt encoder and mask decoder are copied."""
    new: Any = encoder
    memo = {id(model.vision_encoder): new, id(model.config.vision_config): new.config}
    return copy.deepcopy(model, memo)


def _layer_widths(encoder: Any) -> tuple[set[int], set[int], set[int]]:
    """Heads, attention widths and MLP widths that occur."""
    attention = [layer.attn for layer in encoder.layers]
    return (
        {attn.num_attention_heads for attn in attention},
        {len(attn.qkv.weight) // 3 for attn in attention},
        {len(layer.mlp.lin1.weight) for layer in encoder.layers},
    )


def _without_layers(config: Any, removed: Mapping[str, list[int]]) -> Any:
    """The config of the encoder without the removed layers; which of the others attend globally moves with them."""
    config = copy.deepcopy(config)
    for container, indices in removed.items():
        config.num_hidden_layers -= len(indices)
        moved = (renamed(f"{container}.{i}", removed) for i in config.global_attn_indexes)
        config.global_attn_indexes = [int(name.rsplit(".", 1)[1]) for name in moved if name is not None]
    return config


def _stock(config: Any, encoder: Any) -> Any:
    """`config` with the widths of `encoder` in its own terms."""
    config = copy.deepcopy(config)
    del config.pruning
    config.hidden_size = len(encoder.patch_embed.projection.weight)
    config.scale = config.hidden_size // 2  # derived, but written to config.json
    if len(encoder.layers):
        heads, _, neurons = _layer_widths(encoder)
        config.num_attention_heads, config.mlp_dim = heads.pop(), neurons.pop()
    return config


def _on_meta(config: Any) -> nn.Module:
    """The architecture on the meta device, so that no weight is allocated or initialised."""
    with torch.device("meta"):
        return SamVisionEncoder(config)
