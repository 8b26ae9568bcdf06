"""Physical removal: one plan narrows weights, optimizer state and LoRA weights alike."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from gencompress.core.group import Groups
from gencompress.core.plan import Plan
from gencompress.errors import PlanError


def kept_indices(
    groups: Groups, plan: Plan, shapes: Mapping[str, tuple[int, ...]]
) -> dict[tuple[str, int], Tensor]:
    """Indices that stay, by (tensor, dim), of every dimension from which the plan removes something.

    Raises:
        PlanError: the plan is for other groups, or a group reaches outside of `shapes`.
    """
    plan.check_groups(groups)
    groups.check(shapes)
    stays: dict[tuple[str, int], Tensor] = {}
    for group in groups:
        kept = plan.keep[group.name]
        if len(kept) == group.size:
            continue
        gone = torch.ones(group.size, dtype=torch.bool)
        gone[kept] = False
        for s in group.slices:
            mask = stays.setdefault((s.tensor, s.dim), torch.ones(shapes[s.tensor][s.dim], dtype=torch.bool))
            mask[s.indices(torch.nonzero(gone).flatten())] = False
    return {key: torch.nonzero(mask).flatten() for key, mask in stays.items()}


def narrow(tensors: Mapping[str, Tensor], groups: Groups, plan: Plan) -> dict[str, Tensor]:
    """The tensors of the pruned model as a new mapping; untouched tensors are shared with the input.

    Blocks removed by ``depth`` groups vanish and those behind them move up. Groups whose removed outputs stay as zeros
    (`Group.scatter`) gain a buffer ``{module}.index``.
    """
    out = dict(tensors)
    for (name, dim), index in kept_indices(groups, plan, {n: tuple(t.shape) for n, t in tensors.items()}).items():
        out[name] = out[name].index_select(dim, index.to(out[name].device)).contiguous()
    for group in groups:
        kept = plan.keep[group.name]
        for module in group.scatter if len(kept) < group.size else ():
            previous = tensors.get(f"{module}.index")
            out[f"{module}.index"] = kept.clone() if previous is None else previous[kept.to(previous.device)]
    removed = removed_blocks(groups, plan)
    return {new: tensor for name, tensor in out.items() if (new := renamed(name, removed)) is not None}


def removed_blocks(groups: Groups, plan: Plan) -> dict[str, list[int]]:
    """Indices of the blocks that depth groups remove, ascending, by the name of their container."""
    removed: dict[str, list[int]] = {}
    for group in groups:
        if group.stack is not None and not len(plan.keep[group.name]):
            container, index = group.stack.rstrip(".").rsplit(".", 1)
            removed.setdefault(container, []).append(int(index))
    return {container: sorted(indices) for container, indices in removed.items()}


def renamed(name: str, removed: Mapping[str, list[int]]) -> str | None:
    """Where a tensor or module moves when blocks are removed; None if it goes with its block."""
    for container, indices in removed.items():
        match = re.match(rf"{re.escape(container)}\.(\d+)(?=\.|$)", name)
        if match:
            index = int(match[1])
            if index in indices:
                return None
            return f"{container}.{index - sum(i < index for i in indices)}{name[match.end() :]}"
    return name


def resize_spec(groups: Groups, plan: Plan, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, dict[str, Any]]:
    """What `gencompress.core.resize.resize_` needs to turn the dense architecture into the pruned one.

    Returns:
        By module path: parameter name -> new shape (list), attribute name -> new value (int).
    """
    spec: dict[str, dict[str, Any]] = {}
    for (name, dim), index in kept_indices(groups, plan, shapes).items():
        module, _, parameter = name.rpartition(".")
        shape = spec.setdefault(module, {}).setdefault(parameter, list(shapes[name]))
        shape[dim] = len(index)
    for group in groups:
        count = len(plan.keep[group.name])
        if count < group.size:
            for attr in group.attrs:
                spec.setdefault(attr.module, {})[attr.name] = attr.per_unit * count + attr.constant
            for module in group.scatter:
                previous = shapes.get(f"{module}.index")
                if previous is None:
                    spec[module]["scatter"] = shapes[f"{module}.weight"][0]
    removed = removed_blocks(groups, plan)
    return {new: entry for module, entry in spec.items() if (new := renamed(module, removed)) is not None}


def narrow_optimizer_(
    optimizer: torch.optim.Optimizer,
    old: Mapping[str, nn.Parameter],
    new: Mapping[str, nn.Parameter],
    groups: Groups,
    plan: Plan,
) -> None:
    """Point `optimizer` at the pruned parameters and narrow its state (moments, EMA) by the same plan.

    Args:
        old, new: parameters by name before and after removal (`narrow`).
    """
    removed = removed_blocks(groups, plan)
    names = {id(p): name for name, p in old.items()}
    stays = kept_indices(groups, plan, {n: tuple(p.shape) for n, p in old.items()})
    for group in optimizer.param_groups:
        survivors = []
        for parameter in group["params"]:
            name = names.get(id(parameter))
            state = optimizer.state.pop(parameter, {})
            if name is None:
                raise PlanError("the optimizer holds a parameter that is not among those of the pruned model")
            target = renamed(name, removed)
            if target is None:
                continue
            survivors.append(new[target])
            if state:
                optimizer.state[new[target]] = {k: _narrow_like(v, parameter, name, stays) for k, v in state.items()}
        group["params"] = survivors


def _narrow_like(value: Any, parameter: Tensor, name: str, stays: Mapping[tuple[str, int], Tensor]) -> Any:
    if not isinstance(value, Tensor) or value.shape != parameter.shape:
        return value  # step counters and the like have no units
    for dim in range(value.ndim):
        if (name, dim) in stays:
            value = value.index_select(dim, stays[name, dim].to(value.device))
    return value.contiguous()


_LORA = re.compile(
    r"^(?P<module>.+?)\.(?P<side>lora_A|lora_B|lora\.down|lora\.up|lora_down|lora_up)(?P<rest>(\.\w+)?\.weight)$"
)


def narrow_lora(tensors: Mapping[str, Tensor], groups: Groups, plan: Plan, prefix: str = "") -> dict[str, Tensor]:
    """A LoRA trained on the dense model, narrowed to fit the pruned one.

    The low-rank product B A adapts a weight [out, in]: B [out, r] loses the rows, A [r, in] the columns that the
    weight loses, so that narrowing commutes with merging.

    Args:
        tensors: PEFT (``lora_A``/``lora_B``) or diffusers/kohya (``lora.down``/``lora.up``) names.
        prefix: component name in front of the module path, e.g. ``"unet."``.

    Raises:
        PlanError: a LoRA matrix does not fit the dense weight of its module.
    """
    plan.check_groups(groups)
    removed = removed_blocks(groups, plan)
    aliased = []
    for group in groups:
        aliased.append(replace(group, slices=tuple(s for s in group.slices if s.tensor.endswith(".weight"))))
    shapes: dict[str, list[int]] = {}
    for group in aliased:
        for s in group.slices:
            end = s.offset + group.size * s.block + (s.repeat - 1) * s.pitch
            shape = shapes.setdefault(s.tensor, [0, 0, 0, 0])
            shape[s.dim] = max(shape[s.dim], end)
    full = {}
    for name, tensor in tensors.items():
        match = _LORA.match(name.removeprefix(prefix))
        if match:
            down = match["side"] in ("lora_A", "lora.down", "lora_down")
            key = (f"{match['module']}.weight", 1 if down else 0)
            full[name] = (key, 1 if down else 0)
            if key[0] in shapes:
                shapes[key[0]][key[1]] = max(shapes[key[0]][key[1]], tensor.shape[full[name][1]])
    stays = kept_indices(Groups(tuple(aliased)), plan, {n: tuple(s) for n, s in shapes.items()})
    out: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        target = renamed(name.removeprefix(prefix), removed)
        if target is None:
            continue
        key, dim = full.get(name, (("", 0), 0))
        if key in stays:
            if tensor.shape[dim] != shapes[key[0]][key[1]]:
                raise PlanError(f"LoRA tensor {name!r} {tuple(tensor.shape)} does not fit dimension {key[1]} of {key[0]!r}")
            tensor = tensor.index_select(dim, stays[key].to(tensor.device)).contiguous()
        out[prefix + target if name.startswith(prefix) else target] = tensor
    return out
