"""Gates: differentiable masks that multiply activations at a group's sites, attached and removed without trace."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
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
        gates: by group name, [size] for all samples or [batch, size] per sample. The mapping is read anew at every
            forward, so its tensors may be replaced while the context is open. Groups without an entry stay dense.
            With classifier-free guidance the batch seen by the module is a multiple of the gates' batch, ordered
            ``cat([unconditional, conditional])``; the gates are repeated accordingly.

    Raises:
        PlanError: a gate belongs to no group, or its group has no gate site.
    """
    for name in gates:
        if name not in groups.by_name:
            raise PlanError(f"a gate for {name!r}, which is no group of this model")
        if not groups.by_name[name].sites:
            raise PlanError(f"group {name!r} has no gate site")
    handles = [_attach(module.get_submodule(site.module), group, site, gates) for group in groups for site in group.sites]
    try:
        yield gates
    finally:
        for handle in handles:
            handle.remove()


def _attach(target: nn.Module, group: Group, site: Site, gates: Mapping[str, Tensor]) -> RemovableHandle:
    if site.where == "input":

        def before(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
            gate = gates.get(group.name)
            return None if gate is None else (_multiply(args[0], gate, group, site), *args[1:])

        return target.register_forward_pre_hook(before)
    if site.where == "output":

        def after(_: nn.Module, args: tuple[Any, ...], out: Tensor) -> Tensor | None:
            gate = gates.get(group.name)
            return None if gate is None else _multiply(out, gate, group, site)

        return target.register_forward_hook(after)

    parameters = list(inspect.signature(target.forward).parameters)

    def around(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> Any:
        gate = gates.get(group.name)
        if gate is None:
            return None
        given = dict(zip(parameters, args, strict=False)) | kwargs
        streams = [given[name] for name in stream_names(given, out)]
        outs = out if isinstance(out, tuple) else (out,)
        mixed = tuple(x if y is None else x + _per_sample(gate, x) * (y - x) for x, y in zip(streams, outs, strict=True))
        return mixed if isinstance(out, tuple) else mixed[0]

    return target.register_forward_hook(around, with_kwargs=True)


def stream_names(given: Mapping[str, Any], out: Any) -> tuple[str, ...]:
    """Which arguments of a transformer block its outputs replace: text then image for two streams, as diffusers has it."""
    return ("encoder_hidden_states", "hidden_states") if isinstance(out, tuple) else ("hidden_states",)


def _per_sample(gate: Tensor, x: Tensor) -> Tensor:
    gate = gate.to(x.dtype).reshape(-1)
    if gate.numel() > 1:
        gate = gate.repeat(x.shape[0] // gate.numel())
    return gate.reshape(-1, *[1] * (x.ndim - 1))


def _multiply(x: Tensor, gate: Tensor, group: Group, site: Site) -> Tensor:
    """x with `gate` spread over the channels of `site`; fp32 gates are cast to the activation's dtype last."""
    dim = site.dim % x.ndim
    spread = _spread(gate, site, x.shape[dim]).to(x.dtype)
    shape = [1] * x.ndim
    shape[dim] = x.shape[dim]
    if spread.ndim == 2 and spread.shape[0] > 1:
        if x.shape[0] % spread.shape[0]:
            raise PlanError(f"group {group.name!r}: gates for {spread.shape[0]} samples meet a batch of {x.shape[0]}")
        spread = spread.repeat(x.shape[0] // spread.shape[0], 1)
        shape[0] = x.shape[0]
    return x * spread.reshape(shape)


def _spread(gate: Tensor, site: Site, channels: int) -> Tensor:
    """[..., size] -> [..., channels], 1 where the group owns nothing."""
    wide = gate.repeat_interleave(site.block, dim=-1) if site.block > 1 else gate
    if site.offset == 0 and site.repeat == 1 and wide.shape[-1] == channels:
        return wide
    index = torch.arange(wide.shape[-1], device=gate.device)
    index = torch.cat([site.offset + r * site.pitch + index for r in range(site.repeat)])
    full = wide.new_ones(*wide.shape[:-1], channels)
    return full.index_copy(-1, index, torch.cat([wide] * site.repeat, dim=-1))


STRETCH_LOW, STRETCH_HIGH = -0.1, 1.1


def hard_concrete(logits: Tensor, noise: Tensor, temperature: float = 0.83, delta: float = 1e-6) -> Tensor:
    """Hard-concrete gates in [0, 1] (Louizos et al. 2018, eq. 10-11; EcoDiff arXiv 2412.02852).

    Args:
        logits: [..., size], fp32.
        noise: uniform in [0, 1), broadcastable to `logits`; drawn once per trajectory and replayed.
        delta: bounds the logistic noise to ``log((1 + delta) / delta)``; EcoDiff uses 0.1 to 1, which makes the gate
            nearly deterministic and its gradient nearly zero for open gates.
    """
    logistic = torch.log(noise + delta) - torch.log1p(delta - noise)
    s = torch.sigmoid((logits + logistic) / temperature)
    return (s * (STRETCH_HIGH - STRETCH_LOW) + STRETCH_LOW).clamp(0, 1)


def open_probability(logits: Tensor, temperature: float = 0.83) -> Tensor:
    """P(gate > 0), the differentiable L0 norm of a hard-concrete gate (Louizos et al. 2018, eq. 12)."""
    return torch.sigmoid(logits - temperature * math.log(-STRETCH_LOW / STRETCH_HIGH))
