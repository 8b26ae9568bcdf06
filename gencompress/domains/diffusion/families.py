"""The denoisers that can be pruned: their diffusers classes and what each offers.

This table is the one place that lists them; it imports neither torch nor diffusers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from gencompress.errors import ModelError


@dataclass(frozen=True, slots=True)
class Family:
    """One diffusers class.

    Args:
        native: name of the class in diffusers.
        widths: kinds of groups inside of blocks.
        extras: further kinds, given only when asked for by name.
        stacks: config key of the number of blocks, by the container of removable blocks.
    """

    native: str
    widths: tuple[str, ...]
    extras: tuple[str, ...] = ()
    stacks: tuple[tuple[str, str], ...] = ()

    @property
    def kinds(self) -> tuple[str, ...]:
        """All kinds of groups that this family has."""
        return self.widths + self.extras


_BLOCKS = (("transformer_blocks", "num_layers"),)
FAMILIES: dict[str, Family] = {
    family.native: family
    for family in (
        Family("UNet2DModel", ("head", "resnet", "time")),
        Family("UNet2DConditionModel", ("head", "ffn", "resnet", "time")),
        Family("DiTTransformer2DModel", ("head", "ffn"), ("adaln", "depth"), _BLOCKS),
        Family("PixArtTransformer2DModel", ("head", "ffn"), ("depth",), _BLOCKS),
        Family("SD3Transformer2DModel", ("head", "ffn"), ("adaln", "depth"), _BLOCKS),
        Family(
            "FluxTransformer2DModel",
            ("head", "ffn"),
            ("adaln", "depth"),
            (*_BLOCKS, ("single_transformer_blocks", "num_single_layers")),
        ),
        Family("SanaTransformer2DModel", ("head", "ffn"), ("depth",), _BLOCKS),
    )
}
KINDS: tuple[str, ...] = ("head", "ffn", "resnet", "time", "adaln", "depth")


def family_of(denoiser: Any) -> Family:
    """The family of a denoiser, dense or already pruned.

    Raises:
        ModelError: its class is none of the supported ones, which the message lists.
    """
    for cls in type(denoiser).__mro__:
        if cls.__name__ in FAMILIES:
            return FAMILIES[cls.__name__]
    raise ModelError(f"cannot prune a {type(denoiser).__name__}; supported are {', '.join(FAMILIES)}")
