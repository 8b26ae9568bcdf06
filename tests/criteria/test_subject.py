"""Calibration data of a diffusion pipeline: noise levels and targets are those of the scheduler that samples."""

from __future__ import annotations

import pytest
import torch

from gencompress.core.trajectory import final_latents
from gencompress.domains.diffusion.denoising import Denoising
from gencompress.domains.diffusion.domain import Diffusion
from gencompress.domains.diffusion.schedulers import Sampler, is_flow
from gencompress.domains.diffusion.subject import DiffusionSubject, noised
from gencompress.errors import SchedulerError
from tests.domains.diffusion.tiny import PROMPTS, tiny_ddpm, tiny_sd, tiny_sd3

STEPS = 5  # of 1,000: linspace then falls between the trained steps


def scheduler(name, **options):
    import diffusers

    return getattr(diffusers, name)(**options)


CASES = [
    *[("DDIMScheduler", {"prediction_type": p}) for p in ("epsilon", "v_prediction", "sample")],
    *[("DDPMScheduler", {"prediction_type": p}) for p in ("epsilon", "v_prediction", "sample")],
    *[("EulerDiscreteScheduler", {"prediction_type": p}) for p in ("epsilon", "v_prediction")],
    ("EulerDiscreteScheduler", {"prediction_type": "v_prediction", "use_karras_sigmas": True}),
    ("EulerAncestralDiscreteScheduler", {"prediction_type": "v_prediction"}),
    *[("DPMSolverMultistepScheduler", {"prediction_type": p}) for p in ("epsilon", "v_prediction", "sample")],
    (
        "DPMSolverMultistepScheduler",
        {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 3.0},
    ),
    ("FlowMatchEulerDiscreteScheduler", {"shift": 3.0}),
]


def spelled(value):
    return value if isinstance(value, str) else "-".join(str(v) for v in value.values())


@pytest.mark.parametrize(("name", "options"), CASES, ids=spelled)
def test_a_perfect_prediction_leads_the_scheduler_to_the_clean_sample(name, options):
    sampler = Sampler(scheduler(name, **options), STEPS)
    generator = torch.Generator().manual_seed(0)
    clean, noise = torch.randn(2, 2, 3, 4, 4, generator=generator).unbind(0)
    clean = clean.clamp(-1, 1)  # schedulers that clip must not show
    for i, t in enumerate(sampler.timesteps):
        noisy, target = noised(sampler.scheduler, clean, noise, t)
        assert noisy.shape == target.shape == clean.shape
        fresh = Sampler(scheduler(name, **options), STEPS).scheduler
        fresh._step_index = i
        if name.startswith("DPM"):
            found = fresh.convert_model_output(target, sample=noisy)
        elif is_flow(fresh):
            found = noisy - fresh.sigmas[i] * target
        else:
            found = fresh.step(target, t, noisy).pred_original_sample
        assert torch.allclose(found, clean, atol=2e-3), f"step {i}"


@pytest.mark.parametrize("name", ["DDIMScheduler", "DDPMScheduler"])
def test_velocity_is_that_of_the_stock_scheduler(name):
    sampler = Sampler(scheduler(name, prediction_type="v_prediction"), STEPS)
    clean, noise = torch.randn(2, 3, 3, 4, 4, generator=torch.Generator().manual_seed(1)).unbind(0)
    for t in sampler.timesteps:
        noisy, target = noised(sampler.scheduler, clean, noise, t)
        times = t.reshape(1).expand(3)
        assert torch.allclose(target, sampler.scheduler.get_velocity(clean, noise, times), atol=1e-6)
        assert torch.equal(noisy, sampler.scheduler.add_noise(clean, noise, times))


def test_an_unknown_prediction_type_is_refused():
    odd = scheduler("DDIMScheduler")
    odd.register_to_config(prediction_type="score")
    with pytest.raises(SchedulerError, match="'score' is not supported; epsilon, v_prediction, sample and flow"):
        noised(odd, torch.zeros(1, 3, 4, 4), torch.zeros(1, 3, 4, 4), torch.tensor(5))


def subject(seed: int = 0) -> DiffusionSubject:
    return DiffusionSubject(Denoising.of(tiny_sd(), 2, guidance_scale=3.0), PROMPTS, seed)


def test_trajectories_repeat_and_do_not_depend_on_the_batch():
    one, two = subject(), subject()
    batch, again = one.trajectories(1, 2), two.trajectories(1, 2)
    assert torch.equal(batch.latents, again.latents)
    single = [one.trajectories(i, 1) for i in (2, 3)]
    assert torch.equal(batch.latents, torch.cat([s.latents for s in single]))
    assert not torch.equal(batch.latents, one.trajectories(0, 2).latents)
    assert not torch.equal(batch.latents, subject(seed=1).trajectories(1, 2).latents)
    ours, theirs = final_latents(one.rollout, batch), [final_latents(one.rollout, s) for s in single]
    assert torch.allclose(ours, torch.cat(theirs), atol=1e-4), "seed n goes with prompt n in any batch"


def test_calibration_never_uses_the_seeds_of_pictures():
    model = Diffusion.of(tiny_ddpm(), steps=2)
    pictures = model.batch(range(64)).latents
    for index in range(4):
        for latents in model.subject.trajectories(index, 4).latents:
            assert not any(torch.equal(latents, p) for p in pictures)


@pytest.mark.parametrize("build", [tiny_sd, tiny_sd3])
def test_losses_are_the_denoising_loss_of_single_samples_over_all_steps(build):
    calibration = DiffusionSubject(Denoising.of(build(), 2, guidance_scale=1.0, **size(build)), PROMPTS)
    rollout = calibration.rollout
    for index in range(3):
        losses = calibration.losses(index, 2)
        again = calibration.losses(index, 2)
        assert losses.shape == (2,) and torch.equal(losses, again) and bool((losses > 0).all())
        step, data = index % 2, index // 2
        batch = calibration.trajectories(data, 2)
        clean = final_latents(rollout, batch)
        noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(calibration.first + index))
        noisy, target = noised(rollout.sampler.scheduler, clean, noise, rollout.sampler.timesteps[step])
        with torch.no_grad():
            expected = (rollout.predict(step, noisy, batch) - target).square().mean((1, 2, 3))
        assert torch.allclose(losses, expected, rtol=1e-4)


def size(build):
    return {"height": 16, "width": 16} if build is tiny_sd3 else {}
