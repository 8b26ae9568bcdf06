"""A diffusion pipeline as a calibration subject: self-generated trajectories and the denoising loss on them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gencompress.core.trajectory import final_latents
from gencompress.domains.diffusion.denoising import Batch, Denoising
from gencompress.domains.diffusion.schedulers import is_flow
from gencompress.errors import SchedulerError

CALIBRATION_SEED = 1_000_000  # far from the seeds that pictures and metrics are made with


class DiffusionSubject:
    """Calibration data made by the dense pipeline itself: prompts and seeds, no images needed.

    Args:
        denoising: the dense run.
        prompts: cycled through; None for unconditional pipelines.
        seed: moves the calibration seeds, for repeated experiments.
    """

    def __init__(self, denoising: Denoising, prompts: Sequence[str] | None, seed: int = 0) -> None:
        self.rollout = denoising
        self.module: nn.Module = denoising.module
        self.prompts = None if prompts is None else list(prompts)
        self.first = CALIBRATION_SEED * (seed + 1)
        self._finals: dict[tuple[int, int], Tensor] = {}

    def trajectories(self, index: int, size: int) -> Batch:
        """The `index`-th batch of `size` calibration trajectories; seed n always goes with prompt n."""
        ids = range(index * size, (index + 1) * size)
        prompts = None if self.prompts is None else [self.prompts[n % len(self.prompts)] for n in ids]
        return self.rollout.batch(prompts, [self.first + n for n in ids])

    def losses(self, index: int, size: int) -> Tensor:
        """Denoising loss of each of `size` samples [size] at step ``index % steps`` of the run, with gradient.

        The clean sample is the dense pipeline's own result for a calibration seed, noised by fresh noise; the target
        is what the scheduler's prediction type asks for.
        """
        step, data = index % self.rollout.steps, index // self.rollout.steps
        batch = self.trajectories(data, size)
        clean = self._clean(data, size, batch)
        noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(self.first + index)).to(clean)
        noisy, target = noised(self.rollout.sampler.scheduler, clean, noise, self.rollout.sampler.timesteps[step])
        predicted = self.rollout.predict(step, noisy.to(batch.latents.dtype), batch)
        return (predicted.float() - target.float()).square().flatten(1).mean(1)

    def _clean(self, data: int, size: int, batch: Batch) -> Tensor:
        if (data, size) not in self._finals:
            self._finals[data, size] = final_latents(self.rollout, batch)
        return self._finals[data, size]


def noised(scheduler: Any, clean: Tensor, noise: Tensor, timestep: Tensor) -> tuple[Tensor, Tensor]:
    """The noisy sample at `timestep` and what the denoiser should predict from it, both [B, ...].

    Raises:
        SchedulerError: the scheduler's prediction type is none of epsilon, v_prediction, sample, flow.
    """
    times = timestep.reshape(1).expand(len(clean))
    if is_flow(scheduler):
        forward = scheduler.scale_noise if hasattr(scheduler, "scale_noise") else None
        noisy = forward(clean, times, noise) if forward else scheduler.add_noise(clean, noise, times)
        return noisy, noise - clean
    noisy = scheduler.add_noise(clean, noise, times)
    kind = scheduler.config.prediction_type
    if kind == "epsilon":
        return noisy, noise
    if kind == "sample":
        return noisy, clean
    if kind == "v_prediction":
        # The two coefficients, from the scheduler itself: its steps may lie between the trained time steps.
        one, zero = torch.ones_like(clean), torch.zeros_like(clean)
        signal, spread = scheduler.add_noise(one, zero, times), scheduler.add_noise(zero, one, times)
        return noisy, (signal * noise - spread * clean) / (signal.square() + spread.square()).sqrt()
    raise SchedulerError(f"prediction_type {kind!r} is not supported; epsilon, v_prediction, sample and flow are")
