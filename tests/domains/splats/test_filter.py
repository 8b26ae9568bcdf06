"""Unusable splats are found, counted under one reason each, and nothing else goes."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from gencompress.domains.splats.filter import clean
from gencompress.errors import DataError
from gencompress.kernels.splats import Splats
from tests.splat_scenes import ball, ring, scene_of


def test_a_good_scene_passes_through_untouched():
    scene = ball()
    cleaned = clean(scene)
    assert cleaned.scene is scene and np.array_equal(cleaned.kept, np.arange(len(scene)))
    assert set(cleaned.removed) == {"not finite", "degenerate", "invisible", "flyaway"}
    assert not any(cleaned.removed.values())


def test_every_reason_is_counted_once():
    scene = ball(400, sh_degree=1)
    scene.means[3, 1] = np.nan
    scene.sh_rest[5, 2, 0] = np.inf
    scene.log_scales[7, 0] = 200  # its standard deviation overflows
    scene.log_scales[9] = -np.inf  # no number, though its exponential is
    scene.quats[11] = 0
    scene.log_scales[12] = -150  # underflows to no extent
    scene.logits[13] = -6  # sigmoid 0.0025 < 1/255
    scene.means[15] = [500, 0, 0]
    scene.means[16] = [np.nan, 0, 0]
    scene.logits[16] = -9  # bad twice, counted under the first reason
    cleaned = clean(scene)
    assert cleaned.removed == {"not finite": 5, "degenerate": 2, "invisible": 1, "flyaway": 1}
    gone = sorted(set(range(400)) - set(cleaned.kept.tolist()))
    assert gone == [3, 5, 7, 9, 11, 12, 13, 15, 16]
    assert len(cleaned.scene) == 391 and np.isfinite(cleaned.scene.means).all()


def test_invisible_splats_change_no_pixel():
    scene = ball(200)
    scene.logits[::3] = np.log(1 / 254.0) - 0.01
    cleaned = clean(scene)
    assert cleaned.removed["invisible"] == len(scene.logits[::3])
    before, after = (Splats.of(s).render(ring()).image for s in (scene, cleaned.scene))
    assert bool((before == after).all())


def test_a_background_is_no_flyaway():
    rng = np.random.default_rng(0)
    inside, sky = rng.normal(size=(900, 3)), rng.normal(size=(100, 3))
    sky *= 80 / np.linalg.norm(sky, axis=1, keepdims=True)
    scene = scene_of(np.concatenate([inside, sky]), np.full((1000, 3), 0.1), rng)
    scene.logits[:] = 1
    assert not any(clean(scene).removed.values())
    lost = dataclasses.replace(scene, means=scene.means.copy())
    lost.means[:3] *= 10_000 / np.linalg.norm(lost.means[:3], axis=1, keepdims=True)
    assert clean(lost).removed["flyaway"] == 3


def test_a_stack_of_equal_centres_has_no_flyaway():
    scene = ball(50)
    scene.means[:] = 1
    assert clean(scene).removed["flyaway"] == 0


@pytest.mark.parametrize("count", [0, 4])
def test_nothing_left_is_an_error_with_the_counts(count):
    scene = ball(4).take(np.arange(count))
    scene.means[:] = np.nan
    with pytest.raises(DataError, match="4 not finite" if count else "it is empty"):
        clean(scene)
