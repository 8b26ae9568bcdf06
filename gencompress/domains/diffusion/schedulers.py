"""Differentiable, stateless steps over stock diffusers schedulers.

A stock scheduler counts its own steps and, if it is a multi-step one, remembers the model outputs of earlier steps.
Both are set from arguments before every call here, so a step depends on its arguments alone: it can be recomputed for
time-step gradient checkpointing, and gradients flow through the remembered model outputs. The arithmetic is that of
the stock ``scheduler.step``, which neither detaches nor disables gradients for the schedulers listed in `SCHEDULERS`.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from gencompress.errors import ConfigError, SchedulerError, nearest

# Option value -> (diffusers class, usable with noise-predicting models, usable with flow-matching models).
SCHEDULERS: dict[str, tuple[str, bool, bool]] = {
    "ddim": ("DDIMScheduler", True, False),
    "ddpm": ("DDPMScheduler", True, False),
    "dpmpp": ("DPMSolverMultistepScheduler", True, True),
    "euler": ("EulerDiscreteScheduler", True, False),
    "euler_ancestral": ("EulerAncestralDiscreteScheduler", True, False),
    "flow_euler": ("FlowMatchEulerDiscreteScheduler", False, True),
}


class Sampler:
    """A private copy of a scheduler, prepared for a fixed number of steps.

    Attributes:
        steps: number of calls of the denoiser.
        timesteps: [steps], as the stock scheduler passes them to the denoiser.
        init_noise_sigma: what unit noise is multiplied with before the first step.
        carried: number of model outputs that a multi-step scheduler needs from earlier steps.
        stochastic: whether a step adds noise.
    """

    def __init__(self, scheduler: Any, steps: int, device: torch.device | None = None, **options: Any) -> None:
        """Copy `scheduler` and call its ``set_timesteps``.

        Args:
            scheduler: a diffusers scheduler object; it is not changed.
            steps: inference steps asked for.
            device: where ``timesteps`` live.
            options: further arguments of ``set_timesteps``, such as ``mu`` or ``sigmas``.

        Raises:
            SchedulerError: the scheduler is none of `SCHEDULERS`.
            ConfigError: `steps` is below 1 or above the scheduler's training steps.
        """
        require_differentiable(scheduler)
        trained = int(scheduler.config.num_train_timesteps)
        if not 1 <= steps <= trained:
            raise ConfigError(f"steps is {steps}; this scheduler takes 1 to {trained}")
        self.scheduler = copy.deepcopy(scheduler)
        if "sigmas" in options:  # custom sigmas say the number of steps themselves
            self.scheduler.set_timesteps(device=device, **options)
        else:
            self.scheduler.set_timesteps(steps, device=device, **options)
        self.timesteps: Tensor = self.scheduler.timesteps
        self.steps = len(self.timesteps)
        self.init_noise_sigma = self.scheduler.init_noise_sigma if hasattr(self.scheduler, "init_noise_sigma") else 1.0
        self.carried = int(self.scheduler.config.solver_order) - 1 if hasattr(self.scheduler, "model_outputs") else 0
        self.stochastic = _adds_noise(self.scheduler)

    def start(self, latents: Tensor) -> tuple[Tensor, ...]:
        """The state before the first step: `latents`, which already have ``init_noise_sigma``, and empty memory."""
        return (latents, *(torch.zeros_like(latents) for _ in range(self.carried)))

    def scale(self, i: int, latents: Tensor) -> Tensor:
        """What the denoiser is fed at step `i` for `latents` [B, ...]."""
        if not hasattr(self.scheduler, "scale_model_input"):  # flow matching
            return latents
        self._seek(i, ())
        scaled: Tensor = self.scheduler.scale_model_input(latents, self.timesteps[i])
        return scaled

    def step(
        self, i: int, output: Tensor, state: Sequence[Tensor], noise: Sequence[torch.Generator] | None = None
    ) -> tuple[Tensor, ...]:
        """The state after step `i`, differentiable in `output` and in every tensor of `state`.

        Args:
            i: step number, 0 to ``steps - 1``.
            output: what the denoiser predicted from ``scale(i, state[0])`` [B, ...].
            state: of `start` or of the previous step.
            noise: one generator per sample, positioned for this step (`NoiseTape`); needed if ``stochastic``.

        Raises:
            SchedulerError: a stochastic scheduler is given no `noise`.
        """
        if self.stochastic and noise is None:
            raise SchedulerError(
                f"{type(self.scheduler).__name__} adds noise in every step: give it a recorded tape of noise"
            )
        self._seek(i, state[1:])
        keywords = {"generator": list(noise)} if noise is not None else {}
        latents = self.scheduler.step(output, self.timesteps[i], state[0], return_dict=False, **keywords)[0]
        remembered = tuple(self.scheduler.model_outputs[1:]) if self.carried else ()
        self._seek(i, ())  # drop the remembered outputs: they would keep the graph of this step alive
        return (latents, *(torch.zeros_like(latents) if m is None else m for m in remembered))

    def _seek(self, i: int, remembered: Sequence[Tensor]) -> None:
        """Put the scheduler into the state that it has before step `i`."""
        if hasattr(self.scheduler, "_step_index"):
            self.scheduler._step_index = i
        if hasattr(self.scheduler, "model_outputs"):
            order = int(self.scheduler.config.solver_order)
            # A step shifts this list to the left and appends its own model output; what is not needed yet is None.
            kept = [None, *(m if k >= self.carried - i else None for k, m in enumerate(remembered))]
            self.scheduler.model_outputs = [*kept, *[None] * (order - len(kept))]
            self.scheduler.lower_order_nums = min(i, order)


class NoiseTape:
    """Where each sample's random generator stands before every step, so that a repeated step draws the same noise.

    The stock pipelines draw the noise of a step from the generator that made the initial latents. Its positions are
    recorded once per trajectory (5 kB per sample and step on the CPU) instead of the noise itself.
    """

    def __init__(self, generators: Sequence[torch.Generator], like: Tensor, steps: int, dtype: torch.dtype) -> None:
        """Run every generator through `steps` draws of one sample of `like` [B, ...] in `dtype`."""
        self._devices = [g.device for g in generators]
        self._positions: list[list[Tensor]] = []
        for _ in range(steps):
            self._positions.append([g.get_state() for g in generators])
            for g in generators:
                torch.randn((1, *like.shape[1:]), generator=g, device=g.device, dtype=dtype)

    def at(self, i: int) -> list[torch.Generator]:
        """Fresh generators, one per sample, standing before the draw of step `i`."""
        generators = [torch.Generator(device) for device in self._devices]
        for generator, position in zip(generators, self._positions[i], strict=True):
            generator.set_state(position)
        return generators


def record_noise(sampler: Sampler, generators: Sequence[torch.Generator], latents: Tensor) -> NoiseTape | None:
    """The tape for trajectories that start at `latents` [B, ...], or None for a deterministic scheduler."""
    if not sampler.stochastic:
        return None
    # SDE solvers draw in fp32 whatever the model's dtype; the others draw in the dtype of the model's output.
    wide = hasattr(sampler.scheduler, "model_outputs") or is_flow(sampler.scheduler)
    return NoiseTape(generators, latents, sampler.steps, torch.float32 if wide else latents.dtype)


def named_scheduler(name: str, own: Any) -> Any:
    """The scheduler called `name` with the noise schedule of a pipeline's `own` scheduler.

    It is what ``from_config`` makes of ``own.config``, but for two traps: samples are not clipped if `own` does not
    clip, and the shift of a flow keeps its value under its other name.

    Args:
        name: a key of `SCHEDULERS`, or the diffusers class name.
        own: the pipeline's scheduler; it says what its denoiser predicts.

    Raises:
        SchedulerError: `name` is unknown, or it integrates noise where this denoiser predicts a flow, or the reverse.
    """
    flow = is_flow(own)
    by_class = {spec[0]: key for key, spec in SCHEDULERS.items()}
    key = by_class.get(name, name)
    if key not in SCHEDULERS:
        raise SchedulerError(
            f"unknown scheduler {name!r}; {nearest(name, SCHEDULERS)} (all: {', '.join(usable(flow))})"
        )
    if key not in usable(flow):
        kind = "a flow" if flow else "noise"
        raise SchedulerError(
            f"scheduler {name!r} does not fit a model that predicts {kind}; {', '.join(usable(flow))} do"
        )
    import diffusers

    cls = getattr(diffusers, SCHEDULERS[key][0])
    changes: dict[str, Any] = {}
    if key in ("ddim", "ddpm") and "clip_sample" not in own.config:
        changes = {"clip_sample": False}  # their default clips, which `own` does not do and latents do not survive
    if flow and type(own).__name__ != cls.__name__:  # the two flow schedulers name the same thing differently
        if key == "dpmpp":
            changes = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": own.config.shift}
        else:
            changes = {"shift": own.config.flow_shift}
    # Options that the new class does not have would only raise warnings. (`_use_default_values` lists options that were
    # never set: there the new class takes its own default, as everywhere in diffusers.)
    known = {*inspect.signature(cls.__init__).parameters, "_use_default_values"}
    return cls.from_config({option: value for option, value in own.config.items() if option in known}, **changes)


def require_differentiable(scheduler: Any) -> None:
    """Raise `SchedulerError`, naming those that work, unless `scheduler` is one of `SCHEDULERS`."""
    name = type(scheduler).__name__
    if name not in {spec[0] for spec in SCHEDULERS.values()}:
        names = ", ".join(usable(is_flow(scheduler)))
        raise SchedulerError(f"gradients through a run with {name} are not supported; choose scheduler= one of {names}")


def usable(flow: bool) -> list[str]:
    """Names in `SCHEDULERS` for models that predict a flow, or noise."""
    return [name for name, (_, noise_ok, flow_ok) in SCHEDULERS.items() if (flow_ok if flow else noise_ok)]


def is_flow(scheduler: Any) -> bool:
    """Whether `scheduler` belongs to a flow-matching model."""
    prediction = scheduler.config.get("prediction_type")
    return type(scheduler).__name__.startswith("FlowMatch") or prediction == "flow_prediction"


def _adds_noise(scheduler: Any) -> bool:
    config = scheduler.config
    if str(config.get("algorithm_type", "")).startswith("sde") or config.get("stochastic_sampling", False):
        return True
    return type(scheduler).__name__ in ("DDPMScheduler", "EulerAncestralDiscreteScheduler")
