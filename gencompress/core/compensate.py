"""Closed-form compensation: refit the layers that lost inputs, so that they give what the dense layers gave.

For a consumer layer with weight W of the dense model, the pruned model keeps some input channels. Its new weight and
bias minimise ``|W' P + b' - Y|^2 + damping * |W' - W0|^2`` over calibration data, where P are the pruned model's own
inputs at that layer (patches, for convolutions), Y the dense model's outputs, and W0 the narrowed weight. This is the
optimal-brain-surgeon update for a set of removed inputs (Hassibi and Stork 1993; for diffusion layers OBS-Diff, ICLR
2026), with the errors that earlier layers already made included in P. Layers are refitted package by package in forward
order, so that later ones see the repaired activations of earlier ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gencompress.core.group import Groups
from gencompress.core.plan import Plan
from gencompress.core.prune import kept_indices, removed_blocks, renamed
from gencompress.core.subject import Progress
from gencompress.errors import NumericsError


def consumers(groups: Groups, plan: Plan, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor | None]:
    """Modules whose inputs lose units by `plan`, with the output channels that they keep (None: all of them).

    The names are those of the dense model; modules of which nothing stays are left out.
    """
    stays = kept_indices(groups, plan, shapes)
    removed = removed_blocks(groups, plan)
    found: dict[str, Tensor | None] = {}
    for group in groups:
        if 0 < len(plan.keep[group.name]) < group.size:
            for site in group.sites:
                if site.where == "input" and renamed(site.module, removed) is not None:
                    found[site.module] = stays.get((f"{site.module}.weight", 0))
    return {name: outputs for name, outputs in found.items() if outputs is None or len(outputs)}


@torch.no_grad()
def compensate_(
    pruned: nn.Module,
    dense: nn.Module,
    modules: Mapping[str, Tensor | None],
    forwards: Sequence[Callable[[nn.Module], object]],
    ctx: Progress,
    damping: float = 1e-3,
    packages: int = 8,
    removed: Mapping[str, Sequence[int]] | None = None,
    gains: Mapping[str, Tensor] | None = None,
) -> dict[str, float]:
    """Refit `modules` of `pruned` in place.

    Args:
        pruned: model after removal; its Linear and Conv2d layers (grouped ones too) named by `modules` are changed.
        dense: the model before removal.
        modules: paths of the layers to refit in the dense model, with the outputs that they keep (`consumers`).
        forwards: each calls the model that it is given on one calibration batch; the same batch for both models.
        ctx: for progress and stopping.
        damping: ridge, relative to the mean diagonal of the Gram matrix.
        packages: passes over the data; the layers of one pass are refitted together, those of later passes see them.
        removed: `gencompress.core.prune.removed_blocks`, if `pruned` lost whole blocks: those behind them moved up.
        gains: factors on the kept outputs of a module [kept], where the removal multiplies them (`Rescale`).

    Returns:
        Relative error of every layer's output after refitting (0 is perfect), by module path in the dense model.

    Raises:
        NumericsError: a Gram matrix is not finite.
    """
    errors: dict[str, float] = {}
    moved = {name: renamed(name, removed or {}) or name for name in modules}
    order = _call_order(dense, modules, forwards)
    parts = _packages(order, packages)
    for done, names in enumerate(parts, start=1):
        sums = {name: _Moments(pruned.get_submodule(moved[name])) for name in names}
        for forward in forwards:
            with _watching(dense, names, "output") as wanted:
                forward(dense)
            with _watching(pruned, [moved[name] for name in names], "input") as given:
                forward(pruned)
            for name in names:
                for x, y in zip(given[moved[name]], wanted[name], strict=True):
                    sums[name].add_(x, y, modules[name], (gains or {}).get(name))
            ctx.stop_if_requested()
        for name in names:
            errors[name] = sums[name].refit_(name, damping)
        ctx.progress(done, len(parts), error=sum(errors.values()) / len(errors))
    return errors


def _call_order(
    model: nn.Module, modules: Iterable[str], forwards: Sequence[Callable[[nn.Module], object]]
) -> list[str]:
    """The modules in the order in which a forward calls them; those that it does not call are left out."""
    if not forwards:
        return []
    called: dict[str, None] = {}
    with _hooked(model, modules, lambda name, args, out: called.setdefault(name)):
        forwards[0](model)
    return list(called)


def _packages(order: Sequence[str], count: int) -> list[Sequence[str]]:
    """`order` in at most `count` runs of nearly equal length."""
    size = -(-len(order) // max(1, count)) or 1
    return [order[start : start + size] for start in range(0, len(order), size)]


@contextmanager
def _watching(model: nn.Module, names: Iterable[str], what: str) -> Iterator[Mapping[str, list[Tensor]]]:
    """Inputs or outputs of the named modules, one entry per call."""
    seen: dict[str, list[Tensor]] = {name: [] for name in names}

    def keep(name: str, args: tuple[Tensor, ...], out: Tensor) -> None:
        seen[name].append((args[0] if what == "input" else out).detach())

    with _hooked(model, seen, keep):
        yield seen


@contextmanager
def _hooked(model: nn.Module, names: Iterable[str], react: Callable[[str, Any, Any], object]) -> Iterator[None]:
    """Call ``react(name, args, output)`` after every call of a named module."""
    handles = []
    for name in names:

        def hook(_: nn.Module, args: Any, out: Any, name: str = name) -> None:
            react(name, args, out)

        handles.append(model.get_submodule(name).register_forward_hook(hook))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@dataclass
class _Moments:
    """Second moments of a layer's inputs [G, D, D] and of its wanted outputs with them [G, out / G, D]; the last input
    of a group is 1. G is the layer's own number of groups, 1 but for grouped convolutions: they are fitted one by one.
    """

    layer: nn.Module

    def __post_init__(self) -> None:
        self.gram: Tensor | None = None
        self.cross: Tensor | None = None
        self.energy = 0.0

    def add_(self, x: Tensor, y: Tensor, outputs: Tensor | None, gain: Tensor | None) -> None:
        wanted = _rows(self.layer, y)
        if outputs is not None:
            wanted = wanted[:, outputs.to(wanted.device)]
        if gain is not None:
            wanted = wanted * gain.to(wanted.device)
        rows, wanted = _by_group(self.layer, _design(self.layer, x)), _by_group(self.layer, wanted)
        rows = torch.cat([rows, rows.new_ones(*rows.shape[:2], 1)], dim=2)
        gram, cross = (rows.mT @ rows).double(), (wanted.mT @ rows).double()
        self.gram = gram if self.gram is None else self.gram + gram
        self.cross = cross if self.cross is None else self.cross + cross
        self.energy += float(wanted.double().square().sum())

    def refit_(self, name: str, damping: float) -> float:
        assert self.gram is not None and self.cross is not None
        weight, bias = self.layer.weight, self.layer.bias
        assert isinstance(weight, Tensor)
        old = _matrix(weight, bias, len(self.gram))
        power = self.gram.diagonal(dim1=1, dim2=2)
        ridge = (damping * power[:, :-1].mean(1, keepdim=True)).clamp_min(1e-30)  # inputs may be zero throughout
        if not bool(torch.isfinite(ridge).all()):
            raise NumericsError(f"activations at {name!r} hold NaN or infinity")
        damped = self.gram + torch.diag_embed(ridge.expand_as(power))
        residual = self.cross - old @ self.gram
        if bias is None:
            damped, residual = damped[:, :-1, :-1], residual[..., :-1]
        new = old.clone()
        new[..., : residual.shape[2]] += torch.linalg.solve(damped, residual.mT).mT
        weight.copy_(new[..., :-1].reshape(weight.shape))
        if isinstance(bias, Tensor):
            bias.copy_(new[..., -1].flatten())
        left = self.energy - 2 * (new * self.cross).sum() + ((new @ self.gram) * new).sum()
        return float((left / max(self.energy, 1e-30)).clamp_min(0).sqrt())


def _matrix(weight: Tensor, bias: object, groups: int) -> Tensor:
    """Weight and bias as one matrix per group [G, out / G, D + 1], fp64."""
    last = bias.double() if isinstance(bias, Tensor) else weight.new_zeros(len(weight)).double()
    return torch.cat([weight.double().reshape(len(weight), -1), last[:, None]], dim=1).unflatten(0, (groups, -1))


def _by_group(layer: nn.Module, rows: Tensor) -> Tensor:
    """Rows [positions, features] of the layer's inputs or outputs as [G, positions, features / G]."""
    groups = layer.groups if isinstance(layer, nn.Conv2d) else 1
    return rows.unflatten(1, (groups, -1)).transpose(0, 1)


def _design(layer: nn.Module, x: Tensor) -> Tensor:
    """Inputs of the layer as rows [positions, in_features or in_channels * kh * kw], fp32."""
    if isinstance(layer, nn.Conv2d):
        assert not isinstance(layer.padding, str)  # denoisers pad by numbers of pixels
        x = F.unfold(x.float(), layer.kernel_size, layer.dilation, layer.padding, layer.stride)
        return x.transpose(1, 2).reshape(-1, x.shape[1])
    return x.float().reshape(-1, x.shape[-1])


def _rows(layer: nn.Module, y: Tensor) -> Tensor:
    """Outputs of the layer as rows [positions, out], fp32."""
    y = y.flatten(2).transpose(1, 2) if isinstance(layer, nn.Conv2d) else y
    return y.float().reshape(-1, y.shape[-1])
