from __future__ import annotations

import numpy as np
import pytest

from gencompress.errors import DataError
from gencompress.metrics.segmentation import box_prompt, everything_miou, iou, point_prompt, prompted_miou


def rectangle(y0, y1, x0, x1, size=32):
    mask = np.zeros((size, size), bool)
    mask[y0:y1, x0:x1] = True
    return mask


def test_iou_of_known_masks():
    a, b = rectangle(0, 10, 0, 10), rectangle(0, 10, 5, 15)
    assert iou(a, b) == pytest.approx(50 / 150)
    assert iou(a, a) == 1 and iou(a, ~a) == 0
    assert iou(np.zeros_like(a), np.zeros_like(a)) == 1
    with pytest.raises(DataError, match="cannot be compared"):
        iou(a, a[:5])


def test_prompts_lie_on_the_object():
    ring = rectangle(4, 28, 4, 28) & ~rectangle(8, 24, 8, 24)
    x, y = point_prompt(ring).coordinates
    assert ring[int(y), int(x)]
    assert box_prompt(ring).coordinates == (4, 4, 28, 28)
    with pytest.raises(DataError, match="at least one pixel"):
        point_prompt(np.zeros((4, 4), bool))


def test_a_segmenter_that_fills_the_box_scores_what_the_shapes_give():
    objects = [[rectangle(2, 12, 2, 12)], [rectangle(4, 20, 4, 20) & ~rectangle(4, 12, 4, 12), rectangle(1, 3, 1, 30)]]

    def fill(image, question):
        x0, y0, x1, y1 = (int(v) for v in question.coordinates)
        return rectangle(y0, y1, x0, x1)

    found = prompted_miou(fill, ["a", "b"], objects, "box")
    assert found.per_image == pytest.approx((1.0, 192 / 256, 1.0))


def test_everything_uses_each_proposal_once():
    left, right = rectangle(0, 32, 0, 16), rectangle(0, 32, 16, 32)
    whole = left | right
    assert everything_miou([[left, right]], [[left, right]]).mean == 1
    assert everything_miou([[whole]], [[left, right]]).per_image == pytest.approx((0.5, 0.0))
    assert everything_miou([[]], [[left]]).mean == 0
