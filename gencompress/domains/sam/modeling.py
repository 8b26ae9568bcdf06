"""Stock encoders, built from their stock config, then narrowed by ``config.pruning``.

``config["pruning"]`` holds the shapes that differ, by module of the encoder, so `from_pretrained`, `save_pretrained`
and dtypes all work as for any model of transformers.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

from torch import nn

from gencompress.core.resize import resize_

PRUNING_VERSION = 1


def teach_(encoder: Any, attention: type[nn.Module], empty: type[nn.Module]) -> None:
    """Let the class `encoder` build what ``config.pruning`` says; a second call does nothing.

    Args:
        encoder: class of transformers whose first argument is the config.
        attention: class of its attention modules, which have one qkv and keep the scale of their logits.
        empty: what such a module becomes when no unit of it is left.
    """
    stock = encoder.__init__
    if hasattr(stock, "__wrapped__"):
        return

    @functools.wraps(stock)
    def __init__(self: Any, config: Any, *args: Any, **kwargs: Any) -> None:
        stock(self, config, *args, **kwargs)
        pruning = getattr(config, "pruning", None)
        if pruning is not None:
            _shrink_(self, pruning)
            for module in self.modules():
                if isinstance(module, attention):
                    _settle_(module, empty)

    encoder.__init__ = __init__


def _shrink_(encoder: nn.Module, pruning: Any) -> None:
    """Give the tensors of a stock encoder the shapes in ``pruning["modules"]``.

    Raises:
        ValueError: `pruning` is of another version, or names what this encoder does not have or what cannot shrink.
    """
    if not isinstance(pruning, Mapping) or pruning.get("version") != PRUNING_VERSION:
        raise ValueError(f"config.json: vision_config.pruning is not of version {PRUNING_VERSION}")
    resize_(encoder, pruning.get("modules", {}))


def _settle_(attn: Any, empty: type[nn.Module]) -> None:
    """Bring an attention module in step with the new shape of its qkv."""
    width = len(attn.qkv.weight) // 3
    if width:
        attn.scale = (width // attn.num_attention_heads) ** -0.5
    else:
        attn.__class__ = empty
