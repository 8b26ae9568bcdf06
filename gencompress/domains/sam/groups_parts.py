"""Groups of the layers that both generations of SAM's encoders have: attention with one fused qkv, and an MLP."""

from __future__ import annotations

from gencompress.core.group import Attr, Group, Rescale, Site, Slice
from gencompress.core.parts import Shapes, columns, rows


def head_dims(path: str, heads: int, shapes: Shapes, round_to: int, tie: str | None) -> Group | None:
    """The same dimensions of q, k and v in every head, with those of relative-position tables; None if none is left.

    Rows of qkv are [3][heads][head_dim]. Attention divides logits by the root of the head dimension, which eager
    reads from the module and SDPA from the tensors: q takes up the change, and since the tables are added as q times
    table, they take it back.
    """
    inner = shapes[f"{path}.qkv.weight"][0] // 3
    if not heads or not inner:
        return None
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
        round_to=round_to,
        rescale=(
            *(Rescale(s.tensor, 0.5, stop=inner) for s in qkv),
            *(Rescale(table, -0.5) for table in tables),
        ),
        tie=tie,
    )


def heads(path: str, count: int, shapes: Shapes, round_to: int, tie: str | None) -> Group | None:
    """Whole heads of a layer; None if none is left."""
    inner = shapes[f"{path}.qkv.weight"][0] // 3
    if not count or not inner:
        return None
    width = inner // count
    return Group(
        name=path,
        kind="head",
        size=count,
        slices=(
            *rows(shapes, f"{path}.qkv", block=width, repeat=3, pitch=inner),
            *columns(f"{path}.proj", block=width),
        ),
        sites=(Site(f"{path}.proj", "input", block=width, split=True),),
        attrs=(Attr(path, "num_attention_heads", 1),),
        work=(path,),
        round_to=round_to,
        tie=tie,
    )


def neurons(
    path: str, first: str, second: str, shapes: Shapes, round_to: int = 1, tie: str | None = None
) -> Group | None:
    """Hidden neurons between the Linears `first` and `second` of an MLP; None if none is left."""
    hidden = shapes[f"{path}.{first}.weight"][0]
    if not hidden:
        return None
    return Group(
        name=path,
        kind="ffn",
        size=hidden,
        slices=(*rows(shapes, f"{path}.{first}"), *columns(f"{path}.{second}")),
        sites=(Site(f"{path}.{second}", "input"),),
        round_to=round_to,
        tie=tie,
    )
