"""How well a promptable segmenter answers: mean IoU over objects for point, box and "everything" prompts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from gencompress.errors import DataError
from gencompress.metrics.statistics import Estimate

Mask = NDArray[np.bool_]
Prompt = Literal["point", "box"]


@dataclass(frozen=True)
class Question:
    """One object asked for: a point ``(x, y)`` inside it, or the box ``(x0, y0, x1, y1)`` around it, in pixels."""

    kind: Prompt
    coordinates: tuple[float, ...]


def point_prompt(mask: Mask) -> Question:
    """The point of an object [H, W] farthest from its edge, so that it lies inside however odd the shape.

    `DataError` for an empty mask.
    """
    from scipy.ndimage import distance_transform_edt

    _box(mask)
    depth = distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1]
    y, x = np.unravel_index(int(depth.argmax()), mask.shape)
    return Question("point", (float(x), float(y)))


def box_prompt(mask: Mask) -> Question:
    """The tight box around an object [H, W]; its far edges are exclusive. `DataError` for an empty mask."""
    return Question("box", _box(mask))


def iou(a: Mask, b: Mask) -> float:
    """Intersection over union of two masks of one shape; 1 if both are empty."""
    if a.shape != b.shape:
        raise DataError(f"masks of {a.shape} and {b.shape} cannot be compared")
    union = int(np.logical_or(a, b).sum())
    return int(np.logical_and(a, b).sum()) / union if union else 1.0


def prompted_miou(
    answer: Callable[[Any, Question], Mask], images: Sequence[Any], objects: Sequence[Sequence[Mask]], kind: Prompt
) -> Estimate:
    """Mean IoU of the answers to one prompt per object, over all objects of all images.

    Args:
        answer: gives the mask [H, W] for an image and a prompt.
        images: whatever `answer` takes.
        objects: the true masks of every image.
        kind: which prompt is made of a true mask.
    """
    ask = {"point": point_prompt, "box": box_prompt}[kind]
    pairs = zip(images, objects, strict=True)
    found = [iou(np.asarray(answer(image, ask(mask)), dtype=bool), mask) for image, masks in pairs for mask in masks]
    return Estimate.of(found, f"mIoU ({kind} prompts)")


def everything_miou(answers: Sequence[Sequence[Mask]], objects: Sequence[Sequence[Mask]]) -> Estimate:
    """Mean over objects of the best IoU that a proposal reaches, each proposal used once (Hungarian matching).

    Args:
        answers: the proposals of every image.
        objects: the true masks of every image.
    """
    from scipy.optimize import linear_sum_assignment

    found: list[float] = []
    for proposals, masks in zip(answers, objects, strict=True):
        table = np.array([[iou(p, m) for p in proposals] for m in masks]).reshape(len(masks), len(proposals))
        matched = np.zeros(len(masks))
        rows, columns = linear_sum_assignment(-table)
        matched[rows] = table[rows, columns]
        found += matched.tolist()
    return Estimate.of(found, "mIoU (everything)")


def _box(mask: Mask) -> tuple[float, float, float, float]:
    ys, xs = np.nonzero(mask)
    if mask.ndim != 2 or not len(ys):
        raise DataError(f"a prompt needs a mask [H, W] with at least one pixel, got shape {mask.shape}")
    return float(xs.min()), float(ys.min()), float(xs.max() + 1), float(ys.max() + 1)
