"""Groups of prunable units, and where their units live in tensors and activations.

A `Group` is n interchangeable units that are removed together from every tensor that holds them. It is declarative:
costing, scoring, gating, removal, narrowing of optimizer state and of LoRA weights are one generic function each
that reads these three small records and nothing else of the model.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from gencompress.errors import PlanError


@dataclass(frozen=True, slots=True)
class Slice:
    """Where a group's units live along one dimension of one tensor.

    Unit u owns the indices ``offset + u * block + [0, block) + r * pitch`` for every ``r < repeat``. An attention head
    is ``block=head_dim``; the value and gate halves of a GEGLU are ``repeat=2, pitch=hidden``; "the same column of
    every head" is ``repeat=heads, pitch=head_dim``; a splat is ``Slice("means", 0)``.

    Args:
        tensor: name in the state dict.
        dim: dimension, counted from the front, >= 0.
        offset: first index of unit 0.
        block: neighbouring indices of one unit, >= 1.
        repeat: copies of the whole run of units, >= 1.
        pitch: distance between copies; at least ``size * block``, so that copies do not overlap (`Groups.check`).
    """

    tensor: str
    dim: int
    offset: int = 0
    block: int = 1
    repeat: int = 1
    pitch: int = 0

    def __post_init__(self) -> None:
        if min(self.dim, self.offset, self.pitch) < 0 or min(self.block, self.repeat) < 1:
            raise PlanError(f"{self}: dim, offset and pitch must be >= 0, block and repeat >= 1")

    @property
    def width(self) -> int:
        """Indices owned by one unit."""
        return self.block * self.repeat

    def indices(self, units: Tensor) -> Tensor:
        """Indices along `dim` owned by `units` [k], in the order repeat, unit, block: int64 [repeat * k * block]."""
        at = units.device
        inside = (units.long()[:, None] * self.block + torch.arange(self.block, device=at)).reshape(-1)
        starts = self.offset + torch.arange(self.repeat, device=at) * self.pitch
        return (starts[:, None] + inside).reshape(-1)

    def runs(self, size: int) -> list[tuple[int, int]]:
        """The half-open index ranges owned by all `size` units, one per repeat."""
        starts = [self.offset + r * self.pitch for r in range(self.repeat)]
        return [(a, a + size * self.block) for a in starts]


@dataclass(frozen=True, slots=True)
class Site:
    """Where a group's gate multiplies an activation: the input or output of `module`, along `dim`.

    The channel addressing is that of `Slice`. ``where="residual"`` gates a whole block instead: each returned stream
    becomes ``input + g * (output - input)``, so that g = 0 is the removed block. ``where="norm"`` is for the channels
    that a LayerNorm normalises together: mean and variance are taken with the gates as weights, and the output is
    multiplied by them, so that g = 0 is the narrower LayerNorm.

    A batch at `module` that is a multiple of the samples' is the batch several times over (guidance), or with
    ``split`` every sample in so many neighbouring parts (windows).
    """

    module: str
    where: Literal["input", "output", "residual", "norm"] = "input"
    dim: int = -1
    offset: int = 0
    block: int = 1
    repeat: int = 1
    pitch: int = 0
    split: bool = False


@dataclass(frozen=True, slots=True)
class Rescale:
    """Values whose right size depends on the width: multiplied by ``(kept / size) ** power`` at removal.

    Attention divides by the root of its head dimension, which the removal changes: queries times
    ``(kept / size) ** 0.5`` undo that.

    Args:
        tensor: name in the state dict.
        power: of the part that is kept.
        stop: the values are those at dim 0 before this index, in the tensor before removal; None is all of them.
    """

    tensor: str
    power: float
    stop: int | None = None


@dataclass(frozen=True, slots=True)
class Attr:
    """An integer attribute of `module` that must equal ``per_unit * kept + constant`` after removal."""

    module: str
    name: str
    per_unit: int
    constant: int = 0


@dataclass(frozen=True, slots=True)
class Group:
    """n interchangeable units that are removed together.

    Args:
        name: unique; for module-bound groups the path of the module.
        kind: what a unit is (``head``, ``ffn``, ``resnet``, ``adaln``, ``depth``, ``splat`` ...); budgets with
            ``uniform`` give all groups of a kind the same keep ratio.
        size: number of units, >= 1.
        slices: every place in the state dict that holds the units.
        sites: gate sites; empty if the group cannot be gated.
        attrs: module attributes that follow the width.
        work: modules whose weightless products (attention scores) shrink in proportion to the kept units.
        round_to: kept counts are multiples of this, where the budget allows.
        min_keep: units never removed, the guard against emptying a layer by accident.
        exact: gated forward with 0/1 gates equals the removed model's (relative difference <= 1e-5 in fp32).
        stack: for ``depth`` groups of size 1, the prefix ``"container.index."`` of all tensors of the block; the whole
            block goes with its one unit.
        scatter: Linear modules whose consumers keep their width: the removed outputs stay, as zeros
            (`gencompress.core.resize.ScatterLinear`).
        rescale: weights that grow or shrink with the number of kept units; no tensor twice.
        tie: groups of one tie keep the same ratio of their units, if budgets are ``uniform`` (the width of a stream
            that must equal heads times head dimension).
    """

    name: str
    kind: str
    size: int
    slices: tuple[Slice, ...] = ()
    sites: tuple[Site, ...] = ()
    attrs: tuple[Attr, ...] = ()
    work: tuple[str, ...] = ()
    round_to: int = 1
    min_keep: int = 1
    exact: bool = True
    stack: str | None = None
    scatter: tuple[str, ...] = ()
    rescale: tuple[Rescale, ...] = ()
    tie: str | None = None

    def __post_init__(self) -> None:
        if self.size < 1:
            raise PlanError(f"group {self.name!r} has size {self.size}; a group needs at least one unit")
        if not 0 <= self.min_keep <= self.size:
            raise PlanError(f"group {self.name!r}: min_keep {self.min_keep} is outside [0, {self.size}]")
        if self.round_to < 1:
            raise PlanError(f"group {self.name!r}: round_to {self.round_to} must be >= 1")
        if self.stack is not None and not (self.size == 1 and re.fullmatch(r"(.+\.)?\d+\.", self.stack)):
            raise PlanError(
                f"group {self.name!r}: a depth group has one unit and a stack like 'blocks.3.', "
                f"not {self.size} and {self.stack!r}"
            )


@dataclass(frozen=True, slots=True)
class Groups(Sequence[Group]):
    """An ordered collection of groups with unique names."""

    items: tuple[Group, ...]
    by_name: dict[str, Group] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        by_name = {g.name: g for g in self.items}
        if len(by_name) != len(self.items):
            twice = sorted({g.name for g in self.items if sum(h.name == g.name for h in self.items) > 1})
            raise PlanError(f"group names must be unique; repeated: {twice}")
        object.__setattr__(self, "by_name", by_name)

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index):  # type: ignore[no-untyped-def]  # int or slice, as Sequence has it
        return self.items[index]

    @property
    def units(self) -> int:
        """Number of units over all groups."""
        return sum(g.size for g in self.items)

    def of_kind(self, *kinds: str) -> Groups:
        """The groups of these kinds, in order."""
        return Groups(tuple(g for g in self.items if g.kind in kinds))

    def check(self, shapes: Mapping[str, Sequence[int]]) -> None:
        """Raise `PlanError` if a slice names a missing tensor, reaches outside of it, or overlaps another one."""
        owned: dict[tuple[str, int], list[tuple[int, int, str]]] = {}
        for group in self.items:
            for s in group.slices:
                _check_slice(group, s, shapes)
                owned.setdefault((s.tensor, s.dim), []).extend((a, b, group.name) for a, b in s.runs(group.size))
        for (tensor, dim), runs in owned.items():
            runs.sort()
            for (_, end, one), (start, _, other) in itertools.pairwise(runs):
                if start < end:
                    raise PlanError(f"groups {one!r} and {other!r} both own index {start} of {tensor!r} dim {dim}")


def _check_slice(group: Group, s: Slice, shapes: Mapping[str, Sequence[int]]) -> None:
    if s.tensor not in shapes:
        raise PlanError(f"group {group.name!r} slices {s.tensor!r}, which the model does not have")
    shape = shapes[s.tensor]
    if s.dim >= len(shape):
        raise PlanError(f"group {group.name!r}: {s.tensor!r} has no dimension {s.dim}, its shape is {tuple(shape)}")
    end = s.runs(group.size)[-1][1]
    if end > shape[s.dim]:
        raise PlanError(f"group {group.name!r} reaches index {end} of {s.tensor!r} dim {s.dim}, size {shape[s.dim]}")


def per_unit(group: Group, s: Slice, values: Tensor) -> Tensor:
    """Sum `values` (the shape of ``s.tensor``) over everything but the units: [size], in fp32 or wider."""
    values = values.movedim(s.dim, 0)
    values = values.reshape(values.shape[0], -1)
    values = values.sum(1, dtype=torch.promote_types(values.dtype, torch.float32))
    picked = values[s.indices(torch.arange(group.size)).to(values.device)]
    return picked.reshape(s.repeat, group.size, s.block).sum(dim=(0, 2))


def shapes_of(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """Shapes by name; works on meta tensors."""
    return {name: tuple(t.shape) for name, t in tensors.items()}
