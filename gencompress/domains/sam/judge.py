"""How well two models answer the same prompts: by true masks where there are some, else one by the other's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from gencompress.domains.sam.images import ImageSource
from gencompress.domains.sam.labelled import LabelledImages
from gencompress.domains.sam.segment import Image, Segmenter
from gencompress.metrics.segmentation import Mask, Question, box_prompt, everything_miou, iou, point_prompt
from gencompress.metrics.statistics import Estimate

EVERYTHING_SIDE = 16  # points a side of the grid that asks for everything
_LEAST_IOU, _LEAST_STABILITY = 0.3, 0.5
EVERYTHING = f"{EVERYTHING_SIDE} x {EVERYTHING_SIDE} points, predicted IoU {_LEAST_IOU}, stability {_LEAST_STABILITY}"
AGREEMENT_SIDE = 4  # points a side of the grid that asks pictures without labels
DENSE, PRUNED = "dense", "pruned"

Values = dict[str, list[float]]


@dataclass(frozen=True)
class Asked:
    """One prompt, and how well it was answered.

    Args:
        picture: which one.
        object: which of its true masks; None where there is none.
        question: the prompt.
        iou: with the true mask, by name of the model; without one, of the pruned model with the dense one's answer.
    """

    picture: int
    object: int | None
    question: Question
    iou: Mapping[str, float]

    @property
    def drop(self) -> float:
        """How much of the IoU the removal has cost."""
        return self.iou.get(DENSE, 1.0) - self.iou[PRUNED]


@dataclass(frozen=True)
class Judged:
    """Everything that was asked, and the values per object or picture by model and measure."""

    asked: list[Asked]
    values: dict[str, Values]

    def to_json(self, model: str) -> dict[str, Any]:
        """Mean, standard error, number and all values of every measure of a model."""
        found = {name: Estimate.of(v, name) for name, v in self.values[model].items() if v}
        return {name: {**e.to_json(), "n": len(e.per_image)} for name, e in found.items()}


def judge_labelled(
    tools: Mapping[str, Segmenter], labelled: LabelledImages, count: int, tick: Callable[[], None]
) -> Judged:
    """Mean IoU per object for a point, a box, and proposals for everything, of both models.

    Args:
        tools: the models by name.
        labelled: pictures with true masks.
        count: pictures that are asked, from the first on.
        tick: called after every picture.
    """
    found = Judged([], {name: {"miou_point": [], "miou_box": [], "miou_everything": []} for name in tools})
    for index in range(count):
        image, masks = labelled.read(index)
        questions = [prompt(mask) for mask in masks for prompt in (point_prompt, box_prompt)]
        truth = [mask for mask in masks for _ in range(2)]
        ious: dict[str, list[float]] = {}
        for name, tool in tools.items():
            answers = tool.answers(image, questions)
            ious[name] = [iou(answer, mask) for answer, mask in zip(answers, truth, strict=True)]
            values = found.values[name]
            values["miou_point"] += ious[name][::2]
            values["miou_box"] += ious[name][1::2]
            if masks:
                proposals = everything(tool, image)
                values["miou_everything"] += everything_miou([proposals], [masks]).per_image
        for i, question in enumerate(questions):
            found.asked.append(Asked(index, i // 2, question, {name: ious[name][i] for name in tools}))
        tick()
    return found


def judge_agreement(
    tools: Mapping[str, Segmenter], images: ImageSource, count: int, tick: Callable[[], None]
) -> Judged:
    """How close the pruned model stays to the dense one, per picture and without labels.

    ``agreement`` is the mean IoU of their masks for a grid of points, ``embedding_error`` the distance of their
    embeddings relative to the length of the dense one's.

    Args:
        tools: the models, by the names `DENSE` and `PRUNED`.
        images: pictures without labels.
        count: pictures that are asked, from the first on.
        tick: called after every picture.
    """
    found = Judged([], {PRUNED: {"agreement": [], "embedding_error": []}})
    for index in range(count):
        image = images.read(index)
        questions = grid_questions(image, AGREEMENT_SIDE)
        theirs, ours = (tools[name].answers(image, questions) for name in (DENSE, PRUNED))
        ious = [iou(a, b) for a, b in zip(ours, theirs, strict=True)]
        a, b = (tools[name].embedding(image).float() for name in (DENSE, PRUNED))
        found.values[PRUNED]["agreement"].append(float(np.mean(ious)))
        found.values[PRUNED]["embedding_error"].append(float((b - a).norm() / a.norm()))
        found.asked.extend(Asked(index, None, q, {PRUNED: value}) for q, value in zip(questions, ious, strict=True))
        tick()
    return found


def everything(tool: Segmenter, image: Image) -> list[Mask]:
    """All masks of a picture, those with the highest predicted IoU first.

    Thresholds are lower than SAM's own: what a small model predicts of its coarse masks is low, and a true mask counts
    with the proposal that fits it best, whatever else is proposed.
    """
    return tool.everything(image, points_per_side=EVERYTHING_SIDE, predicted_iou=_LEAST_IOU, stability=_LEAST_STABILITY)


def grid_questions(image: Image, per_side: int) -> list[Question]:
    """Points in the middle of equal cells of a picture [H, W, 3]."""
    height, width = image.shape[:2]
    middles = (np.arange(per_side) + 0.5) / per_side
    return [Question("point", (float(x * width), float(y * height))) for y in middles for x in middles]
