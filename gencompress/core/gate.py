"""Gates: differentiable masks that multiply activations at a group's sites, attached and removed without trace."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from gencompress.core.group import Group, Groups, Site
from gencompress.errors import PlanError


@contextmanager
def gated(module: nn.Module, groups: Groups, gates: Mapping[str, Tensor]) -> Iterator[Mapping[str, Tensor]]:
    """Multiply the activations of `module` with `gates` while the context is open.

    Args:
        module: the model; its parameters and attributes are not touched.
        groups: groups of `module`.
        gates: by group name, [size] for all samples or [batch, size] per sample. The mapping is read anew at every
            forward, so its tensors may be replaced while the context is open. Groups without an entry stay dense.
            With classifier-free guidance the batch seen by the module is a multiple of the gates' batch, ordered
            ``cat([unconditional, conditional])``; the gates are repeated accordingly.

    Raises:
        PlanError: a gate belongs to no group, or its group has no gate site; at the forward, that a gate has the wrong
            size or a batch that does not divide the module's.
    """
    for name in gates:
        if name not in groups.by_name:
            raise PlanError(f"a gate for {name!r}, which is no group of this model")
        if not groups.by_name[name].sites:
            raise PlanError(f"group {name!r} has no gate site")
    with ExitStack() as attached:
        for group in groups:
            for site in group.sites:
                attached.callback(_attach(_site_module(module, group, site), group, site, gates).remove)
        yield gates


def _site_module(module: nn.Module, group: Group, site: Site) -> nn.Module:
    try:
        return module.get_submodule(site.module)
    except AttributeError as error:
        raise PlanError(f"group {group.name!r} is gated at {site.module!r}, which the model does not have") from error


def _attach(target: nn.Module, group: Group, site: Site, gates: Mapping[str, Tensor]) -> RemovableHandle:
    if site.where == "input":

        def before(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
            gate = gates.get(group.name)
            return None if gate is None else (_multiply(args[0], gate, group, site), *args[1:])

        return target.register_forward_pre_hook(before)
    if site.where in ("output", "norm"):

        def after(module: nn.Module, args: tuple[Any, ...], out: Tensor) -> Tensor | None:
            gate = gates.get(group.name)
            if gate is None:
                return None
            if site.where == "norm":
                return _normalise(module, args[0], gate, group, site)
            return _multiply(out, gate, group, site)

        return target.register_forward_hook(after)

    parameters = list(inspect.signature(target.forward).parameters)

    def around(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> Any:
        gate = gates.get(group.name)
        if gate is None:
            return None
        given = dict(zip(parameters, args, strict=False)) | kwargs
        streams = [given[name] for name in stream_names(given, out)]
        outs = out if isinstance(out, tuple) else (out,)
        # A stream that the block does not return (the text of the last SD3 block) is passed on as it came.
        mixed = tuple(x if y is None else _mix(x, y, gate, group) for x, y in zip(streams, outs, strict=True))
        return mixed if isinstance(out, tuple) else mixed[0]

    return target.register_forward_hook(around, with_kwargs=True)


def stream_names(given: Mapping[str, Any], out: Any) -> tuple[str, ...]:
    """Which arguments of a transformer block its outputs replace: text, then image, as diffusers has it."""
    return ("encoder_hidden_states", "hidden_states") if isinstance(out, tuple) else ("hidden_states",)


def _mix(x: Tensor, y: Tensor, gate: Tensor, group: Group) -> Tensor:
    """``x + gate * (y - x)``, exactly x at 0 and exactly y at 1."""
    rows = _per_sample(gate, group, x.shape[0]).to(y.dtype)  # blocks see whole samples
    return torch.lerp(x.to(y.dtype), y, rows.reshape(-1, *[1] * (x.ndim - 1)))


def _multiply(x: Tensor, gate: Tensor, group: Group, site: Site) -> Tensor:
    """Multiply with the gate of every channel; fp32 gates are cast to the activation's dtype last."""
    return x * _at_channels(x, gate, group, site).to(x.dtype)


