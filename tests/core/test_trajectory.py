from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from gencompress.core.gate import gated, hard_concrete
from gencompress.core.group import Groups
from gencompress.core.trajectory import final_latents, gate_gradient, roll
from gencompress.domains.diffusion.denoising import Batch, Denoising
from gencompress.domains.diffusion.groups import groups_of
from gencompress.errors import NumericsError
from tests.domains.diffusion import tiny

SEEDS = (3, 8)
Gates = dict[str, Tensor]
Loss = Callable[[Tensor], Tensor]


@cache
def pipe_of(family: str, dtype: torch.dtype) -> Any:
    """Shared by all tests; none changes it."""
    pipe = tiny.TINY[family]()
    pipe.unet.to(dtype)
    return pipe


def denoising(family: str, steps: int, scheduler: str = "ddim", dtype: torch.dtype = torch.float32) -> Denoising:
    pipe = pipe_of(family, dtype)
    return Denoising.of(pipe, steps, scheduler, guidance_scale=3.0 if family == "sd" else None)


def batch_of(run: Denoising) -> Batch:
    prompts = None if not run.adapter.takes_prompts else list(tiny.PROMPTS)
    return run.batch(prompts, SEEDS)


def random_gates(groups: Groups, *batch: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Gates:
    """Hard-concrete gates, many of them exactly 0 or 1, some between."""
    generator = torch.Generator().manual_seed(seed)
    noise = {g.name: torch.rand(*batch, g.size, generator=generator, dtype=dtype) for g in groups}
    return {name: hard_concrete(torch.ones_like(u), u) for name, u in noise.items()}


def squared_error(run: Any, batch: Batch) -> Loss:
    dense = final_latents(run, batch)
    return lambda latents: (latents - dense).float().square().mean()


def plain_gradient(run: Any, batch: Batch, groups: Groups, gates: Gates, loss_fn: Loss) -> tuple[float, Gates]:
    """Backpropagation through the unrolled run."""
    leaves = {name: gate.clone().requires_grad_() for name, gate in gates.items()}
    with gated(run.module, groups, leaves):
        state = run.start(batch)
        for i in range(run.steps):
            state = run.step(i, state, batch)
        loss = loss_fn(state[0])
    grads = torch.autograd.grad(loss, list(leaves.values()))
    return loss.item(), dict(zip(leaves, grads, strict=True))


def difference(found: Gates, expected: Gates) -> float:
    """Greatest difference of all groups, each relative to the group's greatest gradient."""
    assert found.keys() == expected.keys()
    assert all(found[n].shape == e.shape and bool(e.abs().max() > 0) for n, e in expected.items())
    return max(float((found[n] - e).abs().max() / e.abs().max()) for n, e in expected.items())


@pytest.mark.parametrize("batch_shape", [(), (len(SEEDS),)], ids=["shared gates", "gates per sample"])
# dpmpp remembers model outputs of earlier steps, sd doubles the batch for guidance
@pytest.mark.parametrize(("family", "scheduler"), [("ddpm", "ddim"), ("ddpm", "dpmpp"), ("sd", "dpmpp")])
def test_the_gradient_is_that_of_the_unrolled_run(family, scheduler, batch_shape):
    run = denoising(family, 4, scheduler)
    groups, batch = groups_of(run.module), batch_of(run)
    gates, loss_fn = random_gates(groups, *batch_shape), squared_error(run, batch)
    loss, found = gate_gradient(run, batch, groups, gates, loss_fn)
    expected_loss, expected = plain_gradient(run, batch, groups, gates, loss_fn)
    assert loss == pytest.approx(expected_loss, rel=1e-6) and loss > 0
    assert difference(found, expected) <= 1e-6
    assert not any(gate.requires_grad for gate in gates.values())


@pytest.mark.parametrize("steps", [1, 2])
def test_short_runs(steps):
    run = denoising("ddpm", steps)
    groups, batch = groups_of(run.module), batch_of(run)
    gates, loss_fn = random_gates(groups, len(SEEDS)), squared_error(run, batch)
    _, found = gate_gradient(run, batch, groups, gates, loss_fn)
    assert difference(found, plain_gradient(run, batch, groups, gates, loss_fn)[1]) <= 1e-6


def test_gradients_of_a_bf16_model_by_fp32_gates_are_fp32():
    run = denoising("ddpm", 3, dtype=torch.bfloat16)
    groups, batch = groups_of(run.module), batch_of(run)
    gates, loss_fn = random_gates(groups, len(SEEDS)), squared_error(run, batch)
    _, found = gate_gradient(run, batch, groups, gates, loss_fn)
    assert {grad.dtype for grad in found.values()} == {torch.float32}
    assert difference(found, plain_gradient(run, batch, groups, gates, loss_fn)[1]) <= 1e-6


def test_the_gradient_is_the_slope_of_the_loss():
    run = denoising("ddpm", 5, dtype=torch.float64)
    groups, batch = groups_of(run.module), batch_of(run)
    target = torch.randn(batch.latents.shape, dtype=torch.float64)

    def loss_fn(latents: Tensor) -> Tensor:
        return (latents - target).square().mean()

    generator = torch.Generator().manual_seed(1)
    size = {g.name: (len(SEEDS), g.size) for g in groups}
    gates = {n: 0.2 + 0.8 * torch.rand(s, generator=generator, dtype=torch.float64) for n, s in size.items()}
    direction = {n: torch.randn(s, generator=generator, dtype=torch.float64) for n, s in size.items()}

    def loss_at(t: float) -> float:
        with gated(run.module, groups, {n: gates[n] + t * direction[n] for n in gates}):
            return float(loss_fn(final_latents(run, batch)))

    _, grads = gate_gradient(run, batch, groups, gates, loss_fn)
    slope = sum(float((grads[n] * direction[n]).sum()) for n in gates)
    h = 1e-4
    expected = (8 * (loss_at(h) - loss_at(-h)) - (loss_at(2 * h) - loss_at(-2 * h))) / (12 * h)  # error O(h^4)
    assert slope == pytest.approx(expected, rel=1e-7)


class OwnMasks:
    """A run with masks of its own on top of the gates: held for the trajectory, or drawn anew in every call."""

    def __init__(self, run: Denoising, groups: Groups, redraw: bool) -> None:
        self.run, self.groups, self.redraw = run, groups, redraw
        self.module, self.steps, self.start = run.module, run.steps, run.start
        self.calls: Counter[int] = Counter()

    def step(self, i: int, state: tuple[Tensor, ...], batch: Batch) -> tuple[Tensor, ...]:
        masks = random_gates(self.groups, len(SEEDS), seed=self.calls[i] if self.redraw else 0)
        self.calls[i] += 1
        with gated(self.module, self.groups, masks):
            return self.run.step(i, state, batch)


def test_masks_redrawn_in_the_recomputation_are_noticed():
    run = denoising("ddpm", 4)
    groups, batch = groups_of(run.module), batch_of(run)
    ones = {g.name: torch.ones(len(SEEDS), g.size) for g in groups}
    loss_fn = squared_error(run, batch)
    loss, expected = plain_gradient(OwnMasks(run, groups, redraw=False), batch, groups, ones, loss_fn)
    held = gate_gradient(OwnMasks(run, groups, redraw=False), batch, groups, ones, loss_fn)
    redrawn = gate_gradient(OwnMasks(run, groups, redraw=True), batch, groups, ones, loss_fn)
    assert held[0] == redrawn[0] == pytest.approx(loss, rel=1e-6)  # the forward passes are the same
    assert difference(held[1], expected) <= 1e-6
    assert difference(redrawn[1], expected) > 0.1


class Saved:
    """A tensor that a graph holds."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


class Ledger:
    """Bytes that graphs hold for their backward passes: now, and at most."""

    def __init__(self) -> None:
        self.live = self.peak = 0

    @contextmanager
    def watching(self) -> Iterator[None]:
        with saved_tensors_hooks(self._pack, lambda saved: saved.tensor):
            yield

    def _pack(self, tensor: Tensor) -> Saved:
        saved = Saved(tensor)
        weakref.finalize(saved, self._add, -tensor.nbytes)
        self._add(tensor.nbytes)
        return saved

    def _add(self, count: int) -> None:
        self.live += count
        self.peak = max(self.peak, self.live)


def peak_bytes(gradient: Callable[..., Any], steps: int, scheduler: str) -> int:
    run = denoising("ddpm", steps, scheduler)
    groups, batch = groups_of(run.module), batch_of(run)
    gates, loss_fn = random_gates(groups, len(SEEDS)), squared_error(run, batch)
    ledger = Ledger()
    with ledger.watching():
        gradient(run, batch, groups, gates, loss_fn)
    assert ledger.live == 0
    return ledger.peak


@pytest.mark.parametrize("scheduler", ["ddim", "dpmpp"])
def test_memory_of_the_graph_does_not_grow_with_the_number_of_steps(scheduler):
    few, many = (peak_bytes(gate_gradient, steps, scheduler) for steps in (3, 12))
    assert few == many > 0
    assert peak_bytes(plain_gradient, 3, scheduler) > 2.5 * few  # what is counted does grow where all is kept


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_is_refused(value):
    run = denoising("ddpm", 2)
    groups, batch = groups_of(run.module), batch_of(run)
    before = final_latents(run, batch)
    with pytest.raises(NumericsError, match=f"loss of the final latents is {value}"):
        gate_gradient(run, batch, groups, random_gates(groups), lambda latents: latents.square().sum() * value)
    assert torch.equal(final_latents(run, batch), before)  # no gate stays behind


def test_roll_gives_all_states():
    run = denoising("ddpm", 3, "dpmpp")
    batch = batch_of(run)
    states = roll(run, batch)
    assert len(states) == 4 and all(len(state) == len(run.start(batch)) for state in states)
    assert torch.equal(states[0][0], batch.latents) and torch.equal(states[-1][0], final_latents(run, batch))
    assert not any(t.requires_grad for state in states for t in state)
