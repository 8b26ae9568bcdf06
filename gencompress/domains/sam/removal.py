"""Physical removal: a plan turns an image encoder into a smaller one, and leaves the input as it was."""

from __future__ import annotations

import copy
from importlib import import_module
from typing import Any

import torch
from torch import nn

from gencompress.core.group import Groups, shapes_of
from gencompress.core.plan import Plan
from gencompress.core.prune import removed_blocks, resize_spec
from gencompress.core.rebuild import fill_, merged_spec, require_fitting
from gencompress.domains.sam.configs import stock_config, why_not_stock, without_layers
from gencompress.domains.sam.families import Family, family_of
from gencompress.domains.sam.modeling import PRUNING_VERSION


def remove(encoder: Any, groups: Groups, plan: Plan, *, other_weights: bool = False) -> nn.Module:
    """The encoder without the units that `plan` drops, as a new module that shares no tensor with the old one.

    Its config is a stock one wherever that can describe it (`gencompress.domains.sam.configs.why_not_stock`); else
    ``config.pruning`` has the widths of every layer. It may be pruned again.

    Args:
        encoder: the `vision_encoder` of a `SamModel` or `Sam2Model`, dense or pruned before.
        groups: groups of `encoder`, from `groups_of`.
        plan: the units to keep; its source is checked against the weights if it names one.
        other_weights: apply the plan to another fine-tune of the model that it was made for.

    Raises:
        ModelError: not the encoder of a supported model.
        PlanError: the plan is for other groups or other weights.
    """
    family = family_of(encoder)
    tensors = encoder.state_dict()
    require_fitting(plan, groups, tensors, other_weights=other_weights)
    removed = removed_blocks(groups, plan)
    config = without_layers(encoder, removed)
    spec = resize_spec(groups, plan, shapes_of(tensors))
    modules = merged_spec(getattr(config, "pruning", None), spec, removed)
    config.pruning = {"version": PRUNING_VERSION, "modules": modules}
    new = _on_meta(family, config)
    if why_not_stock(new) is None:
        new = _on_meta(family, stock_config(config, new))
    fill_(new, encoder, groups, plan)
    return new


def with_encoder(model: Any, encoder: nn.Module) -> Any:
    """A copy of a whole model around another image encoder; prompt encoder and mask decoder are copied."""
    new: Any = encoder
    memo = {id(model.vision_encoder): new, id(model.config.vision_config): new.config}
    return copy.deepcopy(model, memo)


def _on_meta(family: Family, config: Any) -> nn.Module:
    """The architecture on the meta device, so that no weight is allocated or initialised."""
    encoder = getattr(import_module(family.module), family.native)
    with torch.device("meta"):
        return encoder(config)
