"""Groups of the transformer denoisers: DiT, PixArt, Stable Diffusion 3, FLUX and Sana."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from gencompress.core.group import Attr, Group, Site
from gencompress.core.parts import Shapes, columns, rows, whole_block
from gencompress.domains.diffusion.groups_parts import feed_forward, heads, modulation


def dit_groups(dit: Any, shapes: Shapes) -> Iterator[Group | None]:
    """DiT. Block 0 is never a depth unit: its embedder also conditions the output layer."""
    for i, block in enumerate(dit.transformer_blocks):
        path = f"transformer_blocks.{i}"
        yield modulation(f"{path}.norm1.linear", shapes)
        yield heads(f"{path}.attn1", block.attn1, shapes)
        yield feed_forward(f"{path}.ff", block.ff, shapes)
        yield whole_block(path) if i else None


def pixart_groups(pixart: Any, shapes: Shapes) -> Iterator[Group | None]:
    """PixArt-alpha and -sigma."""
    for i, block in enumerate(pixart.transformer_blocks):
        path = f"transformer_blocks.{i}"
        for name in ("attn1", "attn2"):
            if getattr(block, name) is not None:
                yield heads(f"{path}.{name}", getattr(block, name), shapes)
        yield feed_forward(f"{path}.ff", block.ff, shapes)
        yield whole_block(path) if i else None


def sd3_groups(sd3: Any, shapes: Shapes) -> Iterator[Group | None]:
    """Stable Diffusion 3 and 3.5. The last block is no depth unit: it alone ends the text stream."""
    for i, block in enumerate(sd3.transformer_blocks):
        path = f"transformer_blocks.{i}"
        yield modulation(f"{path}.norm1.linear", shapes)
        yield modulation(f"{path}.norm1_context.linear", shapes)
        yield heads(f"{path}.attn", block.attn, shapes)
        if block.attn2 is not None:
            yield heads(f"{path}.attn2", block.attn2, shapes)
        yield feed_forward(f"{path}.ff", block.ff, shapes)
        if block.ff_context is not None:
            yield feed_forward(f"{path}.ff_context", block.ff_context, shapes)
        yield whole_block(path) if i < len(sd3.transformer_blocks) - 1 else None


def flux_groups(flux: Any, shapes: Shapes) -> Iterator[Group | None]:
    """FLUX: joint blocks, then single blocks, whose ``proj_out`` reads the heads first and the neurons after them."""
    for i, block in enumerate(flux.transformer_blocks):
        path = f"transformer_blocks.{i}"
        yield modulation(f"{path}.norm1.linear", shapes)
        yield modulation(f"{path}.norm1_context.linear", shapes)
        yield heads(f"{path}.attn", block.attn, shapes)
        yield feed_forward(f"{path}.ff", block.ff, shapes)
        yield feed_forward(f"{path}.ff_context", block.ff_context, shapes)
        yield whole_block(path) if i else None
    for i, block in enumerate(flux.single_transformer_blocks):
        path = f"single_transformer_blocks.{i}"
        yield modulation(f"{path}.norm.linear", shapes)
        yield heads(f"{path}.attn", block.attn, shapes, readers=[f"{path}.proj_out"])
        yield _single_mlp(path, shapes)
        yield whole_block(path) if i or len(flux.transformer_blocks) else None


def _single_mlp(path: str, shapes: Shapes) -> Group | None:
    hidden, offset = shapes[f"{path}.proj_mlp.weight"][0], shapes[f"{path}.attn.to_v.weight"][0]
    if not hidden:
        return None
    return Group(
        name=f"{path}.proj_mlp",
        kind="ffn",
        size=hidden,
        slices=rows(shapes, f"{path}.proj_mlp") + columns(f"{path}.proj_out", offset=offset),
        sites=(Site(f"{path}.proj_out", "input", offset=offset),),
        attrs=(Attr(path, "mlp_hidden_dim", 1),),
    )


def sana_groups(sana: Any, shapes: Shapes) -> Iterator[Group | None]:
    """Sana: linear self-attention, cross-attention, and a gated convolution as feed-forward."""
    for i, block in enumerate(sana.transformer_blocks):
        path = f"transformer_blocks.{i}"
        yield heads(f"{path}.attn1", block.attn1, shapes)
        if getattr(block, "attn2", None) is not None:
            yield heads(f"{path}.attn2", block.attn2, shapes)
        yield _gated_convolution(f"{path}.ff", shapes)
        yield whole_block(path) if i else None


def _gated_convolution(path: str, shapes: Shapes) -> Group | None:
    """Hidden channels of a GLUMBConv; value and gate are the two halves of the expanding and the depthwise layer."""
    hidden = shapes[f"{path}.conv_point.weight"][1]
    if not hidden:
        return None
    halves = {"repeat": 2, "pitch": hidden}
    expand, depthwise = rows(shapes, f"{path}.conv_inverted", **halves), rows(shapes, f"{path}.conv_depth", **halves)
    return Group(
        name=path,
        kind="ffn",
        size=hidden,
        slices=expand + depthwise + columns(f"{path}.conv_point"),
        sites=(Site(f"{path}.conv_point", "input", dim=1),),
        attrs=(Attr(f"{path}.conv_depth", "groups", 2),),
    )
