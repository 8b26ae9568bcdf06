"""A sampler repeats the stock scheduler's run exactly, without hidden state, and gradients flow through all of it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from gencompress.domains.diffusion.schedulers import (
    SCHEDULERS,
    NoiseTape,
    Sampler,
    is_flow,
    named_scheduler,
    record_noise,
    require_differentiable,
)
from gencompress.errors import ConfigError, SchedulerError

diffusers = pytest.importorskip("diffusers")

STEPS = 6
SHAPE = (2, 4, 8, 8)

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "ddim": ("DDIMScheduler", {"clip_sample": False}),
    "ddim-v-trailing": ("DDIMScheduler", {"prediction_type": "v_prediction", "timestep_spacing": "trailing"}),
    "ddim-clipped": ("DDIMScheduler", {"clip_sample": True, "beta_schedule": "squaredcos_cap_v2"}),
    "euler": ("EulerDiscreteScheduler", {"beta_schedule": "scaled_linear"}),
    "euler-karras-v": ("EulerDiscreteScheduler", {"use_karras_sigmas": True, "prediction_type": "v_prediction"}),
    "flow": ("FlowMatchEulerDiscreteScheduler", {"shift": 3.0}),
    "dpm1": ("DPMSolverMultistepScheduler", {"solver_order": 1}),
    "dpm2": ("DPMSolverMultistepScheduler", {}),
    "dpm2-heun-karras": ("DPMSolverMultistepScheduler", {"solver_type": "heun", "use_karras_sigmas": True}),
    "dpm3": ("DPMSolverMultistepScheduler", {"solver_order": 3}),
    "dpm-flow": ("DPMSolverMultistepScheduler", {"prediction_type": "flow_prediction", "use_flow_sigmas": True}),
    "dpm-sde": ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}),
    "ddpm": ("DDPMScheduler", {"clip_sample": False}),
    "ddpm-clipped": ("DDPMScheduler", {"variance_type": "fixed_large"}),
    "ancestral": ("EulerAncestralDiscreteScheduler", {}),
    "flow-stochastic": ("FlowMatchEulerDiscreteScheduler", {"stochastic_sampling": True}),
}
MULTI_STEP = {"dpm2": 1, "dpm2-heun-karras": 1, "dpm3": 2, "dpm-flow": 1, "dpm-sde": 1}
STOCHASTIC = {"dpm-sde", "ddpm", "ddpm-clipped", "ancestral", "flow-stochastic"}


def scheduler_of(case: str) -> Any:
    name, config = CASES[case]
    return getattr(diffusers, name)(**config)


def generators(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def unit_noise(drawing: list[torch.Generator]) -> Tensor:
    return torch.cat([torch.randn((1, *SHAPE[1:]), generator=g) for g in drawing])


def model(x: Tensor, t: Tensor, gate: Tensor) -> Tensor:
    """A nonlinear stand-in for a denoiser, different at every time."""
    return torch.tanh(gate * x + 0.1 * x.roll(1, -1) * gate.square() - 0.3) * (1 + t.float() / 1000)


def stock_run(scheduler: Any, seeds: tuple[int, ...], gate: Tensor) -> Tensor:
    """The loop that the pipelines have."""
    drawing = generators(*seeds)
    scheduler.set_timesteps(STEPS)
    x = unit_noise(drawing) * getattr(scheduler, "init_noise_sigma", 1.0)
    for t in scheduler.timesteps:
        scaled = scheduler.scale_model_input(x, t) if hasattr(scheduler, "scale_model_input") else x
        x = scheduler.step(model(scaled, t, gate), t, x, generator=drawing, return_dict=False)[0]
    return x


class Run:
    """The same run through a sampler, step by step."""

    def __init__(self, case: str, seeds: tuple[int, ...] = (1, 2)) -> None:
        self.sampler = Sampler(scheduler_of(case), STEPS)
        drawing = generators(*seeds)
        self.noise = unit_noise(drawing) * self.sampler.init_noise_sigma
        self.tape = record_noise(self.sampler, drawing, self.noise)

    def step(self, i: int, state: tuple[Tensor, ...], gate: Tensor) -> tuple[Tensor, ...]:
        output = model(self.sampler.scale(i, state[0]), self.sampler.timesteps[i], gate)
        return self.sampler.step(i, output, state, self.tape.at(i) if self.tape else None)

    def states(self, gate: Tensor) -> list[tuple[Tensor, ...]]:
        states = [self.sampler.start(self.noise)]
        for i in range(self.sampler.steps):
            states.append(self.step(i, states[-1], gate))
        return states


@pytest.mark.parametrize("case", CASES)
def test_run_equals_the_stock_run_bit_by_bit(case: str) -> None:
    gate = torch.tensor(0.9)
    final = Run(case).states(gate)[-1][0]
    assert final.isfinite().all()
    assert torch.equal(final, stock_run(scheduler_of(case), (1, 2), gate))


@pytest.mark.parametrize("case", CASES)
def test_gradient_of_the_run_is_that_of_the_stock_run(case: str) -> None:
    ours, theirs = (torch.tensor(0.9, requires_grad=True) for _ in range(2))
    weights = torch.randn(SHAPE, generator=torch.Generator().manual_seed(5))
    (Run(case).states(ours)[-1][0] * weights).sum().backward()
    (stock_run(scheduler_of(case), (1, 2), theirs) * weights).sum().backward()
    assert theirs.grad.abs() > 1e-3
    assert torch.equal(ours.grad, theirs.grad)


@pytest.mark.parametrize("case", CASES)
def test_step_by_step_recomputation_gives_the_same_gradient(case: str) -> None:
    gate = torch.tensor(0.9, requires_grad=True)
    run = Run(case)
    run.states(gate)[-1][0].square().mean().backward()
    with torch.no_grad():
        states = run.states(gate)
    leaf = states[-1][0].requires_grad_()
    (cotangent,) = torch.autograd.grad(leaf.square().mean(), leaf)
    cotangents: list[Tensor | None] = [cotangent, *[None] * run.sampler.carried]
    total = torch.zeros(())
    for i in reversed(range(STEPS)):  # from the last step to the first, each recomputed from its stored state alone
        inputs = [t.detach().requires_grad_() for t in states[i]]
        outputs = run.step(i, tuple(inputs), gate)
        pairs = [(o, c) for o, c in zip(outputs, cotangents, strict=True) if c is not None]
        wanted = torch.autograd.grad([o for o, _ in pairs], [gate, *inputs], [c for _, c in pairs], allow_unused=True)
        total = total + wanted[0]
        cotangents = list(wanted[1:])
    assert torch.allclose(total, gate.grad, rtol=1e-5)


@pytest.mark.parametrize("case", CASES)
def test_a_repeated_step_has_no_hidden_state(case: str) -> None:
    run, gate = Run(case), torch.tensor(0.9)
    states = run.states(gate)
    for i in (3, 0, 5, 2, 2):
        for again, before in zip(run.step(i, states[i], gate), states[i + 1], strict=True):
            assert torch.equal(again, before)


@pytest.mark.parametrize("case", CASES)
def test_state_has_a_fixed_length_and_inputs_stay_as_they_are(case: str) -> None:
    run = Run(case)
    states = run.states(torch.tensor(0.9))
    assert {len(state) for state in states} == {1 + MULTI_STEP.get(case, 0)}
    copies = [t.clone() for t in states[2]]
    run.step(2, states[2], torch.tensor(0.9))
    assert all(torch.equal(a, b) for a, b in zip(states[2], copies, strict=True))


@pytest.mark.parametrize("case", MULTI_STEP)
def test_later_steps_depend_on_what_earlier_steps_remembered(case: str) -> None:
    """A multi-step scheduler that forgot would still pass a test of its latents' gradient alone."""
    run = Run(case)
    state = [t.detach().requires_grad_() for t in run.states(torch.tensor(0.9))[3]]
    run.step(3, tuple(state), torch.tensor(0.9))[0].sum().backward()
    assert state[1].grad is not None and state[1].grad.abs().max() > 0


