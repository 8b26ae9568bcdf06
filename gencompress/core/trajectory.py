"""Gradients through a whole denoising run with time-step checkpointing: O(1) activation memory in the number of steps.

EcoDiff (arXiv 2412.02852, section 3.3) keeps only the latents of the T steps and recomputes one step at a time. Here
the gates are leaves: they are drawn once per trajectory by the caller and held fixed, so the recomputed step is by
construction the step that was run (masks redrawn in the recomputation give gradients of another function).

Cost: T - 1 forward passes more than plain backpropagation. With frozen weights a backward pass costs about as much as
a forward pass, so the whole takes up to 1.5 times as long; where weights need gradients as well, 1.1 to 1.3 times.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from gencompress.core.gate import gated
from gencompress.core.group import Groups
from gencompress.errors import NumericsError

State = tuple[Tensor, ...]


class Rollout(Protocol):
    """An iterated, differentiable map: the denoising run of a pipeline.

    ``state[0]`` is the latents [B, ...]; further tensors carry what a multi-step scheduler remembers. `step` is
    deterministic, calls `module` once, and has no hidden state, so that it can be recomputed.
    """

    @property
    def module(self) -> nn.Module:
        """The network that is run, and on which gates are installed."""

    @property
    def steps(self) -> int:
        """Calls of `module` in one run."""

    def start(self, batch: Any) -> State:
        """The state before the first step."""

    def step(self, i: int, state: State, batch: Any) -> State:
        """The state after step `i`, differentiable in every tensor of `state` and in gates on `module`."""


def roll(rollout: Rollout, batch: Any) -> list[State]:
    """All T + 1 states of a run, without gradient."""
    return _roll(rollout, batch, rollout.steps)


@torch.no_grad()
def _roll(rollout: Rollout, batch: Any, steps: int) -> list[State]:
    """The state before the first step and after each of the first `steps` steps."""
    states = [rollout.start(batch)]
    for i in range(steps):
        states.append(rollout.step(i, states[-1], batch))
    return states


@torch.no_grad()
def final_latents(rollout: Rollout, batch: Any) -> Tensor:
    """Latents after the last step [B, ...], keeping one state at a time."""
    state = rollout.start(batch)
    for i in range(rollout.steps):
        state = rollout.step(i, state, batch)
    return state[0]


def gate_gradient(
    rollout: Rollout,
    batch: Any,
    groups: Groups,
    gates: Mapping[str, Tensor],
    loss_fn: Callable[[Tensor], Tensor],
) -> tuple[float, dict[str, Tensor]]:
    """Loss of the gated run's final latents and its gradient with respect to every gate.

    Args:
        rollout: the denoising run.
        batch: what `Rollout.start` and `Rollout.step` take.
        groups: groups of ``rollout.module``.
        gates: gate values by group, [size] or [B, size]; fixed along the trajectory.
        loss_fn: scalar loss of the final latents [B, ...].

    Returns:
        The loss, and gradients of the gates' shapes, fp32 or wider.

    Raises:
        NumericsError: the loss is NaN or infinite.
    """
    leaves = {name: gate.detach().requires_grad_() for name, gate in gates.items()}
    grads = {name: torch.zeros_like(leaf) for name, leaf in leaves.items()}
    with gated(rollout.module, groups, leaves):
        states = _roll(rollout, batch, rollout.steps - 1)
        # The last step runs with its graph at once: nothing comes between it and its backward pass.
        inputs, outputs = _recorded(rollout, rollout.steps - 1, states.pop(), batch)
        loss, cotangents = _terminal(outputs, loss_fn)
        cotangents = _pull_back_(inputs, outputs, cotangents, leaves, grads)
        for i in reversed(range(rollout.steps - 1)):
            inputs, outputs = _recorded(rollout, i, states.pop(), batch)
            cotangents = _pull_back_(inputs, outputs, cotangents, leaves, grads)
    return loss, grads


def _recorded(rollout: Rollout, i: int, state: State, batch: Any) -> tuple[State, State]:
    """Step `i` with its graph: the state before it, as leaves, and the state after it."""
    inputs = tuple(t.detach().requires_grad_() if t.is_floating_point() else t for t in state)
    with torch.enable_grad():
        return inputs, rollout.step(i, inputs, batch)


def _terminal(state: State, loss_fn: Callable[[Tensor], Tensor]) -> tuple[float, list[Tensor | None]]:
    """Loss of the final state, and its cotangents: only the latents have one."""
    latents = state[0].detach().requires_grad_()
    with torch.enable_grad():
        loss = loss_fn(latents)
    if not bool(torch.isfinite(loss)):
        raise NumericsError(
            f"the loss of the final latents is {loss.item()}; check the weights, the dtype and the scheduler"
        )
    (cotangent,) = torch.autograd.grad(loss, latents)
    return loss.item(), [cotangent, *[None] * (len(state) - 1)]


def _pull_back_(
    inputs: State,
    outputs: State,
    cotangents: list[Tensor | None],
    leaves: Mapping[str, Tensor],
    grads: dict[str, Tensor],
) -> list[Tensor | None]:
    """Add the share of one step to `grads` and return the cotangents of `inputs`; the step's graph is freed."""
    pairs = [(o, c) for o, c in zip(outputs, cotangents, strict=True) if c is not None and o.requires_grad]
    wanted = [t for t in inputs if t.requires_grad] + list(leaves.values())
    found = torch.autograd.grad([o for o, _ in pairs], wanted, [c for _, c in pairs], allow_unused=True)
    for (name, _), grad in zip(leaves.items(), found[len(wanted) - len(leaves) :], strict=True):
        if grad is not None:
            grads[name] += grad
    states = iter(found[: len(wanted) - len(leaves)])
    return [next(states) if t.requires_grad else None for t in inputs]
