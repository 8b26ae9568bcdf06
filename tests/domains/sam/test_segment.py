"""Prompts and masks: the same as the stock pipelines give, in the pixels of the picture."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from transformers import Sam2ImageProcessor, Sam2Processor, SamImageProcessor, SamProcessor

from gencompress.domains.sam.segment import Segmenter
from gencompress.errors import DataError
from gencompress.metrics.segmentation import Question
from tests.domains.sam.tiny import SIZE, tiny_sam, tiny_sam2

POINTS = [(10.0, 30.0), (70.0, 5.0), (44.5, 39.0)]
BOXES = [(4.0, 6.0, 50.0, 38.0), (30.0, 0.0, 88.0, 20.0)]


def processor(name: str) -> Any:
    if name == "sam2":
        return Sam2Processor(Sam2ImageProcessor(size={"height": SIZE, "width": SIZE}))
    return SamProcessor(SamImageProcessor(size={"longest_edge": SIZE}, pad_size={"height": SIZE, "width": SIZE}))


def segmenter(name: str, seed: int = 0) -> Segmenter:
    return Segmenter((tiny_sam2 if name == "sam2" else tiny_sam)(seed=seed), processor(name))


def picture(height: int = 40, width: int = 90, seed: int = 0) -> Any:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@torch.no_grad()
def stock(tool: Segmenter, image: Any, **prompts: Any) -> tuple[Any, Any]:
    """Logits at the picture's size [N, 3, H, W] and predicted IoUs [N, 3] of the stock pipeline, from pixels on."""
    inputs = tool.processor(image, return_tensors="pt", **prompts)
    for name in ("input_points", "input_boxes"):
        if name in inputs:
            inputs[name] = inputs[name].float()
    out = tool.model(**{k: v for k, v in inputs.items() if "sizes" not in k})
    sizes = {k: v for k, v in inputs.items() if "sizes" in k}
    return tool.processor.post_process_masks(out.pred_masks, **sizes, binarize=False)[0], out.iou_scores[0]


@pytest.mark.parametrize("name", ["sam", "sam2"])
@pytest.mark.parametrize("shape", [(40, 90), (90, 40), (64, 64), (150, 200)])
def test_answers_are_those_of_the_stock_pipeline(name, shape):
    tool, image = segmenter(name), picture(*shape)
    points = [(x / 90 * shape[1], y / 40 * shape[0]) for x, y in POINTS]
    boxes = [tuple(v / s * t for v, s, t in zip(b, (90, 40) * 2, shape[::-1] * 2, strict=True)) for b in BOXES]
    questions = [Question("box", boxes[0]), *(Question("point", p) for p in points), Question("box", boxes[1])]
    answers = tool.answers(image, questions)
    assert [a.shape for a in answers] == [shape] * 5 and all(a.dtype == bool for a in answers)
    by_point = stock(tool, image, input_points=[[[list(p)] for p in points]])
    by_box = stock(tool, image, input_boxes=[[list(b) for b in boxes]])
    expected = [m[i.argmax()] > 0 for logits, ious in (by_box, by_point) for m, i in zip(logits, ious, strict=True)]
    for answer, wanted in zip([answers[0], answers[4], *answers[1:4]], expected, strict=True):
        assert (answer == wanted.numpy()).mean() > 0.9999, "a logit at zero may round either way, no more"
    assert any(0 < a.mean() < 1 for a in answers)
    assert np.array_equal(tool.answer(image, questions[2]), answers[2])


@pytest.mark.parametrize("name", ["sam", "sam2"])
def test_a_picture_is_embedded_once(name):
    tool, calls = segmenter(name), []
    tool.model.vision_encoder.register_forward_hook(lambda *_: calls.append(1))
    first, second = picture(), picture(seed=1)
    alone = tool.answer(first, Question("point", POINTS[0]))
    tool.answers(first, [Question("box", BOXES[0]), Question("point", POINTS[1])])
    embedding = tool.embedding(first)
    assert calls == [1] and embedding.ndim == 1 and len(embedding) % 64 == 0
    assert not torch.equal(tool.embedding(second), embedding) and len(calls) == 2
    assert np.array_equal(tool.answer(first, Question("point", POINTS[0])), alone) and len(calls) == 3
    assert tool.answers(first, []) == []


@pytest.mark.parametrize("name", ["sam", "sam2"])
def test_everything_is_automatic_mask_generation(name):
    """The helpers of the stock image processor, on masks of the whole grid at once, keep the same masks."""
    tool, image, side = segmenter(name, seed=3), picture(60, 90), 9
    for mlp in tool.model.mask_decoder.output_hypernetworks_mlps:
        mlp.proj_out.weight *= 3e3  # untrained logits lie so close to zero that no mask is stable
    helpers = processor("sam").image_processor
    xs, ys = ((np.arange(side) + 0.5) / side * extent for extent in (90, 60))
    logits, ious = stock(tool, image, input_points=[[[[x, y]] for y in ys for x in xs]])
    ranked = ious.flatten().sort().values[60:120]
    widest = int(ranked.diff().argmax())  # a threshold that no rounding crosses
    least, stability = float(ranked[widest : widest + 2].mean()), 0.5
    rles, scores, boxes = helpers.filter_masks(
        logits, ious, (60, 90), [0, 0, 90, 60], pred_iou_thresh=least, stability_score_thresh=stability
    )
    expected = helpers.post_process_for_mask_generation(rles, scores, boxes, 0.9)[0]
    found = tool.everything(image, points_per_side=side, predicted_iou=least, stability=stability, overlap=0.9)
    assert len(expected) == len(found) > 1
    for ours, theirs in zip(found, expected, strict=True):
        assert (ours == theirs.numpy()).mean() > 0.9999


def test_everything_may_be_nothing():
    assert segmenter("sam").everything(picture(), points_per_side=3, predicted_iou=1e9) == []


@pytest.mark.parametrize("image", [np.zeros((8, 8), np.uint8), np.zeros((8, 8, 3)), np.zeros((3, 8, 8), np.uint8)])
def test_what_is_no_picture_is_refused(image):
    with pytest.raises(DataError, match=r"uint8 \[H, W, 3\]"):
        segmenter("sam").answer(image, Question("point", (1.0, 1.0)))


def test_large_pictures_are_answered_in_parts(monkeypatch):
    tool, image = segmenter("sam"), picture()
    questions = [Question("point", p) for p in POINTS]
    whole = tool.answers(image, questions), tool.everything(image, points_per_side=4, predicted_iou=-1e9, stability=0)
    monkeypatch.setattr("gencompress.domains.sam.segment._PIXELS", 2 * 40 * 90)
    monkeypatch.setattr("gencompress.domains.sam.segment._PROMPTS", 3)
    parts = tool.answers(image, questions), tool.everything(image, points_per_side=4, predicted_iou=-1e9, stability=0)
    for one, two in zip(whole, parts, strict=True):
        assert len(one) == len(two) > 0
        assert all((a == b).mean() > 0.9999 for a, b in zip(one, two, strict=True))
