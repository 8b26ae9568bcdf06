"""Refinement brings renders closer to the input's, resumes bit for bit, and gets over a broken step."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import correlate1d

from gencompress.config import RefineRecover
from gencompress.domains.splats import refine as refining
from gencompress.domains.splats.adam import BETA1, BETA2, EPS, Moments, adam_step_, step_anywhere_
from gencompress.domains.splats.domain import renders
from gencompress.domains.splats.loss import image_loss, similarity
from gencompress.domains.splats.refine import falling, refine, view_at
from gencompress.errors import Interrupted, NumericsError, RunError
from gencompress.kernels.splats import Splats
from gencompress.run import NullContext
from tests.domains.splats.test_reduce import NAMES, Memory, equal
from tests.splat_scenes import ball, ring


@pytest.fixture(scope="module")
def given():
    """A ball with every third splat gone, its views, and what they should show."""
    splats, cameras = Splats.of(ball(240, sh_degree=1)), ring(8, 48)
    return splats.take(torch.arange(240) % 3 > 0), cameras, renders(splats, cameras)


def psnr(splats: Splats, cameras, targets) -> float:
    return float(-10 * torch.log10((renders(splats, cameras) - targets).square().mean()))


def test_renders_come_closer_in_views_that_were_not_trained_on(given):
    splats, cameras, targets = given
    train, held = np.arange(6), np.arange(6, 8)
    made, losses = refine(splats, cameras.take(train), targets[train], RefineRecover(steps=120), NullContext())
    assert psnr(made, cameras.take(held), targets[held]) > psnr(splats, cameras.take(held), targets[held]) + 1.5
    assert len(losses) == 120 and np.mean(losses[-12:]) < 0.6 * np.mean(losses[:12])
    assert all(not torch.equal(getattr(made, name), getattr(splats, name)) for name in NAMES)
    assert bool((made.opacities > 0).all() and (made.opacities < 1).all() and (made.scales > 0).all())


def test_the_input_is_left_alone(given):
    splats, cameras, targets = given
    before = splats.take(torch.arange(len(splats)))
    refine(splats, cameras, targets, RefineRecover(steps=3), NullContext())
    assert equal(splats, before)


def test_a_stopped_refinement_ends_with_the_same_bits(given, monkeypatch):
    monkeypatch.setattr(refining, "CHECK_EVERY", 4)
    splats, cameras, targets = given
    options = RefineRecover(steps=11)
    calm, losses = refine(splats, cameras, targets, options, NullContext(), seed=5)
    memory = Memory(stop_after=1)
    with pytest.raises(Interrupted):
        refine(splats, cameras, targets, options, memory, seed=5)
    assert memory.saved.step == 4
    again, others = refine(splats, cameras, targets, options, memory, seed=5)
    assert equal(again, calm) and others == losses


def test_a_checkpoint_of_another_scene_is_refused(given):
    splats, cameras, targets = given
    memory = Memory()
    refine(splats, cameras, targets, RefineRecover(steps=1), memory)
    with pytest.raises(RunError, match="the checkpoint of the refinement is of another scene"):
        refine(splats.take(torch.arange(9)), cameras, targets, RefineRecover(steps=2), memory)


def test_a_broken_step_is_taken_back_and_smaller_ones_are_made(given, monkeypatch):
    monkeypatch.setattr(refining, "CHECK_EVERY", 2)
    splats, cameras, targets = given
    real, calls = refining.image_loss, []

    def breaking(image, target, ssim):
        calls.append(None)
        return real(image, target, ssim) * (torch.nan if len(calls) in (4, 7) else 1)

    monkeypatch.setattr(refining, "image_loss", breaking)
    made, losses = refine(splats, cameras, targets, RefineRecover(steps=8), NullContext())
    assert len(losses) == 8 and np.isfinite(losses).all() and bool(torch.isfinite(made.means).all())
    assert len(calls) == 8 + 2 + 1, "a break costs itself and the steps since the last good state: one, then none"


def test_what_stays_broken_is_an_error(given, monkeypatch):
    splats, cameras, targets = given
    monkeypatch.setattr(refining, "image_loss", lambda image, target, ssim: image.sum() * torch.nan)
    with pytest.raises(NumericsError, match="the loss is nan in step 1"):
        refine(splats, cameras, targets, RefineRecover(steps=2), NullContext())


def test_training_that_makes_it_worse_is_not_taken(given):
    splats, cameras, targets = given
    made, losses = refine(splats, cameras, targets, RefineRecover(steps=4, lr=1000), NullContext())
    assert equal(made, splats) and losses[-1] > losses[0]


def test_the_loss_mixes_difference_and_structure():
    generator = np.random.default_rng(0)
    image, target = (generator.random((20, 23, 3)) for _ in range(2))

    def blur(x):
        weights = np.exp(-(np.arange(-5, 6) ** 2) / (2 * 1.5**2))
        for axis in (0, 1):
            x = correlate1d(x, weights / weights.sum(), axis=axis, mode="constant")
        return x

    mean_a, mean_b = blur(image), blur(target)
    var_a, var_b = blur(image**2) - mean_a**2, blur(target**2) - mean_b**2
    upper = (2 * mean_a * mean_b + 1e-4) * (2 * (blur(image * target) - mean_a * mean_b) + 9e-4)
    structure = np.mean(upper / ((mean_a**2 + mean_b**2 + 1e-4) * (var_a + var_b + 9e-4)))
    a, b = torch.from_numpy(image), torch.from_numpy(target)
    assert float(similarity(a, b)) == pytest.approx(structure) and float(similarity(a, a)) == pytest.approx(1)
    absolute = np.abs(image - target).mean()
    assert float(image_loss(a, b, 0.0)) == pytest.approx(absolute)
    assert float(image_loss(a, b, 0.2)) == pytest.approx(0.8 * absolute + 0.2 * (1 - structure))
    torch.autograd.gradcheck(lambda x: image_loss(x, b, 0.2), a.requires_grad_())


def test_structure_can_be_trained_for(given):
    splats, cameras, targets = given
    options = RefineRecover(steps=40, ssim=0.2)
    made, _ = refine(splats, cameras, targets, options, NullContext())
    before, after = (similarity(renders(s, cameras.take([0]))[0], targets[0]) for s in (splats, made))
    assert after > before


def test_every_view_is_visited_equally_often():
    seen = np.bincount([view_at(step, 7, 3) for step in range(70)])
    assert (seen == 10).all()
    assert [view_at(s, 7, 3) for s in range(7)] != [view_at(s, 7, 3) for s in range(7, 14)]
    assert falling(0, 100) == 1 and falling(50, 100) > falling(99, 100) > 0


def test_adam_is_that_of_torch_where_all_rows_are_seen():
    generator = torch.Generator().manual_seed(0)
    mine = torch.randn(5, 3, generator=generator)
    theirs = mine.clone().requires_grad_()
    optimizer = torch.optim.Adam([theirs], lr=0.02, betas=(BETA1, BETA2), eps=EPS)
    moments = Moments.of(mine)
    for _ in range(10):
        gradient = torch.randn(5, 3, generator=generator)
        theirs.grad = gradient.clone()
        optimizer.step()
        adam_step_(mine, gradient, moments, torch.ones(5), torch.full((3,), 0.02))
    torch.testing.assert_close(mine, theirs.detach(), rtol=1e-5, atol=1e-6)


def test_adam_leaves_unseen_rows_alone_and_scales_rows_and_columns():
    parameter, gradient = torch.zeros(3, 2), torch.tensor([[1.0, -2.0], [0.0, 0.0], [0.0, 3.0]])
    moments = Moments.of(parameter)
    adam_step_(parameter, gradient, moments, torch.tensor([1.0, 1.0, 0.5]), torch.tensor([0.1, 0.4]))
    torch.testing.assert_close(parameter, torch.tensor([[-0.1, 0.4], [0.0, 0.0], [0.0, -0.2]]))
    assert moments.steps.tolist() == [1, 0, 1]


def test_both_ways_of_the_step_agree():
    """The compiled step, and the one for other devices."""
    generator = torch.Generator().manual_seed(2)
    start, rows, columns = torch.randn(6, 4, generator=generator), torch.rand(6), torch.rand(4)
    results = []
    for step_ in (adam_step_, step_anywhere_):
        parameter, moments = start.clone(), Moments.of(start)
        for step in range(4):
            gradient = torch.randn(6, 4, generator=torch.Generator().manual_seed(step))
            gradient[step] = 0
            step_(parameter, gradient, moments, rows, columns)
        results.append(parameter)
    torch.testing.assert_close(*results, rtol=1e-5, atol=1e-6)
