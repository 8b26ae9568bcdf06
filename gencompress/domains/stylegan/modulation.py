"""Modulated convolution (StyleGAN2, section 2.2): per sample, weights are scaled by a style, and by their norm."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gencompress.domains.stylegan.fir import Blur
from gencompress.domains.stylegan.layers import EqualLinear, full_precision, normal, wide

_EPS = 1e-8  # added to the unscaled norm, so that it means the same at every width


class ModulatedConv2d(nn.Module):
    """Convolution whose weights are, for every sample, ``W * s / |W * s|`` with a style s of w per input channel.

    Two ways of the same product, exact in real numbers. With weights per sample, a batch is a grouped convolution,
    which was up to 1.5 times as slow on CPUs as one shared convolution of scaled inputs, whose outputs are scaled
    again; but scaling costs two more passes over the activations. So a single sample gets its own weights where they
    are fewer than the activations, and everything else the shared convolution.

    Args:
        inputs: channels in.
        outputs: channels out.
        size: k of the kernel.
        style_dim: components of w.
        demodulate: whether weights are normed; without, they are scaled by ``1 / sqrt(inputs k^2)``.
        upsample: double the size, and filter.
    """

    def __init__(
        self, inputs: int, outputs: int, size: int, style_dim: int, demodulate: bool = True, upsample: bool = False
    ) -> None:
        super().__init__()
        self.demodulate = demodulate
        self.weight = nn.Parameter(normal(1, outputs, inputs, size, size))
        self.modulation = EqualLinear(style_dim, inputs, bias=1.0)
        self.blur = Blur(pad=1, gain=4.0) if upsample else None

    def forward(self, x: Tensor, w: Tensor, gain: float = 1.0) -> Tensor:
        """[N, inputs, H, W] in the style of `w` [N, style_dim] -> [N, outputs, H or 2 H, ...], times `gain`."""
        style = self.modulation(w)
        scale = self._scale(style, gain)
        kernel = self.weight[0]
        if len(x) == 1 and kernel.numel() < x[0].numel() + x[0, 0].numel() * len(kernel):
            with full_precision(x.device):
                own = wide(kernel) * style[0, :, None, None] * scale[0, :, None, None, None]
            return self._convolve(x, own.to(x.dtype))
        # fp16 holds the product only if neither factor is extreme: the size of the style goes to the output
        size = style.detach().abs().amax(1, keepdim=True).clamp_min(1e-12)
        x = x * _per_channel(style / size, x)
        y = self._convolve(x, kernel.to(x.dtype))
        return y * _per_channel(scale * size, y)

    def _scale(self, style: Tensor, gain: float) -> Tensor:
        """What multiplies every output channel [N, O], or all of them [N, 1]."""
        if not self.demodulate:
            return style.new_full((len(style), 1), gain / math.sqrt(self.weight[0, 0].numel()))
        with full_precision(style.device):
            energy = wide(self.weight[0]).square().sum((2, 3))
            return gain * torch.rsqrt(style.square() @ energy.T + _EPS)

    def _convolve(self, x: Tensor, kernel: Tensor) -> Tensor:
        if self.blur is None:
            return F.conv2d(x, kernel, padding=kernel.shape[-1] // 2)
        return self.blur(F.conv_transpose2d(x, kernel.transpose(0, 1), stride=2))


def _per_channel(values: Tensor, like: Tensor) -> Tensor:
    return values.to(like.dtype)[:, :, None, None]
