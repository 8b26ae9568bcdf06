"""Slices and groups of the parts that many architectures have: layers with rows and columns, whole blocks."""

from __future__ import annotations

from collections.abc import Mapping

from gencompress.core.group import Group, Site, Slice

Shapes = Mapping[str, tuple[int, ...]]


def rows(shapes: Shapes, module: str, **where: int) -> tuple[Slice, ...]:
    """Output units of a Linear, convolution or affine norm: dim 0 of its weight, and of its bias if it has one."""
    names = (f"{module}.{p}" for p in ("weight", "bias"))
    return tuple(Slice(name, 0, **where) for name in names if name in shapes)


def columns(module: str, **where: int) -> tuple[Slice, ...]:
    """Input units of a Linear or convolution: dim 1 of its weight."""
    return (Slice(f"{module}.weight", 1, **where),)


def whole_block(path: str) -> Group:
    """A transformer block as one removable unit: without it, its input passes through."""
    return Group(
        name=path,
        kind="depth",
        size=1,
        min_keep=0,
        sites=(Site(path, "residual"),),
        stack=f"{path}.",
    )
