"""Stock encoders, built from their stock config, then narrowed by ``config.pruning``.

``config["pruning"]`` holds the shapes that differ, by module of the encoder, so `from_pretrained`, `save_pretrained`
and dtypes all work as for any model of transformers.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from gencompress.core.resize import resize_

PRUNING_VERSION = 1


def teach_(encoder: Any, settle: Callable[[nn.Module], None]) -> None:
    """Let the class `encoder` build what ``config.pruning`` says; a second call does nothing.

    Args:
        encoder: class of transformers whose first argument is the config.
        settle: brings every module in step with the new shapes of its tensors.
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
                settle(module)

    encoder.__init__ = __init__


def _shrink_(encoder: nn.Module, pruning: Any) -> None:
    """Give the tensors of a stock encoder the shapes in ``pruning["modules"]``.

    Raises:
        ValueError: `pruning` is of another version, or names what this encoder does not have or what cannot shrink.
    """
    if not isinstance(pruning, Mapping) or pruning.get("version") != PRUNING_VERSION:
        raise ValueError(f"config.json: vision_config.pruning is not of version {PRUNING_VERSION}")
    resize_(encoder, pruning.get("modules", {}))


def attention_scale(attn: Any) -> float | None:
    """1 / sqrt(head dimension) of an attention module with one qkv; None if it has no unit left."""
    width = len(attn.qkv.weight) // 3
    return (width // attn.num_attention_heads) ** -0.5 if width else None