@pytest.mark.parametrize("case", MULTI_STEP)
def test_no_graph_is_kept_alive_by_the_scheduler(case: str) -> None:
    run = Run(case)
    run.step(0, run.sampler.start(run.noise), torch.tensor(0.9, requires_grad=True))
    assert all(m is None for m in run.sampler.scheduler.model_outputs)


@pytest.mark.parametrize("case", sorted(STOCHASTIC))
def test_noise_of_a_seed_does_not_depend_on_the_rest_of_the_batch(case: str) -> None:
    gate = torch.tensor(0.9)
    alone = Run(case, seeds=(2, 2)).states(gate)[-1][0][:1]
    among = Run(case, seeds=(1, 2)).states(gate)[-1][0][1:]
    assert torch.equal(alone, among)
    other = Run(case, seeds=(3, 2)).states(gate)[-1][0][:1]
    assert not torch.allclose(alone, other)


def test_tape_continues_where_the_initial_noise_ended() -> None:
    drawing = generators(7)
    first = torch.randn(1, 4, 8, 8, generator=drawing[0])
    tape = NoiseTape(drawing, first, 3, torch.float32)
    straight = torch.Generator().manual_seed(7)
    expected = [torch.randn(1, 4, 8, 8, generator=straight) for _ in range(4)]
    assert torch.equal(first, expected[0])
    for i in (2, 0, 1):
        assert torch.equal(torch.randn(1, 4, 8, 8, generator=tape.at(i)[0]), expected[i + 1])


