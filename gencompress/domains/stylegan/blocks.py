"""The two kinds of blocks of the generator: a convolution in a style, and the step to RGB."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gencompress.domains.stylegan.fir import Upsample
from gencompress.domains.stylegan.layers import ROOT2, Activation, Noise, normal, wide
from gencompress.domains.stylegan.modulation import ModulatedConv2d


class ConstantInput(nn.Module):
    """The learned constant that every picture starts from."""

    def __init__(self, channels: int, size: int = 4) -> None:
        super().__init__()
        self.input = nn.Parameter(normal(1, channels, size, size))

    def forward(self, batch: int) -> Tensor:
        """The constant, `batch` times: [batch, channels, size, size].

        All layers keep its memory format. Channels last makes pictures on CPUs faster (256 px at four samples: by a
        fifth dense and by 40 % with a third of the channels), but gradients slower.
        """
        out = self.input.expand(batch, -1, -1, -1)
        if out.device.type == "cpu" and not torch.is_grad_enabled():
            return out.contiguous(memory_format=torch.channels_last)
        return out


class StyledConv(nn.Module):
    """Modulated convolution 3 x 3, noise, bias, activation.

    Args:
        inputs: channels in.
        outputs: channels out.
        style_dim: components of w.
        upsample: double the size.
        clamp: bound of the activations.
    """

    def __init__(
        self, inputs: int, outputs: int, style_dim: int, upsample: bool = False, clamp: float | None = None
    ) -> None:
        super().__init__()
        self.conv = ModulatedConv2d(inputs, outputs, 3, style_dim, upsample=upsample)
        self.noise = Noise()
        self.activate = Activation(outputs, clamp)

    def forward(self, x: Tensor, w: Tensor, noise: Tensor | None) -> Tensor:
        """[N, inputs, H, W], w [N, style_dim], noise [1 or N, 1, ...] or None -> [N, outputs, H or 2 H, ...]."""
        y = self.conv(x, w, ROOT2)
        if noise is not None:
            y = self.noise(y, noise, ROOT2)
        return self.activate(y)


class ToRGB(nn.Module):
    """A modulated convolution 1 x 1 without norm, added to the picture so far, which is doubled in size.

    Args:
        inputs: channels in.
        style_dim: components of w.
        upsample: whether there is a picture so far.
        clamp: bound of what is added.
    """

    def __init__(self, inputs: int, style_dim: int, upsample: bool = True, clamp: float | None = None) -> None:
        super().__init__()
        self.clamp = clamp
        self.conv = ModulatedConv2d(inputs, 3, 1, style_dim, demodulate=False)
        self.bias = nn.Parameter(torch.zeros(1, 3, 1, 1))
        self.upsample = Upsample() if upsample else None

    def forward(self, x: Tensor, w: Tensor, picture: Tensor | None) -> Tensor:
        """[N, inputs, H, W] and the picture so far [N, 3, H / 2, W / 2] -> [N, 3, H, W], in fp32 or wider."""
        y = wide(self.conv(x, w))
        y = y + self.bias.to(y.dtype)
        if self.clamp is not None:
            y = y.clamp(-self.clamp, self.clamp)
        return y if self.upsample is None or picture is None else y + self.upsample(picture)
