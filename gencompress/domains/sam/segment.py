"""Prompts answered with masks: one picture is embedded once, then asked as often as needed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gencompress.errors import DataError
from gencompress.metrics.segmentation import Mask, Question

Image = NDArray[np.uint8]

_PROMPTS = 64  # decoded at a time, as SAM's automatic mask generation does
_PIXELS = 2**25  # of mask logits that are held at a picture's own size at a time


@dataclass(frozen=True)
class _Embedded:
    """A picture as the mask decoder takes it: what depends on the picture alone."""

    image: Image
    embedding: Any
    sizes: dict[str, Tensor]  # what the processor needs to bring masks back to the picture's own size
    scale: tuple[float, float]  # pixels of the model's input per pixel of the picture, along x and y


class Segmenter:
    """A promptable model with its processor.

    Args:
        model: a `SamModel` or `Sam2Model`, dense or pruned.
        processor: the `SamProcessor` or `Sam2Processor` that goes with it.
    """

    def __init__(self, model: Any, processor: Any) -> None:
        self.model, self.processor = model, processor
        self._last: _Embedded | None = None

    def embedding(self, image: Image) -> Tensor:
        """All values of a picture's embedding [values]; of Sam2 those of every level.

        Args:
            image: [H, W, 3], 0 to 255.
        """
        found = self._embedded(image).embedding
        return torch.cat([level.flatten() for level in (found if isinstance(found, list) else [found])])

    def answer(self, image: Image, question: Question) -> Mask:
        """The mask [H, W] for one prompt; see `answers`."""
        return self.answers(image, [question])[0]

    def answers(self, image: Image, questions: Sequence[Question]) -> list[Mask]:
        """One mask [H, W] per prompt, at the picture's own size: of the masks that the model proposes for a point or
        box the one whose predicted IoU is highest.

        Args:
            image: [H, W, 3], 0 to 255; while the same array is asked again, its embedding is kept.
            questions: points and boxes in pixels of `image`.

        Raises:
            DataError: `image` is of another shape or type.
        """
        at = self._embedded(image)
        masks: dict[int, Mask] = {}
        for kind in {question.kind for question in questions}:
            asked = [i for i, question in enumerate(questions) if question.kind == kind]
            coordinates = torch.tensor([questions[i].coordinates for i in asked], dtype=torch.float32)
            best = [_best(*decoded) for decoded in self._decoded(at, kind, coordinates)]
            masks |= zip(asked, (mask for logits in best for mask in self._masks(at, logits)), strict=True)
        return [masks[i] for i in range(len(questions))]

    def everything(
        self,
        image: Image,
        *,
        points_per_side: int = 32,
        predicted_iou: float = 0.88,
        stability: float = 0.95,
        overlap: float = 0.7,
    ) -> list[Mask]:
        """Masks [H, W] of everything in a picture, those with the highest predicted IoU first.

        SAM's automatic mask generation (Kirillov et al., "Segment Anything", 2023, appendix B) on the whole picture:
        a grid of points, each of whose masks stays if its predicted IoU and its stability under a change of the logit
        threshold by one are high enough; then non-maximum suppression of their boxes.

        Args:
            image: [H, W, 3], 0 to 255.
            points_per_side: of the grid.
            predicted_iou: least that stays, in [0, 1].
            stability: least IoU of the masks at thresholds +1 and -1 that stays, in [0, 1].
            overlap: largest IoU of the boxes of two masks that both stay, in [0, 1].
        """
        from torchvision.ops import masks_to_boxes, nms

        at = self._embedded(image)
        found: list[tuple[Tensor, Tensor, Tensor]] = []  # small logits, since a crowded picture has thousands of masks
        for logits, ious in self._decoded(at, "point", _grid(image, points_per_side)):
            likely = ious > predicted_iou
            for low, scores in _parts(at, logits[likely], ious[likely]):
                high = self._at_full_size(at, low)
                stable = _stability(high) >= stability
                found.append((low[stable], scores[stable].float(), masks_to_boxes(high[stable] > 0)))
        low, scores, boxes = (torch.cat(parts) for parts in zip(*found, strict=True))
        kept = nms(boxes, scores, overlap)
        return list(self._masks(at, low[kept]))

    @torch.no_grad()
    def _embedded(self, image: Image) -> _Embedded:
        if self._last is None or self._last.image is not image:
            if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
                raise DataError(f"a picture is uint8 [H, W, 3], got {image.dtype} {list(image.shape)}")
            inputs = dict(self.processor(image, return_tensors="pt", input_data_format="channels_last"))
            parameter = next(self.model.vision_encoder.parameters())
            pixels = inputs.pop("pixel_values").to(parameter.device, parameter.dtype)
            # SAM pads below and to the right, so what a picture takes of the input may be less; Sam2 stretches
            height, width = inputs.get("reshaped_input_sizes", torch.tensor([pixels.shape[-2:]]))[0].tolist()
            scale = width / image.shape[1], height / image.shape[0]
            self._last = _Embedded(image, self.model.get_image_embeddings(pixels), inputs, scale)
        return self._last

    @torch.no_grad()
    def _decoded(self, at: _Embedded, kind: str, coordinates: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Mask logits [n, masks, h, w] and predicted IoUs [n, masks] for prompts [N, 2 or 4], some at a time."""
        parameter = next(self.model.mask_decoder.parameters())
        scaled = coordinates * torch.tensor(at.scale).repeat(coordinates.shape[-1] // 2)
        for some in scaled.to(parameter.device).split(_PROMPTS):
            prompt = {"input_points": some[None, :, None]} if kind == "point" else {"input_boxes": some[None]}
            out = self.model(image_embeddings=at.embedding, multimask_output=True, **prompt)
            yield out.pred_masks[0], out.iou_scores[0]

    def _masks(self, at: _Embedded, logits: Tensor) -> Iterator[Mask]:
        """Masks [H, W] of logits [N, h, w]."""
        for (part,) in _parts(at, logits):
            yield from (self._at_full_size(at, part) > 0).cpu().numpy()

    def _at_full_size(self, at: _Embedded, logits: Tensor) -> Tensor:
        """Mask logits [n, h, w] at the size of the picture [n, H, W]."""
        sized: Tensor = self.processor.post_process_masks([logits[:, None].float()], **at.sizes, binarize=False)[0]
        return sized[:, 0]


def _parts(at: _Embedded, *tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Tensors [N, ...] in parts of which the logits at the picture's own size may be held; one at least, if empty."""
    some = max(1, _PIXELS // (at.image.shape[0] * at.image.shape[1]))
    return zip(*(tensor.split(some) for tensor in tensors), strict=True)


def _best(logits: Tensor, ious: Tensor) -> Tensor:
    """Of the masks of every prompt the one of the highest predicted IoU, [n, h, w]."""
    return logits[torch.arange(len(logits), device=logits.device), ious.argmax(1)]


def _grid(image: Image, per_side: int) -> Tensor:
    """Points (x, y) in the middle of equal cells [per_side^2, 2], in pixels."""
    middles = (torch.arange(per_side) + 0.5) / per_side
    y, x = torch.meshgrid(middles * image.shape[0], middles * image.shape[1], indexing="ij")
    return torch.stack([x, y], dim=-1).reshape(-1, 2)


def _stability(logits: Tensor) -> Tensor:
    """IoU of the masks at thresholds +1 and -1 [n], of which one lies in the other; 0 for an empty mask."""
    inner, outer = ((logits > threshold).sum((1, 2)) for threshold in (1, -1))
    return inner / outer.clamp_min(1)
