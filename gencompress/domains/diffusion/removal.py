"""Physical removal: a plan turns a denoiser into a smaller one, and leaves the input as it was."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import diffusers
import torch
from torch import nn

import gencompress.diffusers as pruned_classes
from gencompress.core.group import Groups, shapes_of
from gencompress.core.plan import Plan
from gencompress.core.prune import removed_blocks, renamed, resize_spec
from gencompress.core.rebuild import Spec, fill_, merged_spec, require_fitting
from gencompress.domains.diffusion.families import Family, family_of
from gencompress.domains.diffusion.modeling import PRUNING_VERSION


def remove(denoiser: Any, groups: Groups, plan: Plan, *, other_weights: bool = False) -> nn.Module:
    """The denoiser without the units that `plan` drops, as a new module that shares no tensor with the old one.

    The result is a ``gencompress.diffusers.Pruned<Class>``, or the stock class if whole blocks are all that is gone.
    It may be pruned again. Besides the input, memory holds the pruned weights once.

    Args:
        denoiser: dense or pruned before, of a supported class.
        groups: groups of `denoiser`, from `groups_of`.
        plan: the units to keep; its source is checked against the weights if it names one.
        other_weights: apply the plan to another fine-tune of the model that it was made for.

    Raises:
        PlanError: the plan is for other groups or other weights.
    """
    tensors = denoiser.state_dict()
    require_fitting(plan, groups, tensors, other_weights=other_weights)
    family = family_of(denoiser)
    removed = removed_blocks(groups, plan)
    config = _without_blocks(family, _plain_config(denoiser), removed)
    modules = merged_spec(config.pop("pruning", None), resize_spec(groups, plan, shapes_of(tensors)), removed)
    new = _build(family, config, modules)
    fill_(new, denoiser, groups, plan)
    return new


def _plain_config(denoiser: Any) -> dict[str, Any]:
    """The config with every value spelled out: diffusers would drop those that once were defaults."""
    return {key: value for key, value in denoiser.config.items() if key != "_use_default_values"}


def _without_blocks(family: Family, config: dict[str, Any], removed: Mapping[str, list[int]]) -> dict[str, Any]:
    """The config of the model without the removed blocks, in diffusers' own terms."""
    keys = dict(family.stacks)
    for container, indices in removed.items():
        config[keys[container]] -= len(indices)
        if config.get("dual_attention_layers"):  # of SD3.5, indices of blocks
            names = (renamed(f"{container}.{i}", removed) for i in config["dual_attention_layers"])
            config["dual_attention_layers"] = tuple(int(n.rsplit(".", 1)[1]) for n in names if n is not None)
    return config


def _build(family: Family, config: dict[str, Any], modules: Spec) -> nn.Module:
    """The architecture on the meta device, so that no weight is allocated or initialised."""
    with torch.device("meta"):
        if not modules:
            return getattr(diffusers, family.native).from_config(config)
        pruning = {"version": PRUNING_VERSION, "modules": modules}
        return getattr(pruned_classes, f"Pruned{family.native}").from_config({**config, "pruning": pruning})
