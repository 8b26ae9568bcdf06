"""The denoising run of a stock diffusers pipeline as an iterated, differentiable map.

``pipe(...)`` runs without gradients and as a whole. `Denoising` gives the same run step by step: same initial noise for
the same seeds, same conditioning, same scheduler arithmetic, hence the same final latents, but every step can be
differentiated and recomputed (see `gencompress.core.trajectory`).
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

from gencompress.domains.diffusion.adapters import Adapter, Conditions
from gencompress.domains.diffusion.schedulers import NoiseTape, Sampler, named_scheduler, record_noise
from gencompress.errors import ModelError

State = tuple[Tensor, ...]

# Pipeline class -> adapter module and class. Only the module of the family in use is imported.
_UNETS = "gencompress.domains.diffusion.adapters"
_TRANSFORMERS = "gencompress.domains.diffusion.adapters_transformer"
ADAPTERS: dict[str, tuple[str, str]] = {
    "DDPMPipeline": (_UNETS, "Unconditional"),
    "DDIMPipeline": (_UNETS, "Unconditional"),
    "StableDiffusionPipeline": (_UNETS, "StableDiffusion"),
    "StableDiffusionXLPipeline": (_UNETS, "StableDiffusionXL"),
    "DiTPipeline": (_TRANSFORMERS, "DiT"),
    "PixArtAlphaPipeline": (_TRANSFORMERS, "PixArtAlpha"),
    "PixArtSigmaPipeline": (_TRANSFORMERS, "PixArt"),
    "StableDiffusion3Pipeline": (_TRANSFORMERS, "StableDiffusion3"),
    "FluxPipeline": (_TRANSFORMERS, "Flux"),
    "SanaPipeline": (_TRANSFORMERS, "Sana"),
}


@dataclass(frozen=True)
class Batch:
    """Trajectories to run: everything that `Denoising.step` needs besides the denoiser and the state.

    Attributes:
        latents: initial noise [B, ...], scaled for the scheduler.
        cond: prompt embeddings, class labels and the like, with the unconditional half where guidance doubles the
            batch. Not every tensor has a batch dimension.
        tape: the noise of a stochastic scheduler; None for a deterministic one.
    """

    latents: Tensor
    cond: Conditions
    tape: NoiseTape | None = None


@dataclass(frozen=True)
class Denoising:
    """A pipeline's run from noise to final latents. Build it with `Denoising.of`.

    Attributes:
        module: the denoiser; may be replaced (``dataclasses.replace``) by a pruned one of the same interface.
        adapter: what is particular to the pipeline's family.
        sampler: the scheduler.
    """

    module: nn.Module
    adapter: Adapter
    sampler: Sampler

    @classmethod
    def of(
        cls,
        pipe: Any,
        steps: int,
        scheduler: str | None = None,
        guidance_scale: float | None = None,
        height: int | None = None,
        width: int | None = None,
    ) -> Denoising:
        """The run of `pipe`, which is not changed.

        Args:
            pipe: a pipeline of one of the classes in `ADAPTERS`, with its denoiser in eval mode.
            steps: inference steps.
            scheduler: a name of `gencompress.domains.diffusion.schedulers.SCHEDULERS`; None keeps the pipeline's own.
            guidance_scale: None takes the pipeline's default; up to 1 means no guidance.
            height: of the images in pixels; None takes the size that the denoiser was trained for.
            width: likewise.

        Raises:
            ModelError: the pipeline class is not supported, or the denoiser is in train mode.
            SchedulerError: the scheduler is unknown or cannot be differentiated.
            ConfigError: `steps` is out of the scheduler's range, `guidance_scale` has no meaning for this pipeline, or
                it cannot make images of this size.
        """
        view = copy.copy(pipe)  # shares all components; only the scheduler is replaced
        adapter = _adapter_class(pipe)(view, guidance_scale, height, width)
        module = getattr(pipe, adapter.denoiser)
        if module.training:
            raise ModelError(f"{type(module).__name__} is in train mode, where dropout makes runs differ: call eval()")
        own = pipe.scheduler if scheduler is None else named_scheduler(scheduler, pipe.scheduler)
        view.scheduler = own
        sampler = Sampler(own, steps, adapter.device, **adapter.schedule(steps))
        view.scheduler = sampler.scheduler
        return cls(module, adapter, sampler)

    @property
    def steps(self) -> int:
        """How often the denoiser runs."""
        return self.sampler.steps

    @torch.no_grad()
    def batch(self, prompts: Sequence[str] | None, seeds: Sequence[int]) -> Batch:
        """One trajectory per seed.

        The noise of a seed is what the stock pipeline draws with ``generator=[torch.Generator().manual_seed(seed)]``,
        whatever else is in the batch.

        Args:
            prompts: one per seed; class names or numbers for a class-conditional model; None for an unconditional one.
            seeds: at least one.

        Raises:
            DataError: prompts are missing, of another number than the seeds, or given to an unconditional model.
        """
        texts = self.adapter.check_prompts(prompts, seeds)
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        cond = self.adapter.encode(texts, len(seeds))
        latents = self.adapter.noise(len(seeds), generators, cond)
        return Batch(latents, cond, record_noise(self.sampler, generators, latents))

    def start(self, batch: Batch) -> State:
        """The state before the first step: latents, then what a multi-step scheduler remembers (zeros)."""
        return self.sampler.start(batch.latents)

    def step(self, i: int, state: State, batch: Batch) -> State:
        """The state after step `i`; runs `module` once and is differentiable in every tensor of `state`."""
        output = self.predict(i, state[0], batch)
        return self.sampler.step(i, output, state, batch.tape.at(i) if batch.tape else None)

    def predict(self, i: int, latents: Tensor, batch: Batch) -> Tensor:
        """The guided model output at step `i` (noise, velocity or sample, as the scheduler expects it) [B, ...]."""
        x = torch.cat([latents, latents]) if self.adapter.doubled else latents
        x = self.sampler.scale(i, x)
        return self.adapter.guide(self.adapter.predict(self.module, x, self.sampler.timesteps[i], batch.cond))

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Images of final latents, uint8 [B, 3, H, W], as the stock pipeline makes them.

        One channel is repeated to three. A safety checker or watermark of the pipeline is not applied.
        """
        pixels = self.adapter.decode(latents).float()
        if pixels.shape[1] == 1:
            pixels = pixels.expand(-1, 3, -1, -1)
        return (pixels * 255).round().to(torch.uint8)


def _adapter_class(pipe: Any) -> type[Adapter]:
    for base in type(pipe).__mro__:
        if base.__name__ in ADAPTERS:
            module, name = ADAPTERS[base.__name__]
            found: type[Adapter] = getattr(import_module(module), name)
            return found
    raise ModelError(f"pipelines of class {type(pipe).__name__} are not supported; these are: {', '.join(ADAPTERS)}")
