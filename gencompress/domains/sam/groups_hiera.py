"""Groups of `Sam2VisionModel` (Hiera): one residual stream per stage, all of them read by the neck.

The first block of a later stage reads the stream before it and writes the new one, through its own projection.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from gencompress.core.group import Group, Site, Slice
from gencompress.core.parts import Shapes, columns, rows, whole_block
from gencompress.domains.sam.groups_parts import head_dims, neurons
from gencompress.errors import ConfigError

_ALIGNED = 8


def hiera_groups(encoder: Any, shapes: Shapes, uniform: bool) -> Iterator[Group | None]:
    """For every stage: the residual stream, then attention, neurons and, but for its first block, whole blocks.

    Stock configs have one MLP ratio, so a stage keeps the same ratio of everything.
    """
    stages = _stages(encoder)
    for stage, blocks in enumerate(stages):
        tie = f"stage {stage}" if uniform else None
        width, dim, neuron = _steps(encoder, blocks, shapes) if uniform else (1, 1, 1)
        yield _residual(stages, stage, shapes, width, tie)
        for position, i in enumerate(blocks):
            path, attn = f"backbone.blocks.{i}", encoder.backbone.blocks[i].attn
            yield head_dims(f"{path}.attn", int(attn.num_attention_heads), shapes, dim, tie)
            yield neurons(f"{path}.mlp", "proj_in", "proj_out", shapes, neuron, tie)
            yield whole_block(path) if position else None


def _stages(encoder: Any) -> list[list[int]]:
    """Indices of the blocks of every stage."""
    ends = [end + 1 for end in encoder.backbone.stage_ends]
    return [list(range(start, end)) for start, end in zip([0, *ends], ends, strict=False)]


def _steps(encoder: Any, blocks: list[int], shapes: Shapes) -> tuple[int, int, int]:
    """What width, head dimensions and neurons of a stage are multiples of, so that their ratios can be equal."""
    paths = [f"backbone.blocks.{i}" for i in blocks]
    inner = {shapes[f"{path}.attn.qkv.weight"][0] // 3 for path in paths}
    hidden = {shapes[f"{path}.mlp.proj_in.weight"][0] for path in paths}
    width = shapes[f"{paths[0]}.layer_norm2.weight"][0]
    if inner != {width} or len(hidden) != 1:
        raise ConfigError("the blocks of a stage differ already, so no uniform result can be made of this encoder")
    count = int(encoder.backbone.blocks[blocks[0]].attn.num_attention_heads)
    step, neurons_per_channel = math.lcm(count, _ALIGNED), hidden.pop() / width
    return step, step // count, int(step * neurons_per_channel)


def _residual(stages: list[list[int]], stage: int, shapes: Shapes, round_to: int, tie: str | None) -> Group:
    """What the blocks of a stage add to; read by their norms, by the next stage's first block, and by the neck."""
    slices: list[Slice] = []
    if not stage:
        slices += [*rows(shapes, "backbone.patch_embed.projection")]
        slices += [Slice("backbone.pos_embed", 1), Slice("backbone.pos_embed_window", 1)]
    norms: list[str] = []
    for position, i in enumerate(stages[stage]):
        path = f"backbone.blocks.{i}"
        if stage and not position:
            slices += rows(shapes, f"{path}.proj")
        else:
            norms.append(f"{path}.layer_norm1")
            slices += columns(f"{path}.attn.qkv")
        norms.append(f"{path}.layer_norm2")
        slices += [*rows(shapes, f"{path}.attn.proj"), *columns(f"{path}.mlp.proj_in")]
        slices += rows(shapes, f"{path}.mlp.proj_out")
    if stage + 1 < len(stages):
        path = f"backbone.blocks.{stages[stage + 1][0]}"
        norms.append(f"{path}.layer_norm1")
        slices += [*columns(f"{path}.attn.qkv"), *columns(f"{path}.proj")]
    lateral = f"neck.convs.{len(stages) - 1 - stage}"
    return Group(
        name=f"residual.{stage}",
        kind="width",
        size=shapes[f"{lateral}.weight"][1],
        slices=(*slices, *(s for norm in norms for s in rows(shapes, norm)), *columns(lateral)),
        sites=(*(Site(norm, "norm") for norm in norms), Site(lateral, "input", dim=1)),
        round_to=round_to,
        tie=tie,
    )
