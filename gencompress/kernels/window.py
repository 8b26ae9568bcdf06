"""Images averaged under a Gaussian window, with gradient: what structural similarity is made of, for training."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from gencompress.kernels.compiled import jit, parallel

SIZE, SIGMA = 11, 1.5  # Wang et al. 2004, section III-B
_HALF = SIZE // 2
_WEIGHTS = torch.tensor([math.exp(-((i - _HALF) ** 2) / (2 * SIGMA**2)) for i in range(SIZE)], dtype=torch.float64)
_WEIGHTS /= _WEIGHTS.sum()
_GRAIN = 16  # rows


def windowed(image: Tensor) -> Tensor:
    """Weighted mean around every pixel of `image` [H, W, C], by channel; zero beyond the border; differentiable."""
    return _Windowed.apply(image)


class _Windowed(torch.autograd.Function):
    """The window is symmetric, so that the operator is its own adjoint."""

    @staticmethod
    def forward(ctx: Any, image: Tensor) -> Tensor:
        return _mean(image)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return _mean(gradients[0])


def _mean(image: Tensor) -> Tensor:
    if image.device.type != "cpu":
        return mean_anywhere(image)
    height, width, channels = image.shape
    values = image.detach().contiguous().numpy().reshape(height, width * channels)
    across, out = np.empty_like(values), np.empty_like(values)
    weights = _WEIGHTS.to(image.dtype).numpy()
    parallel(_across, height, values, weights, channels, across, grain=_GRAIN)
    parallel(_down, height, across, weights, out, grain=_GRAIN)
    return torch.from_numpy(out.reshape(height, width, channels))


def mean_anywhere(image: Tensor) -> Tensor:
    """The same in torch, for any device."""
    planes, weights = image.permute(2, 0, 1)[:, None], _WEIGHTS.to(image)
    across = F.conv2d(planes, weights[None, None, None, :], padding=(0, _HALF))
    return F.conv2d(across, weights[None, None, :, None], padding=(_HALF, 0))[:, 0].permute(1, 2, 0)


@jit
def _across(
    start: int,
    stop: int,
    image: NDArray[np.floating],
    weights: NDArray[np.floating],
    channels: int,
    out: NDArray[np.floating],
) -> None:
    """Rows [H, W * C] averaged along themselves."""
    width = image.shape[1]
    for y in range(start, stop):
        source, row = image[y], out[y]
        row[:] = 0
        for k in range(len(weights)):
            weight, shift = weights[k], (k - len(weights) // 2) * channels
            for x in range(max(0, -shift), min(width, width - shift)):
                row[x] += weight * source[x + shift]


@jit
def _down(
    start: int, stop: int, image: NDArray[np.floating], weights: NDArray[np.floating], out: NDArray[np.floating]
) -> None:
    """The means of rows around each."""
    height, width = image.shape
    for y in range(start, stop):
        row = out[y]
        row[:] = 0
        for k in range(len(weights)):
            other = y + k - len(weights) // 2
            if 0 <= other < height:
                weight, source = weights[k], image[other]
                for x in range(width):
                    row[x] += weight * source[x]
