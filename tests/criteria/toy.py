"""A small iterated map with gates, whose every derivative can be written down: the subject of the criteria's tests."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from gencompress.core.cost import CostModel
from gencompress.core.group import Group, Groups, Site, Slice, shapes_of

WIDTH, FIRST, SECOND = 4, 6, 5


class Net(nn.Module):
    """Two hidden layers; the units of both can go."""

    def __init__(self, seed: int = 0):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.enter = nn.Linear(WIDTH, FIRST)
            self.middle = nn.Linear(FIRST, SECOND)
            self.leave = nn.Linear(SECOND, WIDTH, bias=False)
        self.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return self.leave(torch.tanh(self.middle(torch.tanh(self.enter(x)))))

    def gated_by_hand(self, x: Tensor, first: Tensor, second: Tensor) -> Tensor:
        """The forward with gates [B, size] or [size], written out without hooks."""
        hidden = first * torch.tanh(x @ self.enter.weight.T + self.enter.bias)
        hidden = second * torch.tanh(hidden @ self.middle.weight.T + self.middle.bias)
        return hidden @ self.leave.weight.T

    def groups(self) -> Groups:
        first = Group(
            "first",
            "ffn",
            FIRST,
            (Slice("enter.weight", 0), Slice("enter.bias", 0), Slice("middle.weight", 1)),
            (Site("middle"),),
        )
        second = Group(
            "second",
            "ffn",
            SECOND,
            (Slice("middle.weight", 0), Slice("middle.bias", 0), Slice("leave.weight", 1)),
            (Site("leave"),),
        )
        return Groups((first, second))

    def cost(self, groups: Groups | None = None) -> CostModel:
        return CostModel(groups or self.groups(), shapes_of(dict(self.named_parameters())))


class Run:
    """``x <- x + net(x + i) / steps``, with a second state tensor that a multi-step sampler would have."""

    def __init__(self, module: Net, steps: int = 3):
        self.module, self.steps = module, steps

    def start(self, batch: Tensor) -> tuple[Tensor, ...]:
        return batch, torch.zeros_like(batch)

    def step(self, i: int, state: tuple[Tensor, ...], batch: Tensor) -> tuple[Tensor, ...]:
        return self.advance(i, state, self.module)

    def advance(self, i: int, state: tuple[Tensor, ...], net: Callable[[Tensor], Tensor]) -> tuple[Tensor, ...]:
        x, before = state
        slope = net(x + 0.3 * i)
        return x + (slope + 0.5 * before) / self.steps, slope


class ToySubject:
    """Calibration data from seeds. ``same`` gives every sample the same start."""

    def __init__(self, module: Net | None = None, steps: int = 3, same: bool = False):
        self.module = module or Net()
        self.rollout = Run(self.module, steps)
        self.same = same

    def trajectories(self, index: int, size: int) -> Tensor:
        if self.same:
            return torch.randn(1, WIDTH, generator=torch.Generator().manual_seed(7)).repeat(size, 1)
        generator = torch.Generator().manual_seed(1000 + index)
        return torch.randn(size, WIDTH, generator=generator)

    def losses(self, index: int, size: int) -> Tensor:
        return self.loss_of(self.module, index, size)

    def loss_of(self, net: Callable[[Tensor], Tensor], index: int, size: int) -> Tensor:
        x = self.trajectories(index, size)
        return (net(x) - x.flip(-1)).square().mean(-1)

    def final(self, start: Tensor, first: Tensor, second: Tensor) -> Tensor:
        """Final latents under gates, in plain autograd without hooks or checkpointing."""
        net, state = self.rollout.module, self.rollout.start(start)
        for i in range(self.rollout.steps):
            state = self.rollout.advance(i, state, lambda x: net.gated_by_hand(x, first, second))
        return state[0]


class Recorder:
    """A stage context that keeps what it is told; ``stop_after`` asks to stop after that many steps in all."""

    def __init__(self, stop_after: int | None = None, saved: Any = None):
        self.stop_after, self.saved = stop_after, saved
        self.steps: list[tuple[int, int]] = []
        self.figures: list[Mapping[str, float]] = []

    @property
    def stop_requested(self) -> bool:
        return self.stop_after is not None and bool(self.steps) and self.steps[-1][0] >= self.stop_after

    def progress(self, step: int, total: int, **figures: float) -> None:
        self.steps.append((step, total))
        self.figures.append(figures)

    def save_checkpoint(self, step: int, tensors: Mapping[str, Tensor], meta: Any = None) -> None:
        from gencompress.run import Checkpoint

        self.saved = Checkpoint(step, {name: t.clone() for name, t in tensors.items()}, dict(meta or {}))

    def load_checkpoint(self) -> Any:
        return self.saved

    def stop_if_requested(self) -> None:
        from gencompress.errors import Interrupted

        if self.stop_requested:
            raise Interrupted("stopped")


def frozen_copy(module: nn.Module) -> dict[str, Tensor]:
    """What a criterion must leave as it is: weights, and whether they want gradients."""
    return {name: p.detach().clone() for name, p in module.named_parameters()}


def untouched(module: nn.Module, before: Mapping[str, Tensor]) -> bool:
    """Weights, gradients and hooks are those of before."""
    parameters = dict(module.named_parameters())
    hooks = [h for m in module.modules() for h in (*m._forward_hooks, *m._forward_pre_hooks)]
    same = all(torch.equal(parameters[n], before[n]) and parameters[n].grad is None for n in before)
    return same and parameters.keys() == before.keys() and not hooks