def _normalise(norm: nn.Module, x: Tensor, gate: Tensor, group: Group, site: Site) -> Tensor:
    """LayerNorm of the last dimension with gates as weights, times the gates: at 0/1 the norm of the kept channels."""
    assert isinstance(norm, nn.LayerNorm)
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    weights = _at_channels(x, gate, group, site).to(wide.dtype)
    total = weights.sum(-1, keepdim=True).clamp_min(1e-12)
    centred = wide - (weights * wide).sum(-1, keepdim=True) / total
    variance = (weights * centred.square()).sum(-1, keepdim=True) / total
    y = (centred * torch.rsqrt(variance + norm.eps)).to(x.dtype)
    y = y if norm.weight is None else y * norm.weight
    y = y if norm.bias is None else y + norm.bias
    return y * weights.to(x.dtype)


def _at_channels(x: Tensor, gate: Tensor, group: Group, site: Site) -> Tensor:
    """`gate` spread over the channels of `site`, in a shape that broadcasts with `x`."""
    dim = site.dim % x.ndim
    rows = _per_sample(gate, group, x.shape[0], site.split)
    shape = [1] * x.ndim
    shape[0], shape[dim] = rows.shape[0], x.shape[dim]
    return _spread(rows, site, x.shape[dim]).reshape(shape)


def _per_sample(gate: Tensor, group: Group, batch: int, split: bool = False) -> Tensor:
    """[size] -> [1, size] for all samples; [B, size] -> [batch, size].

    Row i is under gate i modulo B, or with `split` under the gate of the sample that it is a part of.
    """
    if gate.ndim not in (1, 2) or gate.shape[-1] != group.size:
        raise PlanError(
            f"a gate of {group.name!r} has shape {tuple(gate.shape)}, not ({group.size},) or (B, {group.size})"
        )
    rows = gate.reshape(-1, group.size)
    if rows.shape[0] == 1:
        return rows
    if rows.shape[0] == 0 or batch % rows.shape[0]:
        raise PlanError(f"group {group.name!r}: gates for {rows.shape[0]} samples meet a batch of {batch}")
    times = batch // rows.shape[0]
    return rows.repeat_interleave(times, 0) if split else rows.repeat(times, 1)


def _spread(rows: Tensor, site: Site, channels: int) -> Tensor:
    """[B, size] -> [B, channels], 1 where the group owns nothing."""
    wide = rows.repeat_interleave(site.block, dim=-1) if site.block > 1 else rows
    if site.repeat == 1 and wide.shape[-1] == channels:
        return wide
    index = torch.arange(wide.shape[-1], device=rows.device)
    index = torch.cat([site.offset + r * site.pitch + index for r in range(site.repeat)])
    return wide.new_ones(len(rows), channels).index_copy(-1, index, wide.repeat(1, site.repeat))


STRETCH_LOW, STRETCH_HIGH = -0.1, 1.1


def hard_concrete(logits: Tensor, noise: Tensor, temperature: float = 0.83, delta: float = 1e-6) -> Tensor:
    """Hard-concrete gates in [0, 1] (Louizos et al. 2018, eq. 10-11; EcoDiff arXiv 2412.02852).

    Args:
        logits: [..., size], fp32.
        noise: uniform in [0, 1), broadcastable to `logits`; drawn once per trajectory and replayed.
        temperature: lower is nearer to 0/1 gates.
        delta: bounds the logistic noise to ``log((1 + delta) / delta)``; EcoDiff uses 0.1 to 1, which makes the gate
            nearly deterministic and its gradient nearly zero for open gates.
    """
    logistic = torch.log(noise + delta) - torch.log1p(delta - noise)
    s = torch.sigmoid((logits + logistic) / temperature)
    return (s * (STRETCH_HIGH - STRETCH_LOW) + STRETCH_LOW).clamp(0, 1)


def open_probability(logits: Tensor, temperature: float = 0.83) -> Tensor:
    """P(gate > 0) for ``delta -> 0``, the differentiable L0 norm of a hard-concrete gate (Louizos et al. 2018, eq. 12).

    Args:
        logits: [..., size].
        temperature: that of `hard_concrete`.
    """
    return torch.sigmoid(logits - temperature * math.log(-STRETCH_LOW / STRETCH_HIGH))
