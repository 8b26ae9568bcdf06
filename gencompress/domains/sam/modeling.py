"""The stock SAM encoder, built from its stock config, then narrowed by ``config.pruning``.

``config["pruning"]`` holds the shapes that differ, by module of the encoder, so `from_pretrained`, `save_pretrained`
and dtypes all work as for any model of transformers.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from transformers.models.sam.modeling_sam import SamVisionAttention, SamVisionEncoder

from gencompress.core.resize import resize_

PRUNING_VERSION = 1


def read_pruning_() -> None:
    """Teach `SamVisionEncoder` to build what ``config.pruning`` says; a second call does nothing."""
    encoder: Any = SamVisionEncoder
    stock = encoder.__init__
    if hasattr(stock, "__wrapped__"):
        return

    @functools.wraps(stock)
    def __init__(self: Any, config: Any, *args: Any, **kwargs: Any) -> None:
        stock(self, config, *args, **kwargs)
        pruning = getattr(config, "pruning", None)
        if pruning is not None:
            shrink_(self, pruning)

    encoder.__init__ = __init__


def shrink_(encoder: nn.Module, pruning: Mapping[str, Any]) -> None:
    """Give the tensors of a stock encoder the shapes in ``pruning["modules"]``, and attention the scale of its width.

    Raises:
        ValueError: `pruning` is of another version, or names what this encoder does not have or what cannot shrink.
    """
    if not isinstance(pruning, Mapping) or pruning.get("version") != PRUNING_VERSION:
        raise ValueError(f"config.json: vision_config.pruning is not of version {PRUNING_VERSION}")
    resize_(encoder, pruning.get("modules", {}))
    for module in encoder.modules():
        if isinstance(module, SamVisionAttention):
            width = len(module.qkv.weight) // 3
            if width:
                module.scale = (width // module.num_attention_heads) ** -0.5
            else:
                module.__class__ = EmptyAttention


class EmptyAttention(SamVisionAttention):
    """Attention of which no unit is left: the bias of its output, which is all that remains."""

    def forward(self, hidden_states: Tensor, output_attentions: bool | None = None) -> Any:
        """[batch, height, width, channels] -> the same, and no attention weights."""
        return self.proj(hidden_states.new_zeros(*hidden_states.shape[:3], 0)), None
