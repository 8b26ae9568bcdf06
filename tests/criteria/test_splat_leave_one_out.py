"""Leave-one-out costs against really removing splats."""

from __future__ import annotations

import torch

from gencompress.criteria.leave_one_out import leave_one_out_scores, removal_costs
from gencompress.kernels.splats import Splats
from tests.splat_scenes import ball, ring

CAMERAS = ring(5)


def without(count, *gone):
    stays = torch.ones(count, dtype=torch.bool)
    stays[list(gone)] = False
    return stays


def squared(image, target):
    return float((image.double() - target.double()).square().sum())


def test_the_lowest_score_is_the_splat_that_is_missed_least():
    splats = Splats.of(ball(60, sh_degree=1))
    scores = leave_one_out_scores(splats, CAMERAS)["splats"]
    image = splats.render(CAMERAS).image
    really = torch.tensor([squared(splats.take(without(60, n)).render(CAMERAS).image, image) for n in range(60)])
    assert torch.allclose(scores, really, rtol=0.02, atol=1e-3)
    assert int(scores.argmin()) == int(really.argmin()) and int(scores.argmax()) == int(really.argmax())


def test_costs_against_a_target_are_exact_before_they_are_weighed():
    half = Splats.of(ball(40))
    target = Splats.of(ball(40, seed=1)).render(CAMERAS).image
    found = half.contributions(CAMERAS, target=target)
    before = squared(half.render(CAMERAS).image, target)
    really = [squared(half.take(without(40, n)).render(CAMERAS).image, target) - before for n in range(40)]
    exact = found.leave_one_out - found.toward
    assert torch.allclose(exact, torch.tensor(really), rtol=0.02, atol=0.05)
    assert bool((exact < 0).any()) and bool((exact > 0).any())
    costs = removal_costs(found)
    assert bool((costs[found.toward < 0] > found.leave_one_out[found.toward < 0]).all())
    assert bool((costs[found.toward > 0] < found.leave_one_out[found.toward > 0]).all())
