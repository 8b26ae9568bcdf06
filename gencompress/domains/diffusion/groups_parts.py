"""Groups of the building blocks that diffusers' denoisers share: attention, feed-forward, modulation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from gencompress.core.group import Attr, Group, Site
from gencompress.core.parts import Shapes, columns, rows
from gencompress.errors import ModelError

GATED = ("GEGLU", "SwiGLU")  # activations whose projection holds value and gate halves, one after the other


def heads(path: str, attn: Any, shapes: Shapes, readers: Sequence[str] | None = None) -> Group | None:
    """Heads of one attention module.

    In joint attention a head spans both streams. `readers` are the Linears that take the merged heads, by default the
    module's own ``to_out.0`` and ``to_add_out``.

    Returns None where removing a head would not be exact: a norm across the heads of q or k sees the other heads'
    statistics change; grouped-query attention shares k and v; and attention over added keys (``add_k_proj`` without
    ``add_q_proj``) reshapes its output to the full width.

    Raises:
        ModelError: adapters or fused projections are attached; says how to detach them.
    """
    _check_plain(path, attn, shapes)
    inner, count = shapes[f"{path}.to_q.weight"][0], int(attn.heads)
    if not count:
        return None
    width = inner // count
    if not _separable(path, attn, shapes, inner, width):
        return None
    inputs = [n for n in ("to_q", "to_k", "to_v", "add_q_proj", "add_k_proj", "add_v_proj") if _has(attn, n)]
    if readers is None:
        readers = [f"{path}.to_out.0", *([f"{path}.to_add_out"] if _has(attn, "to_add_out") else [])]
    slices = [s for name in inputs for s in rows(shapes, f"{path}.{name}", block=width)]
    slices += [s for reader in readers for s in columns(reader, block=width)]
    # not sliceable_head_dim: diffusers halves it for attention slicing, and a single head would make slices of size 0
    per_head = {"heads": 1, "inner_dim": width, "inner_kv_dim": width}
    return Group(
        name=path,
        kind="head",
        size=count,
        slices=tuple(slices),
        sites=tuple(Site(reader, "input", block=width) for reader in readers),
        attrs=tuple(Attr(path, name, value) for name, value in per_head.items() if hasattr(attn, name)),
        work=(path,),
    )


def _has(module: nn.Module, name: str) -> bool:
    return getattr(module, name, None) is not None


def _check_plain(path: str, attn: Any, shapes: Shapes) -> None:
    if getattr(attn, "fused_projections", False):
        raise ModelError(f"{path}: its projections are fused; call unfuse_qkv_projections() before pruning")
    if isinstance(getattr(attn, "processor", None), nn.Module) and any(True for _ in attn.processor.parameters()):
        kind = type(attn.processor).__name__
        raise ModelError(f"{path}: its processor {kind} has weights of its own; unload the adapter before pruning")
    if f"{path}.to_q.weight" not in shapes:
        raise ModelError(f"{path}.to_q has no plain weight; fuse or unload LoRA adapters before pruning")


def _separable(path: str, attn: Any, shapes: Shapes, inner: int, width: int) -> bool:
    if inner % int(attn.heads) or not _has(attn, "to_k") or shapes[f"{path}.to_k.weight"][0] != inner:
        return False
    if _has(attn, "add_k_proj") and not _has(attn, "add_q_proj"):
        return False
    norms = [f"{path}.{n}.weight" for n in ("norm_q", "norm_k", "norm_added_q", "norm_added_k")]
    return all(shapes[n] == (width,) for n in norms if n in shapes)


def feed_forward(path: str, ff: Any, shapes: Shapes) -> Group | None:
    """Hidden neurons of a diffusers ``FeedForward``: activated projection in ``net.0``, Linear in ``net.2``."""
    hidden = shapes[f"{path}.net.2.weight"][1]
    if not hidden:
        return None
    halves = {"repeat": 2, "pitch": hidden} if type(ff.net[0]).__name__ in GATED else {}
    return Group(
        name=path,
        kind="ffn",
        size=hidden,
        slices=rows(shapes, f"{path}.net.0.proj", **halves) + columns(f"{path}.net.2"),
        sites=(Site(f"{path}.net.2", "input"),),
    )


def modulation(path: str, shapes: Shapes) -> Group | None:
    """Outputs of the Linear in an adaptive norm (shift, scale, gate): removed ones stay, as zeros, and so do widths."""
    size = shapes[f"{path}.weight"][0]
    if not size:
        return None
    pruned_before = f"{path}.index" in shapes  # then a gate per remaining unit goes before the zeros are put in
    return Group(
        name=path,
        kind="adaln",
        size=size,
        slices=rows(shapes, path),
        sites=(Site(f"{path}.computed" if pruned_before else path, "output"),),
        scatter=(path,),
    )
