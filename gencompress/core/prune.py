"""Physical removal: what one plan takes from a state dict and from the architecture.

Optimizer state and LoRA weights are narrowed by the same plan in `gencompress.core.adapters`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from gencompress.core.group import Groups, shapes_of
from gencompress.core.plan import Plan


def removed_indices(groups: Groups, plan: Plan) -> dict[tuple[str, int], Tensor]:
    """Indices that go, unordered, by (tensor, dim), of every dimension from which the plan removes something.

    Raises:
        PlanError: the plan is for other groups.
    """
    plan.check_groups(groups)
    gone: dict[tuple[str, int], list[Tensor]] = {}
    for group in groups:
        units = torch.ones(group.size, dtype=torch.bool)
        units[plan.keep[group.name]] = False
        removed = torch.nonzero(units).flatten()
        for s in group.slices if len(removed) else ():
            gone.setdefault((s.tensor, s.dim), []).append(s.indices(removed))
    return {key: torch.cat(parts) for key, parts in gone.items()}


def complement(removed: Tensor, size: int) -> Tensor:
    """Ascending indices of ``[0, size)`` that are not in `removed`."""
    stays = torch.ones(size, dtype=torch.bool)
    stays[removed] = False
    return torch.nonzero(stays).flatten()


def kept_indices(groups: Groups, plan: Plan, shapes: Mapping[str, tuple[int, ...]]) -> dict[tuple[str, int], Tensor]:
    """Indices that stay, ascending, by (tensor, dim), of every dimension from which the plan removes something.

    Raises:
        PlanError: the plan is for other groups, or a group does not fit `shapes`.
    """
    groups.check(shapes)
    gone = removed_indices(groups, plan)
    return {(name, dim): complement(removed, shapes[name][dim]) for (name, dim), removed in gone.items()}


def narrow(tensors: Mapping[str, Tensor], groups: Groups, plan: Plan) -> dict[str, Tensor]:
    """The tensors of the pruned model as a new mapping; untouched tensors are shared with the input.

    Blocks removed by ``depth`` groups vanish and those behind them move up. Groups whose removed outputs stay as zeros
    (`Group.scatter`) gain a buffer ``{module}.index``, the places of the remaining outputs among the dense ones.

    Args:
        tensors: state dict of the model that `groups` describe, or anything with the same names and shapes (an EMA).
        groups: groups of that model.
        plan: what stays.

    Raises:
        PlanError: the plan is for other groups, or a group does not fit the tensors.
    """
    out = dict(tensors)
    stays = kept_indices(groups, plan, shapes_of(tensors))
    for name, (factor, stop) in rescaled(groups, plan).items():
        out[name] = rescale(out[name], factor, stop)
    for (name, dim), index in stays.items():
        out[name] = out[name].index_select(dim, index.to(out[name].device)).contiguous()
    for module in _scattered(groups, stays):
        weight = out[f"{module}.weight"]
        index, previous = stays[f"{module}.weight", 0].to(weight.device), tensors.get(f"{module}.index")
        out[f"{module}.index"] = index if previous is None else previous[index]
    removed = removed_blocks(groups, plan)
    return {new: tensor for name, tensor in out.items() if (new := renamed(name, removed)) is not None}


def rescaled(groups: Groups, plan: Plan) -> dict[str, tuple[float, int | None]]:
    """Factor and end of the values that it is for, by tensor, where the plan changes a width that values depend on."""
    found: dict[str, tuple[float, int | None]] = {}
    for group in groups:
        count = len(plan.keep[group.name])
        if 0 < count < group.size:  # of no units nothing is left to multiply
            for r in group.rescale:
                found[r.tensor] = ((count / group.size) ** r.power, r.stop)
    return found


def rescale(tensor: Tensor, factor: float, stop: int | None) -> Tensor:
    """A copy of `tensor` with the values before index `stop` of dim 0 multiplied."""
    out = tensor.detach().clone()
    out[:stop] *= factor
    return out


def _scattered(groups: Groups, stays: Mapping[tuple[str, int], Tensor]) -> list[str]:
    """Modules that lose outputs which their consumers go on reading, as zeros."""
    modules = dict.fromkeys(module for group in groups for module in group.scatter)
    return [module for module in modules if (f"{module}.weight", 0) in stays]


def removed_blocks(groups: Groups, plan: Plan) -> dict[str, list[int]]:
    """Indices of the blocks that depth groups remove, ascending, by the name of their container."""
    removed: dict[str, list[int]] = {}
    for group in groups:
        if group.stack is not None and not len(plan.keep[group.name]):
            container, _, index = group.stack.removesuffix(".").rpartition(".")
            removed.setdefault(container, []).append(int(index))
    return {container: sorted(indices) for container, indices in removed.items()}


def renamed(name: str, removed: Mapping[str, Sequence[int]], separator: str = ".") -> str | None:
    """Where a tensor or module moves when blocks are removed; None if it goes with its block.

    Args:
        name: path before the removal.
        removed: `removed_blocks`.
        separator: what stands between the parts of `name`; kohya writes ``_``.
    """
    # Inner containers first: their own path must still be the one before the removal of blocks around them.
    for container in sorted(removed, key=len, reverse=True):
        prefix = f"{container}.".replace(".", separator) if container else ""
        match = re.match(rf"{re.escape(prefix)}(\d+)(?={re.escape(separator)}|$)", name)
        if match is None:
            continue
        index = int(match[1])
        if index in removed[container]:
            return None
        name = f"{prefix}{index - sum(i < index for i in removed[container])}{name[match.end() :]}"
    return name


def resize_spec(groups: Groups, plan: Plan, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, dict[str, Any]]:
    """What `gencompress.core.resize.resize_` needs to turn the dense architecture into the pruned one.

    Args:
        groups: groups of the model.
        plan: what stays.
        shapes: shape of every tensor of the model's state dict before removal.

    Returns:
        By module path after removal: parameter name -> new shape (list), attribute name -> new value (int), and
        ``scatter`` -> number of dense outputs where removed ones stay as zeros. Parameters at the top of the model
        have the path ``""``.
    """
    spec: dict[str, dict[str, Any]] = {}
    stays = kept_indices(groups, plan, shapes)
    for (name, dim), index in stays.items():
        module, _, parameter = name.rpartition(".")
        shape = spec.setdefault(module, {}).setdefault(parameter, list(shapes[name]))
        shape[dim] = len(index)
    for group in groups:
        count = len(plan.keep[group.name])
        for attr in group.attrs if count < group.size else ():
            spec.setdefault(attr.module, {})[attr.name] = attr.per_unit * count + attr.constant
    for module in _scattered(groups, stays):
        if f"{module}.index" not in shapes:  # else it is a ScatterLinear already
            spec[module]["scatter"] = shapes[f"{module}.weight"][0]
    removed = removed_blocks(groups, plan)
    return {new: entry for module, entry in spec.items() if (new := renamed(module, removed)) is not None}
