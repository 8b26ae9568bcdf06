"""`SamVisionEncoder` taught to read ``config.pruning``."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers.models.sam.modeling_sam import SamVisionAttention, SamVisionEncoder

from gencompress.domains.sam.modeling import teach_


def read_pruning_() -> None:
    """Teach the class; a second call does nothing."""
    teach_(SamVisionEncoder, SamVisionAttention, EmptyAttention)


class EmptyAttention(SamVisionAttention):
    """Attention of which no unit is left: the bias of its output, which is all that remains."""

    def forward(self, hidden_states: Tensor, output_attentions: bool | None = None) -> Any:
        """[batch, height, width, channels] -> the same, and no attention weights."""
        return self.proj(hidden_states.new_zeros(*hidden_states.shape[:3], 0)), None
