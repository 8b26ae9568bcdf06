"""What was trained beside the dense weights, narrowed by the same plan: optimizer state and LoRA."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from gencompress.core.group import Groups
from gencompress.core.plan import Plan
from gencompress.core.prune import complement, removed_blocks, removed_indices, renamed, rescale, rescaled
from gencompress.errors import PlanError


def narrow_optimizer_(
    optimizer: torch.optim.Optimizer,
    old: Mapping[str, nn.Parameter],
    new: Mapping[str, nn.Parameter],
    groups: Groups,
    plan: Plan,
) -> None:
    """Point `optimizer` at the pruned parameters and narrow its state (momentum, second moments).

    State of weights that the removal multiplies (`gencompress.core.group.Rescale`) is narrowed as it is.

    Args:
        optimizer: holds parameters of the dense model, and is left as it was if an error is raised.
        old: parameters by name before the removal.
        new: parameters by name after it.
        groups: groups of the dense model.
        plan: what stays.

    Raises:
        PlanError: a parameter of the optimizer is not in `old`, or has no counterpart of the right shape in `new`, or
            its state is not per element (Adafactor) and cannot be narrowed.
    """
    gone, blocks = removed_indices(groups, plan), removed_blocks(groups, plan)
    names = {id(parameter): name for name, parameter in old.items()}
    remaining: list[list[nn.Parameter]] = []
    states: dict[Tensor, dict[str, Any]] = {}
    for group in optimizer.param_groups:
        remaining.append([])
        for parameter in group["params"]:
            name = names.get(id(parameter))
            if name is None:
                raise PlanError("the optimizer holds a parameter that is not one of the dense model")
            target = renamed(name, blocks)
            if target is None:
                continue
            if target not in new or new[target].shape != _narrowed(parameter, name, gone).shape:
                raise PlanError(f"the pruned model has no {target!r} of the shape that the plan leaves of {name!r}")
            remaining[-1].append(new[target])
            if parameter in optimizer.state:
                state = optimizer.state[parameter].items()
                states[new[target]] = {k: _narrowed_state(v, k, parameter, name, gone) for k, v in state}
    optimizer.state.clear()
    optimizer.state.update(states)
    for group, parameters in zip(optimizer.param_groups, remaining, strict=True):
        group["params"] = parameters


def _narrowed(values: Tensor, name: str, gone: Mapping[tuple[str, int], Tensor]) -> Tensor:
    """Without the removed indices of tensor `name`."""
    for dim in range(values.ndim):
        if (name, dim) in gone:
            stays = complement(gone[name, dim], values.shape[dim])
            values = values.detach().index_select(dim, stays.to(values.device))
    return values


def _narrowed_state(value: Any, key: str, parameter: Tensor, name: str, gone: Mapping[tuple[str, int], Tensor]) -> Any:
    if not isinstance(value, Tensor) or value.ndim == 0:
        return value  # a step counter
    if value.shape == parameter.shape:
        return _narrowed(value, name, gone)
    if any((name, dim) in gone for dim in range(parameter.ndim)):
        raise PlanError(
            f"optimizer state {key!r} of {name!r} has shape {tuple(value.shape)}, not one value per weight "
            f"{tuple(parameter.shape)}; it cannot be narrowed, start with a fresh optimizer"
        )
    return value


# PEFT: {module}.lora_A[.adapter].weight; diffusers: {module}.lora.down.weight; kohya: {mod_ule}.lora_down.weight
_LORA = re.compile(
    r"(?P<module>.+?)\."
    r"(?:(?P<down>lora_A|lora\.down|lora_down)|(?P<up>lora_B|lora\.up|lora_up)|lora_mid|alpha)"
    r"(?:\.\w+)?(?:\.(?:weight|bias))?"
)


def narrow_lora(tensors: Mapping[str, Tensor], groups: Groups, plan: Plan, prefix: str = "") -> dict[str, Tensor]:
    """A LoRA trained on the dense model, narrowed to fit the pruned one.

    The low-rank product B A adapts a weight [out, in, ...]: B [out, r] loses the rows and A [r, in, ...] the columns
    that the weight loses, so that narrowing commutes with merging.

    Args:
        tensors: names as PEFT (``lora_A``), diffusers (``lora.down``) or kohya (``lora_down``, module paths with ``_``
            for ``.``) write them.
        groups: groups of the dense model.
        plan: what stays.
        prefix: what stands before the module path, such as ``"unet."`` or ``"lora_unet_"``; tensors with other
            beginnings belong to other components and are passed on.

    Raises:
        PlanError: no name has the prefix; a tensor is no LoRA matrix or does not fit the dense weight of its module.
    """
    if not any(name.startswith(prefix) for name in tensors):
        raise PlanError(f"no LoRA tensor begins with {prefix!r}; the names begin like {next(iter(tensors), None)!r}")
    gone, blocks = removed_indices(groups, plan), removed_blocks(groups, plan)
    ends, factors = _extents(groups), rescaled(groups, plan)
    flat = {name.removesuffix(".weight").replace(".", "_"): name for name, _ in ends}
    out: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if not name.startswith(prefix):
            out[name] = tensor
            continue
        path = name.removeprefix(prefix)
        match = _LORA.fullmatch(path)
        if match is None:
            raise PlanError(f"{name!r} is not a LoRA matrix that can be narrowed (DoRA and other kinds are not)")
        kohya = "." not in match["module"]
        target = renamed(path, blocks, "_" if kohya else ".")
        if target is None:
            continue
        if match["down"] or match["up"]:
            dim = 1 if match["down"] else 0
            key = (flat.get(match["module"], "") if kohya else f"{match['module']}.weight", dim)
            if match["up"] and key[0] in factors:
                tensor = rescale(tensor, *factors[key[0]])
            if key in ends:
                tensor = _narrow_matrix(name, tensor, dim, ends[key], gone.get(key))
        out[prefix + target] = tensor
    return out


def _extents(groups: Groups) -> dict[tuple[str, int], int]:
    """Where the last index owned by any group ends, by (tensor, dim)."""
    ends: dict[tuple[str, int], int] = {}
    for group in groups:
        for s in group.slices:
            ends[s.tensor, s.dim] = max(ends.get((s.tensor, s.dim), 0), s.runs(group.size)[-1][1])
    return ends


def _narrow_matrix(name: str, tensor: Tensor, dim: int, end: int, removed: Tensor | None) -> Tensor:
    if tensor.ndim <= dim or tensor.shape[dim] < end:
        raise PlanError(f"LoRA tensor {name!r} {tuple(tensor.shape)} should have {end} entries along dimension {dim}")
    if removed is None:
        return tensor
    return tensor.index_select(dim, complement(removed, tensor.shape[dim]).to(tensor.device))
