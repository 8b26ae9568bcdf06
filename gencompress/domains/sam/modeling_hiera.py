"""`Sam2VisionModel` taught to read ``config.pruning``."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from transformers.models.sam2.modeling_sam2 import Sam2MultiScaleAttention, Sam2VisionModel, do_pool

from gencompress.domains.sam.modeling import attention_scale, teach_


def read_pruning_() -> None:
    """Teach the class; a second call does nothing."""
    teach_(Sam2VisionModel, _settle)


def _settle(module: nn.Module) -> None:
    if isinstance(module, Sam2MultiScaleAttention):
        scale = attention_scale(module)
        if scale is None:
            module.__class__ = EmptyAttention
        else:
            module.scale = scale


class EmptyAttention(Sam2MultiScaleAttention):
    """Attention of which no unit is left: the bias of its output, which is all that remains."""

    def forward(self, hidden_states: Tensor, **kwargs: Any) -> Tensor:
        """[batch, height, width, channels] -> [batch, height, width, channels out], pooled as queries are."""
        stride: Any = self.query_stride
        pooled = do_pool(hidden_states[..., :1], stride)
        return self.proj(pooled[..., :0])
