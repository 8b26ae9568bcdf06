"""Which units of a denoiser can be removed: `groups_of` for every supported family.

Everything is read off the modules and the shapes of their weights, so it works on the meta device and on models that
were pruned before.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

from torch import nn

from gencompress.core.group import Group, Groups, shapes_of
from gencompress.core.parts import Shapes
from gencompress.domains.diffusion.families import KINDS, family_of
from gencompress.domains.diffusion.groups_transformers import (
    dit_groups,
    flux_groups,
    pixart_groups,
    sana_groups,
    sd3_groups,
)
from gencompress.domains.diffusion.groups_unet import unet_groups
from gencompress.errors import ConfigError, ModelError, nearest

_BUILDERS: Mapping[str, Callable[[Any, Shapes], Iterator[Group | None]]] = {
    "UNet2DModel": unet_groups,
    "UNet2DConditionModel": unet_groups,
    "DiTTransformer2DModel": dit_groups,
    "PixArtTransformer2DModel": pixart_groups,
    "SD3Transformer2DModel": sd3_groups,
    "FluxTransformer2DModel": flux_groups,
    "SanaTransformer2DModel": sana_groups,
}


def groups_of(denoiser: nn.Module, kinds: Collection[str] | None = None) -> Groups:
    """The prunable groups of a denoiser, all of them exact.

    Args:
        denoiser: a UNet or transformer of a supported class, on any device including meta, pruned before or not.
        kinds: which kinds of units; None for all that change widths (``head``, ``ffn``, ``resnet``, ``time``).
            ``adaln`` (outputs of adaptive norms) and ``depth`` (whole blocks) are given only when named here.
            Kinds that the family lacks are passed over.

    Raises:
        ModelError: the class is not supported, or adapters are attached.
        ConfigError: a kind is unknown, or none of them exists in this family.
    """
    family = family_of(denoiser)
    wanted = set(family.widths if kinds is None else kinds)
    for kind in wanted:
        if kind not in KINDS:
            raise ConfigError(f"unknown kind of group {kind!r}: {nearest(kind, KINDS)}")
    shapes = shapes_of(denoiser.state_dict())
    if any(".base_layer." in name for name in shapes):
        raise ModelError("the denoiser has adapters attached; fuse or unload them before pruning")
    built = _BUILDERS[family.native](denoiser, shapes)
    groups = Groups(tuple(g for g in built if g is not None and g.kind in wanted))
    if not len(groups):
        raise ConfigError(
            f"{family.native} has no groups of kind {sorted(wanted)}; it offers {', '.join(family.kinds)}"
        )
    return groups
