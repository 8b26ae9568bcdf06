"""The StyleGAN2 discriminator: residual, with the deviation within the batch as one more channel.

Tensors have the names that rosinality's implementation gives them, so a ``d`` state dict of it loads as it is.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gencompress.domains.stylegan.config import DiscriminatorConfig
from gencompress.domains.stylegan.fir import Blur
from gencompress.domains.stylegan.layers import ROOT2, Activation, EqualConv2d, EqualLinear, wide
from gencompress.domains.stylegan.pretrained import Pretrained


class ConvLayer(nn.Sequential):
    """Convolution and activation, with the filter before it where the size is halved.

    Args:
        inputs: channels in.
        outputs: channels out.
        size: k of the kernel.
        downsample: halve the size.
        clamp: bound of the activations.
    """

    def __init__(
        self, inputs: int, outputs: int, size: int, downsample: bool = False, clamp: float | None = None
    ) -> None:
        blur = [Blur(pad=2)] if downsample else []
        conv = EqualConv2d(inputs, outputs, size, stride=2 if downsample else 1)
        super().__init__(*blur, conv, Activation(outputs, clamp))

    def forward(self, x: Tensor) -> Tensor:
        """[N, inputs, H, W] -> [N, outputs, H or H / 2, ...]."""
        *blur, conv, activate = self
        y: Tensor = activate(conv(blur[0](x) if blur else x, ROOT2))
        return y


class Shortcut(nn.Sequential):
    """The filter, every second pixel, and a convolution 1 x 1 without bias."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(Blur(pad=1), EqualConv2d(inputs, outputs, 1))

    def forward(self, x: Tensor) -> Tensor:
        """[N, inputs, H, W] -> [N, outputs, H / 2, W / 2]."""
        blur, conv = self
        y: Tensor = conv(blur(x, stride=2))
        return y


class ResBlock(nn.Module):
    """Two convolutions, the second one halving the size, beside a shortcut."""

    def __init__(self, inputs: int, outputs: int, clamp: float | None = None) -> None:
        super().__init__()
        self.conv1 = ConvLayer(inputs, inputs, 3, clamp=clamp)
        self.conv2 = ConvLayer(inputs, outputs, 3, downsample=True, clamp=clamp)
        self.skip = Shortcut(inputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """[N, inputs, H, W] -> [N, outputs, H / 2, W / 2]."""
        y: Tensor = (self.conv2(self.conv1(x)) + self.skip(x)) / ROOT2
        return y


class Discriminator(Pretrained[DiscriminatorConfig]):
    """Pictures to logits, high for real ones.

    Args:
        config: sizes.
    """

    config_class = DiscriminatorConfig

    def __init__(self, config: DiscriminatorConfig) -> None:
        super().__init__()
        self.config = config
        c, clamp = config.channels, config.clamp
        blocks = [ResBlock(c[i], c[i + 1], clamp) for i in range(len(c) - 1)]
        self.convs = nn.Sequential(ConvLayer(3, c[0], 1, clamp=clamp), *blocks)
        self.final_conv = ConvLayer(c[-1] + 1, c[-1], 3, clamp=clamp)
        self.final_linear = nn.Sequential(EqualLinear(c[-1] * 16, c[-1], activate=True), EqualLinear(c[-1], 1))

    def forward(self, pictures: Tensor) -> Tensor:
        """[N, 3, resolution, resolution] -> [N, 1]; N is at most `stddev_group`, or a multiple of it."""
        x = self.final_conv(with_deviation(self.convs(pictures), self.config.stddev_group))
        logits: Tensor = self.final_linear(x.flatten(1))
        return logits


def with_deviation(x: Tensor, group: int) -> Tensor:
    """[N, C, H, W] -> [N, C + 1, H, W]: how much features differ within groups of samples, as one more channel.

    Sample i is in the group of the samples i modulo N / `group` (Karras et al. 2017, arXiv 1710.10196, section 3).
    """
    groups = wide(x).reshape(min(len(x), group), -1, *x.shape[1:])
    deviation = (groups.var(0, correction=0) + 1e-8).sqrt().mean((1, 2, 3))
    extra = deviation.repeat(len(groups))[:, None, None, None].expand(-1, 1, *x.shape[2:])
    return torch.cat([x, extra.to(x.dtype)], dim=1)
