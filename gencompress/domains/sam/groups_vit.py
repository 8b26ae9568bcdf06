"""Groups of `SamVisionEncoder`: a plain transformer with one residual stream from the patches to the neck."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from typing import Any

from gencompress.core.group import Group, Site, Slice
from gencompress.core.parts import Shapes, columns, rows, whole_block
from gencompress.domains.sam.groups_parts import head_dims, heads, neurons
from gencompress.errors import ConfigError

WIDTH = "residual"
_TIE = "hidden size is heads times head dimension"
_ALIGNED = 8  # widths that tensor cores like


def vit_groups(encoder: Any, shapes: Shapes, kinds: Collection[str], uniform: bool) -> Iterator[Group | None]:
    """The residual stream, then attention, neurons and the whole of every layer."""
    width, unit, neuron = _steps(encoder, kinds) if uniform else (1, 1, 1)
    tie = _TIE if uniform else None
    yield _residual(encoder, shapes, width, tie)
    for i, layer in enumerate(encoder.layers):
        path, count = f"layers.{i}", int(layer.attn.num_attention_heads)
        if "head" in kinds:
            yield heads(f"{path}.attn", count, shapes, unit, tie)
        else:
            yield head_dims(f"{path}.attn", count, shapes, unit, tie)
        yield neurons(f"{path}.mlp", "lin1", "lin2", shapes, neuron)
        yield whole_block(path)


def _steps(encoder: Any, kinds: Collection[str]) -> tuple[int, int, int]:
    """What the width, the units of attention (heads or head dimensions) and neurons are multiples of.

    Such that width = heads * head dimension, both sides multiples of 8, has solutions in whole units.
    """
    attention = {(layer.attn.num_attention_heads, len(layer.attn.qkv.weight) // 3) for layer in encoder.layers}
    width = len(encoder.patch_embed.projection.weight)
    if len(attention) != 1 or next(iter(attention))[1] != width:
        raise ConfigError("the layers of this encoder differ already, so no uniform result can be made of it")
    count = next(iter(attention))[0]
    channels = width // count if "head" in kinds else count  # of one unit
    step = math.lcm(channels, _ALIGNED)
    return step, step // channels, _ALIGNED


def _residual(encoder: Any, shapes: Shapes, round_to: int, tie: str | None) -> Group:
    """What every layer adds to and reads through a norm."""
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
        round_to=round_to,
        tie=tie,
    )
