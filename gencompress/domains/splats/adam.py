"""Adam with a step size for every row and column, that leaves alone the rows that a view did not show."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gencompress.kernels.compiled import Floats, jit, parallel

BETA1, BETA2, EPS = 0.9, 0.99, 1e-15
_GRAIN = 1024


@dataclass(frozen=True, eq=False)
class Moments:
    """First and second moment of the gradient, of the parameter's shape, and steps taken by every row [N]."""

    mean: Tensor
    square: Tensor
    steps: Tensor

    @classmethod
    def of(cls, parameter: Tensor) -> Moments:
        """Before the first step."""
        steps = torch.zeros(len(parameter), dtype=torch.int32, device=parameter.device)
        return cls(torch.zeros_like(parameter), torch.zeros_like(parameter), steps)


@torch.no_grad()
def adam_step_(parameter: Tensor, gradient: Tensor, moments: Moments, rows: Tensor, columns: Tensor) -> None:
    """One step of Adam (arXiv 1412.6980) on the rows of `parameter` [N, D] whose gradient is not all zero.

    A splat outside of a view has no gradient there; were its moments to decay all the same, it would drift on old
    momentum. The bias correction counts a row's own steps.

    Args:
        parameter: changed in place [N, D].
        gradient: [N, D].
        moments: changed in place.
        rows: factor of the step size [N].
        columns: step size of each column [D].
    """
    if parameter.device.type != "cpu":
        step_anywhere_(parameter, gradient, moments, rows, columns)
        return
    tensors = (parameter, gradient.contiguous(), moments.mean, moments.square, moments.steps, rows, columns)
    parallel(_step, len(parameter), *(t.numpy() for t in tensors), grain=_GRAIN)


def step_anywhere_(parameter: Tensor, gradient: Tensor, moments: Moments, rows: Tensor, columns: Tensor) -> None:
    """The same in torch, for any device."""
    seen = gradient.ne(0).any(dim=1)
    moments.steps.add_(seen)
    steps, seen = moments.steps[:, None].float(), seen[:, None]
    moments.mean.copy_(torch.where(seen, moments.mean.lerp(gradient, 1 - BETA1), moments.mean))
    moments.square.copy_(torch.where(seen, moments.square.lerp(gradient.square(), 1 - BETA2), moments.square))
    scale = (1 - BETA2**steps).sqrt() / (1 - BETA1**steps)
    change = rows[:, None] * columns * scale * moments.mean / (moments.square.sqrt() + EPS)
    parameter.sub_(torch.where(seen, change, torch.zeros_like(change)))


@jit
def _step(
    start: int,
    stop: int,
    parameter: Floats,
    gradient: Floats,
    mean: Floats,
    square: Floats,
    steps: NDArray[np.int32],
    rows: Floats,
    columns: Floats,
) -> None:
    width = parameter.shape[1]
    for n in range(start, stop):
        seen = False
        for d in range(width):
            seen = seen or gradient[n, d] != 0
        if not seen:
            continue
        steps[n] += 1
        scale = rows[n] * math.sqrt(1 - BETA2 ** steps[n]) / (1 - BETA1 ** steps[n])
        for d in range(width):
            g = gradient[n, d]
            m = np.float32(BETA1) * mean[n, d] + np.float32(1 - BETA1) * g
            v = np.float32(BETA2) * square[n, d] + np.float32(1 - BETA2) * g * g
            mean[n, d], square[n, d] = m, v
            parameter[n, d] -= np.float32(scale) * columns[d] * m / (np.sqrt(v) + np.float32(EPS))
