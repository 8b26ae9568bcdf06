"""Training: unseen views come out, saliency falls to what is asked, and nothing is lost on the way."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch

from gencompress.domains.hashgrid import TrainSettings, Views, render_image, train, training
from gencompress.domains.hashgrid.training import _Trainer
from gencompress.errors import ConfigError, Interrupted, NumericsError, RunError
from gencompress.run import NullContext
from tests.domains.hashgrid.ball import SHORT, SMALL, ball
from tests.domains.splats.test_reduce import Memory

QUICK = replace(SHORT, steps=9, rays=64, batch=1024, samples=32)


class Figures(NullContext):
    """Keeps what is reported."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = []

    def progress(self, step, total, **figures):
        self.seen.append(figures)


def psnr(scene, views: Views) -> float:
    errors = [(render_image(scene, views.camera(i), 0) - views.pictures[i] / 255).square().mean() for i in range(3)]
    return float(-10 * torch.stack(errors).mean().log10())


def equal(a, b) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def test_a_field_learns_views_that_it_has_not_seen():
    views, held = ball(16, 24), ball(3, 24)
    scene, losses = train(views, replace(SMALL, saliency=0), SHORT, NullContext())
    assert len(losses) == SHORT.steps and sum(losses[-20:]) < 0.4 * sum(losses[:20])
    # as good as a picture that is the mean colour everywhere has 11 dB
    assert psnr(scene, held) > 16
    assert float(scene.field.alpha) == pytest.approx(1e5, rel=0.1)


def test_the_saliency_falls_towards_what_is_asked_while_the_field_learns():
    figures = Figures()
    _, losses = train(ball(16, 24), SMALL, replace(SHORT, keep=0.25), figures)
    shares = [f["saliency"] for f in figures.seen]
    assert shares[0] > 0.85 and shares[-1] < 0.5 and all(b < a + 1e-3 for a, b in itertools.pairwise(shares))
    assert figures.seen[-1]["multiplier"] > 0
    assert sum(losses[-20:]) < 0.5 * sum(losses[:20])


def test_a_stopped_training_ends_with_the_same_bits(monkeypatch):
    monkeypatch.setattr(training, "CHECK_EVERY", 4)
    views = ball(4, 16)
    calm, losses = train(views, SMALL, QUICK, NullContext())
    memory = Memory(stop_after=1)
    with pytest.raises(Interrupted):
        train(views, SMALL, QUICK, memory)
    assert memory.saved.step == 4
    again, others = train(views, SMALL, QUICK, memory)
    assert losses == others and equal(calm.field, again.field) and equal(calm.grid, again.grid)
    finished, _ = train(views, SMALL, QUICK, memory)  # nothing is left to do
    assert equal(finished.field, calm.field)


def test_a_broken_step_is_taken_back(monkeypatch):
    monkeypatch.setattr(training, "CHECK_EVERY", 4)
    healthy, broken = _Trainer.step_, []

    def step(self):
        if self.done == 6 and not broken:
            broken.append(self.done)
            self.field.table.data[7] = float("nan")
        return healthy(self)

    monkeypatch.setattr(_Trainer, "step_", step)
    scene, losses = train(ball(4, 16), SMALL, QUICK, NullContext())
    assert broken == [6] and len(losses) == QUICK.steps
    assert bool(torch.isfinite(scene.field.table).all())


def test_steps_that_stay_broken_are_an_error():
    views = ball(4, 16)
    wrong = replace(views, Ks=torch.full_like(views.Ks, float("nan")))
    with pytest.raises(NumericsError, match="rays_d holds NaN or infinity"):
        train(wrong, SMALL, QUICK, NullContext())


def test_a_checkpoint_of_another_field_is_refused():
    memory, views = Memory(), ball(4, 16)
    train(views, SMALL, replace(QUICK, steps=2), memory)
    with pytest.raises(RunError, match="checkpoint is of another field"):
        train(views, replace(SMALL, log2_entries=9), QUICK, memory)


def test_the_number_of_rays_follows_the_samples():
    trainer = _Trainer(ball(4, 16), SMALL, QUICK)
    trainer.step_()
    assert trainer.rays != QUICK.rays
    for _ in range(4):
        trainer.step_()
    found = training.render_rays(trainer.scene, *trainer.views.draw(trainer.rays, torch.Generator().manual_seed(0))[:2])
    assert 0.5 < found.samples / QUICK.batch < 2


@pytest.mark.parametrize("change", [{"steps": 0}, {"rays": 0}, {"batch": 0}, {"lr": 0.0}])
def test_bad_settings_are_refused(change):
    name = next(iter(change))
    with pytest.raises(ConfigError, match=f"{name}={change[name]}"):
        TrainSettings(**change)
