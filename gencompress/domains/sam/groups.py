"""Which units of a SAM image encoder can be removed.

Everything is read off the modules and the shapes of their weights, so it works on the meta device and on encoders that
were pruned before.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from typing import Any

from torch import nn

from gencompress.core.group import Attr, Group, Groups, Rescale, Site, Slice, shapes_of
from gencompress.core.parts import Shapes, columns, rows, whole_block
from gencompress.errors import ConfigError, ModelError, nearest

KINDS = ("width", "head_dim", "head", "ffn", "depth")
DEFAULT = ("width", "head_dim", "ffn")
WIDTH = "residual"  # name of the group of kind width
_TIE = "hidden size is heads times head dimension"
_ALIGNED = 8  # widths that tensor cores like


def groups_of(encoder: nn.Module, kinds: Collection[str] | None = None, *, uniform: bool = False) -> Groups:
    """The prunable groups of the image encoder of a `SamModel`, all of them exact.

    ``width`` is the residual stream, one group through the whole encoder; ``head_dim`` the same dimensions of every
    head of a layer, ``head`` its whole heads, ``ffn`` its neurons, ``depth`` the layer itself.

    Args:
        encoder: a `SamVisionEncoder`, on any device including meta, pruned before or not.
        kinds: which kinds of units; None for ``width``, ``head_dim`` and ``ffn``.
        uniform: for budgets with ``uniform`` whose results load as stock models: widths are multiples of 8, and the
            residual stream stays as wide as all heads together, as stock configs have it.

    Raises:
        ModelError: not the encoder of a `SamModel`, or adapters are attached.
        ConfigError: a kind is unknown; `kinds` names both ways to narrow attention; with `uniform`, the residual
            stream and attention are not narrowed together, or layers differ already.
    """
    require_supported(encoder)
    wanted = DEFAULT if kinds is None else tuple(kinds)
    _check_kinds(wanted, uniform)
    shapes = shapes_of(encoder.state_dict())
    if any(".base_layer." in name for name in shapes):
        raise ModelError("the encoder has adapters attached; merge or unload them before pruning")
    rounding = _Rounding.of(encoder, wanted) if uniform else _Rounding()
    return Groups(tuple(g for g in _groups(encoder, shapes, rounding) if g.kind in wanted))


def require_supported(encoder: nn.Module) -> None:
    """Raise ModelError unless `encoder` is one whose groups are known."""
    if not any(cls.__name__ == "SamVisionEncoder" for cls in type(encoder).__mro__):
        raise ModelError(
            f"cannot prune a {type(encoder).__name__}; supported is the vision_encoder of transformers' SamModel"
        )


def _check_kinds(kinds: Collection[str], uniform: bool) -> None:
    for kind in kinds:
        if kind not in KINDS:
            raise ConfigError(f"unknown kind of group {kind!r}: {nearest(kind, KINDS)}")
    if "head" in kinds and "head_dim" in kinds:
        raise ConfigError(
            "heads and head dimensions own the same weights; remove them one after the other, in two rounds"
        )
    if uniform and ("width" in kinds) != bool({"head", "head_dim"} & set(kinds)):
        raise ConfigError(
            "a stock SAM config has a hidden size of heads times head dimension, so uniform results need 'width' "
            "together with 'head_dim' or 'head'; without that, ask for results per layer"
        )


class _Rounding:
    """What kept counts must be multiples of, and whether width and attention are tied."""

    def __init__(self, width: int = 1, head_dim: int = 1, head: int = 1, ffn: int = 1, tie: str | None = None) -> None:
        self.width, self.head_dim, self.head, self.ffn, self.tie = width, head_dim, head, ffn, tie

    @classmethod
    def of(cls, encoder: Any, kinds: Collection[str]) -> _Rounding:
        """Such that width = heads * head dimension, both sides multiples of 8, has a solution in whole units."""
        attention = {(layer.attn.num_attention_heads, len(layer.attn.qkv.weight) // 3) for layer in encoder.layers}
        width = len(encoder.patch_embed.projection.weight)
        if len(attention) != 1 or next(iter(attention))[1] != width:
            raise ConfigError("the layers of this encoder differ already, so no uniform result can be made of it")
        heads = next(iter(attention))[0]
        if "head" in kinds:
            step = math.lcm(width // heads, _ALIGNED)
            return cls(width=step, head=step // (width // heads), ffn=_ALIGNED, tie=_TIE)
        step = math.lcm(heads, _ALIGNED)
        return cls(width=step, head_dim=step // heads, ffn=_ALIGNED, tie=_TIE)


def _groups(encoder: Any, shapes: Shapes, rounding: _Rounding) -> Iterator[Group]:
    yield _width(encoder, shapes, rounding)
    for i, layer in enumerate(encoder.layers):
        path = f"layers.{i}"
        if layer.attn.num_attention_heads and shapes[f"{path}.attn.qkv.weight"][0]:
            yield _head_dims(f"{path}.attn", layer.attn, shapes, rounding)
            yield _heads(f"{path}.attn", layer.attn, shapes, rounding)
        if shapes[f"{path}.mlp.lin1.weight"][0]:
            yield _neurons(f"{path}.mlp", shapes, rounding)
        yield whole_block(path)


def _width(encoder: Any, shapes: Shapes, rounding: _Rounding) -> Group:
    """The residual stream: what every layer adds to and reads through a norm, from the patches to the neck."""
    slices = [*rows(shapes, "patch_embed.projection")]
    if encoder.pos_embed is not None:
        slices.append(Slice("pos_embed", 3))
    sites = []
    for i in range(len(encoder.layers)):
        path = f"layers.{i}"
        for norm, reader in (("layer_norm1", "attn.qkv"), ("layer_norm2", "mlp.lin1")):
            slices += [*rows(shapes, f"{path}.{norm}"), *columns(f"{path}.{reader}")]
            sites.append(Site(f"{path}.{norm}", "norm"))
        slices += [*rows(shapes, f"{path}.attn.proj"), *rows(shapes, f"{path}.mlp.lin2")]
    return Group(
        name=WIDTH,
        kind="width",
        size=shapes["patch_embed.projection.weight"][0],
        slices=(*slices, *columns("neck.conv1")),
        sites=(*sites, Site("neck.conv1", "input", dim=1)),
        round_to=rounding.width,
        tie=rounding.tie,
    )


def _head_dims(path: str, attn: Any, shapes: Shapes, rounding: _Rounding) -> Group:
    """The same dimensions of q, k and v in every head, with those of the relative-position tables.

    Rows of qkv are [3][heads][head_dim]. Attention divides logits by the root of the head dimension, which eager
    reads from the module and SDPA from the tensors: q takes up the change, and since the tables are added as q times
    table, they take it back.
    """
    heads, inner = int(attn.num_attention_heads), shapes[f"{path}.qkv.weight"][0] // 3
    size = inner // heads
    tables = [f"{path}.{name}" for name in ("rel_pos_h", "rel_pos_w") if f"{path}.{name}" in shapes]
    qkv = rows(shapes, f"{path}.qkv", repeat=3 * heads, pitch=size)
    return Group(
        name=path,
        kind="head_dim",
        size=size,
        slices=(
            *qkv,
            *columns(f"{path}.proj", repeat=heads, pitch=size),
            *(Slice(table, 1) for table in tables),
        ),
        sites=(
            Site(f"{path}.qkv", "output", repeat=heads, pitch=size, split=True),
            Site(f"{path}.proj", "input", repeat=heads, pitch=size, split=True),
        ),
        work=(path,),
        round_to=rounding.head_dim,
        rescale=(
            *(Rescale(s.tensor, 0.5, stop=inner) for s in qkv),
            *(Rescale(table, -0.5) for table in tables),
        ),
        tie=rounding.tie,
    )


def _heads(path: str, attn: Any, shapes: Shapes, rounding: _Rounding) -> Group:
    heads, inner = int(attn.num_attention_heads), shapes[f"{path}.qkv.weight"][0] // 3
    width = inner // heads
    return Group(
        name=path,
        kind="head",
        size=heads,
        slices=(
            *rows(shapes, f"{path}.qkv", block=width, repeat=3, pitch=inner),
            *columns(f"{path}.proj", block=width),
        ),
        sites=(Site(f"{path}.proj", "input", block=width, split=True),),
        attrs=(Attr(path, "num_attention_heads", 1),),
        work=(path,),
        round_to=rounding.head,
        tie=rounding.tie,
    )


def _neurons(path: str, shapes: Shapes, rounding: _Rounding) -> Group:
    return Group(
        name=path,
        kind="ffn",
        size=shapes[f"{path}.lin1.weight"][0],
        slices=(*rows(shapes, f"{path}.lin1"), *columns(f"{path}.lin2")),
        sites=(Site(f"{path}.lin2", "input"),),
        round_to=rounding.ffn,
    )
