"""Groups of `UNet2DModel` and `UNet2DConditionModel` (Stable Diffusion 1.x, 2.x, XL)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn

from gencompress.core.group import Attr, Group, Site
from gencompress.core.parts import Shapes, columns, rows
from gencompress.domains.diffusion.groups_parts import feed_forward, heads


def unet_groups(unet: Any, shapes: Shapes) -> Iterator[Group | None]:
    """Time MLP, then attention heads, feed-forward neurons and ResNet interiors in the order of the modules."""
    from diffusers.models.attention import FeedForward
    from diffusers.models.attention_processor import Attention
    from diffusers.models.resnet import ResnetBlock2D

    yield from _time_mlp(unet, shapes)
    for path, module in unet.named_modules():
        if ".fuser." in path:  # GLIGEN's extra branch, which runs only when boxes are given
            continue
        if isinstance(module, Attention):
            yield heads(path, module, shapes)
        elif isinstance(module, FeedForward):
            yield feed_forward(path, module, shapes)
        elif isinstance(module, ResnetBlock2D):
            yield interior(path, module, shapes)


def interior(path: str, resnet: Any, shapes: Shapes) -> Group | None:
    """Channels between the two convolutions of a ResNet block, in whole groups of ``norm2``.

    Only whole groups leave the statistics of the others alone, and only the interior is free: the block's output is
    tied to residuals, samplers and skip connections.
    """
    channels = shapes[f"{path}.conv1.weight"][0]
    count = int(resnet.norm2.num_groups)
    if not channels:
        return None
    width = channels // count
    halves = {"repeat": 2, "pitch": channels} if resnet.time_embedding_norm == "scale_shift" else {}
    return Group(
        name=path,
        kind="resnet",
        size=count,
        slices=(
            *rows(shapes, f"{path}.conv1", block=width),
            *rows(shapes, f"{path}.time_emb_proj", block=width, **halves),
            *rows(shapes, f"{path}.norm2", block=width),
            *columns(f"{path}.conv2", block=width),
        ),
        sites=(Site(f"{path}.conv2", "input", dim=1, block=width),),
        attrs=(Attr(f"{path}.norm2", "num_groups", 1),),
    )


def _time_mlp(unet: Any, shapes: Shapes) -> Iterator[Group | None]:
    """Hidden units of the embedding MLPs, and the channels of the embedding that all of them add up to."""
    from diffusers.models.embeddings import TimestepEmbedding

    for name in ("time_embedding", "add_embedding", "class_embedding"):
        mlp = getattr(unet, name, None)
        if isinstance(mlp, TimestepEmbedding) and shapes[f"{name}.linear_2.weight"][1]:
            yield Group(
                name=f"{name}.linear_1",
                kind="time",
                size=shapes[f"{name}.linear_2.weight"][1],
                slices=rows(shapes, f"{name}.linear_1") + columns(f"{name}.linear_2"),
                sites=(Site(f"{name}.linear_2", "input"),),
            )
    yield _time_embedding(unet, shapes)


def _time_embedding(unet: Any, shapes: Shapes) -> Group | None:
    """Channels of the embedding that every ResNet block projects, None if something else reads it or adds to it.

    Each summand loses rows and each ``time_emb_proj`` columns; only activations lie between, so a gate on the inputs
    of the projections is the removal.
    """
    from diffusers.models.embeddings import TimestepEmbedding
    from diffusers.models.resnet import ResnetBlock2D

    if unet.config.get("class_embeddings_concat") or unet.config.get("resnet_time_scale_shift") == "ada_group":
        return None
    size = shapes["time_embedding.linear_2.weight"][0]
    slices, attrs = [*rows(shapes, "time_embedding.linear_2")], []
    for name in ("class_embedding", "add_embedding"):
        summand = getattr(unet, name, None)
        if summand is None:
            continue
        if isinstance(summand, TimestepEmbedding):
            slices += rows(shapes, f"{name}.linear_2")
        elif isinstance(summand, nn.Embedding):
            slices += columns(name)
            attrs.append(Attr(name, "embedding_dim", 1))
        elif isinstance(summand, nn.Linear):
            slices += rows(shapes, name)
        else:
            return None
    blocks = [path for path, module in unet.named_modules() if isinstance(module, ResnetBlock2D)]
    readers = [f"{path}.time_emb_proj" for path in blocks if f"{path}.time_emb_proj.weight" in shapes]
    if not size or not readers or any(shapes[f"{reader}.weight"][1] != size for reader in readers):
        return None
    return Group(
        name="time_embedding.linear_2",
        kind="time",
        size=size,
        slices=(*slices, *(s for reader in readers for s in columns(reader))),
        sites=tuple(Site(reader, "input") for reader in readers),
        attrs=tuple(attrs),
    )
