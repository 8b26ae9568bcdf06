"""`Sam2VisionModel` taught to read ``config.pruning``."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers.models.sam2.modeling_sam2 import Sam2MultiScaleAttention, Sam2VisionModel, do_pool

from gencompress.domains.sam.modeling import teach_


def read_pruning_() -> None:
    """Teach the class; a second call does nothing."""
    teach_(Sam2VisionModel, Sam2MultiScaleAttention, EmptyAttention)


class EmptyAttention(Sam2MultiScaleAttention):
    """Attention of which no unit is left: the bias of its output, which is all that remains."""

    def forward(self, hidden_states: Tensor, **kwargs: Any) -> Tensor:
        """[batch, height, width, channels] -> [batch, height, width, channels out], pooled as queries are."""
        stride: Any = self.query_stride
        pooled = do_pool(hidden_states[..., :1], stride)
        return self.proj(pooled[..., :0])
