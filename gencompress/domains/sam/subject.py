"""An image encoder as a calibration subject: its embeddings beside those of its teacher, on images without labels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

Batch = Callable[[int, int], Tensor]


class SamSubject:
    """What importance criteria ask of a student and its teacher.

    Args:
        encoder: the student, whose groups are scored.
        images: pixel values of the `index`-th batch of `size` images [size, 3, height, width], normalised and padded
            as the model takes them; the same for the same arguments.
        targets: the teacher's `embeddings` of the same batch; None where the student is its own teacher.
    """

    def __init__(self, encoder: nn.Module, images: Batch, targets: Batch | None = None) -> None:
        self.module, self.images, self._targets = encoder, images, targets

    def outputs(self, index: int, size: int) -> Tensor:
        """`embeddings` by the student, with gradient."""
        return embeddings(self.module, self.images(index, size))

    def losses(self, index: int, size: int) -> Tensor:
        """Mean square of the student's embeddings, by picture [size]: what first-order criteria take without labels."""
        return self.outputs(index, size).float().square().flatten(1).mean(1)

    @torch.no_grad()
    def targets(self, index: int, size: int) -> Tensor:
        """`embeddings` by the teacher."""
        return self.outputs(index, size) if self._targets is None else self._targets(index, size)


def embeddings(encoder: Any, pixels: Tensor) -> Tensor:
    """What an encoder makes of pixel values [size, 3, height, width]: of SAM [size, channels, rows, columns], of Sam2
    the values of all levels, [size, values].
    """
    parameter = next(encoder.parameters())
    out = encoder(pixels.to(parameter.device, parameter.dtype))
    levels = getattr(out, "fpn_hidden_states", None)
    return out.last_hidden_state if levels is None else torch.cat([level.flatten(1) for level in levels], dim=1)
