"""Small StyleGAN2 networks with random weights; nothing of them is at its initial value."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gencompress.domains.stylegan.config import DiscriminatorConfig, GeneratorConfig
from gencompress.domains.stylegan.discriminator import Discriminator
from gencompress.domains.stylegan.model import Generator

CHANNELS = (7, 6, 8, 5, 6, 4)  # 16 px
DIM = 10


def shaken(module: nn.Module, amount: float = 0.2) -> nn.Module:
    """`module`, frozen, with every parameter off its initial value."""
    for parameter in module.eval().requires_grad_(False).parameters():
        parameter += amount * torch.randn_like(parameter)
    return module


def tiny_generator(channels: tuple[int, ...] = CHANNELS, clamp: float | None = None, seed: int = 0) -> Generator:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = GeneratorConfig(2 ** (len(channels) // 2 + 1), channels, clamp, style_dim=DIM, n_mlp=2)
        generator = Generator(config)
        shaken(generator)
        generator.latent_avg.normal_()
    return generator


def tiny_discriminator(
    channels: tuple[int, ...] = (4, 6, 5), clamp: float | None = None, seed: int = 0
) -> Discriminator:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        discriminator = Discriminator(DiscriminatorConfig(2 ** (len(channels) + 1), channels, clamp))
        shaken(discriminator)
    return discriminator


def normal(*shape: int, seed: int = 1, dtype: torch.dtype = torch.float32) -> Tensor:
    """The same normal numbers on every call."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)
