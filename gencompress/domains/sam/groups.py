"""Which units of a SAM image encoder can be removed.

Everything is read off the modules and the shapes of their weights, so it works on the meta device and on encoders that
were pruned before.
"""

from __future__ import annotations

from collections.abc import Collection

from torch import nn

from gencompress.core.group import Groups, shapes_of
from gencompress.domains.sam.families import DEFAULT, KINDS, Family, family_of
from gencompress.domains.sam.groups_hiera import hiera_groups
from gencompress.domains.sam.groups_vit import vit_groups
from gencompress.errors import ConfigError, ModelError, nearest


def groups_of(encoder: nn.Module, kinds: Collection[str] | None = None, *, uniform: bool = False) -> Groups:
    """The prunable groups of the image encoder of a `SamModel` or `Sam2Model`, all of them exact.

    ``width`` is the residual stream, one group through the whole encoder (of Sam2: through a stage); ``head_dim`` the
    same dimensions of every head of a layer, ``head`` its whole heads, ``ffn`` its neurons, ``depth`` the layer.

    Args:
        encoder: the model's `vision_encoder`, on any device including meta, pruned before or not.
        kinds: which kinds of units; None for ``width``, ``head_dim`` and ``ffn``.
        uniform: for budgets with ``uniform`` whose results load as stock models: widths are multiples of 8, and the
            residual stream stays as wide as all heads together, as stock configs have it.

    Raises:
        ModelError: not the encoder of a supported model, or adapters are attached.
        ConfigError: a kind is unknown; `kinds` names both ways to narrow attention; with `uniform`, widths that a
            stock config ties are not narrowed together, or layers differ already.
    """
    family = family_of(encoder)
    wanted = DEFAULT if kinds is None else tuple(kinds)
    _check_kinds(family, wanted, uniform)
    shapes = shapes_of(encoder.state_dict())
    if any(".base_layer." in name for name in shapes):
        raise ModelError("the encoder has adapters attached; merge or unload them before pruning")
    if family.native == "SamVisionEncoder":
        built = vit_groups(encoder, shapes, wanted, uniform)
    else:
        built = hiera_groups(encoder, shapes, uniform)
    return Groups(tuple(g for g in built if g is not None and g.kind in wanted))


def _check_kinds(family: Family, kinds: Collection[str], uniform: bool) -> None:
    for kind in kinds:
        if kind not in KINDS:
            raise ConfigError(f"unknown kind of group {kind!r}: {nearest(kind, KINDS)}")
        if kind not in family.kinds:
            raise ConfigError(f"{family.native} has no groups of kind {kind!r}; it offers {', '.join(family.kinds)}")
    if "head" in kinds and "head_dim" in kinds:
        raise ConfigError("heads and head dimensions own the same weights; remove one after the other, in two rounds")
    if not uniform:
        return
    if ("width" in kinds) != bool({"head", "head_dim"} & set(kinds)):
        raise ConfigError(
            "a stock SAM config has a hidden size of heads times head dimension, so uniform results need 'width' "
            "together with 'head_dim' or 'head'; without that, ask for results per layer"
        )
    if family.native == "Sam2VisionModel" and ("width" in kinds) != ("ffn" in kinds):
        raise ConfigError("a stock Sam2 config has one MLP ratio, so uniform results need 'width' together with 'ffn'")
