"""A generator as a calibration subject: its pictures of latents, and what its discriminator thinks of them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from gencompress.core.group import Group, Slice
from gencompress.domains.stylegan.load import Networks
from gencompress.domains.stylegan.model import Generator
from gencompress.errors import ModelError

_STRIDE = 1_000_003  # between the seeds of two runs


class StyleGanSubject:
    """What importance criteria ask of a generator.

    Args:
        networks: the generator, and for `losses` its discriminator.
        seed: of the latents.
    """

    def __init__(self, networks: Networks, seed: int = 0) -> None:
        self.module: Generator = networks.generator
        self.discriminator, self.seed = networks.discriminator, seed

    @torch.no_grad()
    def latents(self, index: int, size: int) -> Tensor:
        """The w of the `index`-th batch of `size` samples [size, style_dim]."""
        generator = torch.Generator().manual_seed(self.seed * _STRIDE + index)
        z = torch.randn(size, self.module.config.style_dim, generator=generator)
        return self.module.mapping(z.to(self.module.latent_avg.device))

    def pictures(self, latents: Tensor) -> Tensor:
        """Pictures of w, with the generator's own noise."""
        return self.module(latents, space="w")

    def reader(self, group: Group) -> Slice:
        """The inputs of the next convolution; of the last feature set, those of the step to RGB."""
        return next(s for s in group.slices if s.dim == 2)

    def losses(self, index: int, size: int) -> Tensor:
        """Non-saturating loss of the generator for every sample [size], the training loss that Taylor scores need.

        ModelError if there is no discriminator.
        """
        if self.discriminator is None:
            raise ModelError("there is no discriminator beside the generator, so its training loss is unknown")
        return F.softplus(-self.discriminator(self.pictures(self.latents(index, size))).flatten())
