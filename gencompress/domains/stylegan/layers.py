"""Layers with equalised learning rates, and the activation that both networks use.

Weights are stored at unit variance and scaled when used (Karras et al. 2017, arXiv 1710.10196, section 4.1).
"""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ROOT2 = math.sqrt(2)
SLOPE = 0.2


def lrelu(x: Tensor) -> Tensor:
    """Leaky ReLU of slope 0.2, without its gain of sqrt(2)."""
    return F.leaky_relu(x, SLOPE)


def full_precision(device: torch.device) -> AbstractContextManager[Any]:
    """Keep autocast out: styles and what they multiply are small to compute, and overflow in fp16."""
    if torch.amp.is_autocast_available(device.type):
        return torch.autocast(device.type, enabled=False)
    return nullcontext()  # meta


def wide(x: Tensor) -> Tensor:
    """`x` in fp32, or in fp64 if it is that already."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def normal(*shape: int, std: float = 1.0) -> Tensor:
    """Normal numbers; none on the meta device, where any arithmetic makes torch import modules for seconds."""
    empty = torch.empty(shape)
    return empty if empty.is_meta else empty.normal_(std=std)


class PixelNorm(nn.Module):
    """Scale every row of [N, D] to a mean square of 1."""

    def forward(self, z: Tensor) -> Tensor:
        """The scaled rows."""
        return z * torch.rsqrt(z.square().mean(1, keepdim=True) + 1e-8)


class EqualLinear(nn.Module):
    """``x @ (weight * lr_mult / sqrt(inputs)).T + bias * lr_mult``, computed in fp32 or wider.

    Args:
        inputs: features in.
        outputs: features out.
        bias: initial value of the stored bias.
        lr_mult: learning-rate multiplier; stored weights start with a deviation of ``1 / lr_mult``.
        activate: whether leaky ReLU times sqrt(2) follows.
    """

    def __init__(
        self, inputs: int, outputs: int, bias: float = 0.0, lr_mult: float = 1.0, activate: bool = False
    ) -> None:
        super().__init__()
        self.lr_mult, self.activate = lr_mult, activate
        self.weight = nn.Parameter(normal(outputs, inputs, std=1 / lr_mult))
        self.bias = nn.Parameter(torch.full((outputs,), bias))

    def forward(self, x: Tensor) -> Tensor:
        """[N, inputs] -> [N, outputs]."""
        with full_precision(x.device):
            weight = wide(self.weight)
            x = x.to(weight.dtype) * (self.lr_mult / math.sqrt(weight.shape[1]))
            y = F.linear(x, weight, wide(self.bias) * self.lr_mult)
            return lrelu(y) * ROOT2 if self.activate else y


class EqualConv2d(nn.Module):
    """Convolution with weights [O, I, k, k] scaled by ``1 / sqrt(I k^2)``, without bias; padded if it keeps the size.

    Args:
        inputs: channels in.
        outputs: channels out.
        size: k.
        stride: 2 halves the size of an input that was padded before.
    """

    def __init__(self, inputs: int, outputs: int, size: int, stride: int = 1) -> None:
        super().__init__()
        self.stride = stride
        self.padding = size // 2 if stride == 1 else 0
        self.weight = nn.Parameter(normal(outputs, inputs, size, size))

    def forward(self, x: Tensor, gain: float = 1.0) -> Tensor:
        """[N, I, H, W] -> [N, O, ...], times `gain`."""
        scale = gain / math.sqrt(self.weight[0].numel())
        return F.conv2d(x, self.weight * scale, stride=self.stride, padding=self.padding)


class Activation(nn.Module):
    """``clamp(sqrt(2) * lrelu(x + bias))``, a bias per channel.

    Leaky ReLU is homogeneous, so who makes `x` multiplies it with sqrt(2) where that costs nothing.

    Args:
        channels: C.
        clamp: bound of the result, None for none.
    """

    def __init__(self, channels: int, clamp: float | None = None) -> None:
        super().__init__()
        self.clamp = clamp
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """`x` is sqrt(2) times the input of the formula [N, C, H, W], made for this call: it is overwritten."""
        x += (self.bias * ROOT2).to(x.dtype).reshape(1, -1, 1, 1)
        F.leaky_relu_(x, SLOPE)
        return x if self.clamp is None else x.clamp(-self.clamp, self.clamp)


class Noise(nn.Module):
    """Adds noise of one strength per layer."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor, noise: Tensor, gain: float = 1.0) -> Tensor:
        """Add ``gain * weight * noise`` [1 or N, 1, H, W] to `x` [N, C, H, W], in place."""
        x += (noise * (self.weight * gain)).to(x.dtype)
        return x
