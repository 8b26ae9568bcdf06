"""An image encoder as a calibration subject: its embeddings beside those of its teacher, on images without labels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

Images = Callable[[int, int], Tensor]


class SamSubject:
    """What importance criteria and recovery ask of a student and its teacher.

    Args:
        encoder: the student, whose groups are scored.
        teacher: the dense encoder; the student itself before anything is removed.
        images: pixel values of the `index`-th batch of `size` images [size, 3, height, width], normalised and padded
            as the model takes them; the same for the same arguments.
    """

    def __init__(self, encoder: nn.Module, teacher: nn.Module, images: Images) -> None:
        self.module, self.teacher, self.images = encoder, teacher, images

    def outputs(self, index: int, size: int) -> Tensor:
        """Embeddings by the student, with gradient: of SAM [size, channels, height, width], of Sam2 the values of all
        levels [size, values].
        """
        return embeddings(self.module, self.images(index, size))

    @torch.no_grad()
    def targets(self, index: int, size: int) -> Tensor:
        """Embeddings by the teacher, of the same shape."""
        return embeddings(self.teacher, self.images(index, size))


def embeddings(encoder: Any, pixels: Tensor) -> Tensor:
    """What an image encoder makes of pixels [size, 3, height, width], as `SamSubject.outputs` gives it."""
    parameter = next(encoder.parameters())
    out = encoder(pixels.to(parameter.device, parameter.dtype))
    levels = getattr(out, "fpn_hidden_states", None)
    return out.last_hidden_state if levels is None else torch.cat([level.flatten(1) for level in levels], dim=1)