def test_a_stochastic_step_without_its_noise_is_refused() -> None:
    run = Run("ddpm")
    with pytest.raises(SchedulerError, match="DDPMScheduler adds noise"):
        run.sampler.step(0, run.noise, run.sampler.start(run.noise))


@pytest.mark.parametrize("case", ["ddim", "dpm2", "euler", "flow"])
def test_the_given_scheduler_is_not_touched(case: str) -> None:
    scheduler = scheduler_of(case)
    before = scheduler.timesteps.clone(), dict(scheduler.config)
    sampler = Sampler(scheduler, STEPS)
    sampler.step(0, torch.zeros(SHAPE), sampler.start(torch.zeros(SHAPE)))
    assert torch.equal(scheduler.timesteps, before[0]) and dict(scheduler.config) == before[1]
    assert getattr(scheduler, "step_index", None) is None


@pytest.mark.parametrize("steps", [0, -3, 1001])
def test_steps_out_of_range(steps: int) -> None:
    with pytest.raises(ConfigError, match=f"steps is {steps}; this scheduler takes 1 to 1000"):
        Sampler(scheduler_of("ddim"), steps)


@pytest.mark.parametrize("name", ["PNDMScheduler", "UniPCMultistepScheduler", "HeunDiscreteScheduler", "LCMScheduler"])
def test_other_schedulers_are_refused_with_those_that_work(name: str) -> None:
    scheduler = getattr(diffusers, name)()
    with pytest.raises(SchedulerError, match=rf"{name} .*scheduler= one of ddim, ddpm, dpmpp, euler"):
        require_differentiable(scheduler)
    with pytest.raises(SchedulerError, match=name):
        Sampler(scheduler, STEPS)


def test_unknown_name_gets_the_nearest() -> None:
    with pytest.raises(SchedulerError, match="unknown scheduler 'eulr'; did you mean 'euler'"):
        named_scheduler("eulr", scheduler_of("ddim"))


@pytest.mark.parametrize("name, own", [("ddim", "flow"), ("euler", "dpm-flow"), ("flow_euler", "ddim")])
def test_scheduler_of_the_wrong_kind_is_refused(name: str, own: str) -> None:
    with pytest.raises(SchedulerError, match=f"scheduler {name!r} does not fit a model that predicts"):
        named_scheduler(name, scheduler_of(own))


@pytest.mark.parametrize("name", [n for n, spec in SCHEDULERS.items() if spec[1]])
def test_named_scheduler_keeps_the_noise_schedule(name: str) -> None:
    own = diffusers.PNDMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, prediction_type="v_prediction")
    made = named_scheduler(name, own)
    assert type(made).__name__ == SCHEDULERS[name][0]
    assert torch.equal(made.alphas_cumprod, own.alphas_cumprod)
    assert made.config.prediction_type == "v_prediction"
    assert type(named_scheduler(SCHEDULERS[name][0], own)) is type(made)  # the class name is understood as well


@pytest.mark.parametrize("name", ["ddim", "ddpm"])
def test_samples_are_clipped_only_if_the_own_scheduler_does(name: str) -> None:
    assert named_scheduler(name, scheduler_of("euler")).config.clip_sample is False
    clipping = diffusers.DDIMScheduler(clip_sample=True)
    assert named_scheduler(name, clipping).config.clip_sample is True
    assert named_scheduler(name, diffusers.DDIMScheduler(clip_sample=False)).config.clip_sample is False


def test_flow_schedulers_keep_the_shift_under_its_other_name() -> None:
    to_dpm = named_scheduler("dpmpp", diffusers.FlowMatchEulerDiscreteScheduler(shift=2.5))
    assert to_dpm.config.flow_shift == 2.5 and to_dpm.config.use_flow_sigmas and is_flow(to_dpm)
    back = named_scheduler("flow_euler", to_dpm)
    assert back.config.shift == 2.5 and is_flow(back)
