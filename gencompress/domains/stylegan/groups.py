"""Which channels of a StyleGAN2 generator can be removed: those of every feature set, each with its own width.

There is no residual stream, since blocks add up in RGB alone, so every feature set is a group of its own. The mapping,
w and w+ keep their size: latents of the dense generator, projected or edited, are latents of the pruned one.
"""

from __future__ import annotations

from gencompress.core.group import Group, Groups, Rescale, Site, Slice, shapes_of
from gencompress.domains.stylegan.model import Generator

KINDS = ("channel",)


def groups_of(generator: Generator, *, round_to: int = 1) -> Groups:
    """One group for every feature set c_0 to c_L, all of them exact.

    A gate multiplies the style that reads the channel, before the norm of modulated weights is taken: gating the
    channel itself would leave its part of the norm.

    Args:
        generator: on any device including meta, pruned before or not.
        round_to: kept channels are multiples of this where the budget allows; hardware likes 8.
    """
    shapes = shapes_of(generator.state_dict())
    last = len(generator.config.channels) - 1
    return Groups(tuple(_features(i, last, shapes, round_to) for i in range(last + 1)))


def _features(index: int, last: int, shapes: dict[str, tuple[int, ...]], round_to: int) -> Group:
    """Feature set c_`index`: made by convolution `index`, or the constant; read by the next one, and for RGB if odd."""
    path = producer(index)
    readers = [producer(index + 1)] if index < last else []
    rgb = f"to_rgb{'1' if index == 1 else f's.{index // 2 - 1}'}" if index % 2 else None
    readers += [rgb] if rgb else []
    made = [Slice(f"{path}.conv.weight", 1), Slice(f"{path}.activate.bias", 0)] if index else [Slice("input.input", 1)]
    return Group(
        name=path,
        kind="channel",
        size=shapes[made[0].tensor][1],
        slices=(*made, *(s for reader in readers for s in _read(f"{reader}.conv"))),
        sites=tuple(Site(f"{reader}.conv.modulation", "output") for reader in readers),
        work=(
            *((f"{path}.conv", f"{path}.conv.blur") if index else ()),
            *(f"{reader}.conv{part}" for reader in readers for part in ("", ".modulation")),
        ),
        round_to=round_to,
        rescale=(Rescale(f"{rgb}.conv.weight", 0.5),) if rgb else (),  # its gain is 1 / sqrt(inputs)
    )


def producer(index: int) -> str:
    """Path of what makes feature set c_`index`."""
    return ("input", "conv1")[index] if index < 2 else f"convs.{index - 2}"


def _read(conv: str) -> tuple[Slice, ...]:
    """Inputs of a modulated convolution, with their styles."""
    return Slice(f"{conv}.weight", 2), Slice(f"{conv}.modulation.weight", 0), Slice(f"{conv}.modulation.bias", 0)
