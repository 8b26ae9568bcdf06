"""A StyleGAN2 generator with everything the core asks of it: groups, costs, removal, pictures."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from gencompress.core.cost import CostModel, Metric
from gencompress.core.group import Groups
from gencompress.core.plan import Plan, fingerprint
from gencompress.domains.stylegan.costs import cost_model
from gencompress.domains.stylegan.discriminator import Discriminator
from gencompress.domains.stylegan.groups import groups_of
from gencompress.domains.stylegan.load import Networks, load_networks
from gencompress.domains.stylegan.model import Generator
from gencompress.domains.stylegan.removal import remove
from gencompress.domains.stylegan.subject import StyleGanSubject


@dataclass(frozen=True)
class StyleGan:
    """A generator, and the discriminator that it was trained with.

    Args:
        networks: opened by `gencompress.domains.stylegan.load.load_networks`, or built in memory.
        round_to: kept channels are multiples of this where the budget allows.
    """

    networks: Networks
    round_to: int = 1

    @classmethod
    def load(
        cls,
        folder: Path | str,
        dtype: torch.dtype | None = None,
        device: torch.device | str = "cpu",
        round_to: int = 1,
    ) -> StyleGan:
        """Open a folder. Raises as `load_networks` does."""
        return cls(load_networks(folder, dtype, device), round_to)

    @property
    def generator(self) -> Generator:
        """The network that is pruned."""
        return self.networks.generator

    @property
    def discriminator(self) -> Discriminator | None:
        """What recovery trains against; None if there is none."""
        return self.networks.discriminator

    @cached_property
    def groups(self) -> Groups:
        """Prunable groups of the generator."""
        return groups_of(self.generator, round_to=self.round_to)

    @cached_property
    def source(self) -> dict[str, str | None]:
        """Fingerprint of the generator's weights."""
        return fingerprint(self.generator.state_dict())

    def cost(self, metric: Metric, *, filters: bool = True) -> CostModel:
        """Exact cost of the generator for every plan; MACs with or without the low-pass filters."""
        return cost_model(self.generator, self.groups, metric, filters=filters)

    def subject(self, seed: int = 0) -> StyleGanSubject:
        """Calibration data for criteria."""
        return StyleGanSubject(self.networks, seed)

    def prune(self, plan: Plan) -> StyleGan:
        """The same without the channels that `plan` drops, with a discriminator of its own, for recovery trains it.

        Raises as `remove` does.
        """
        small = remove(self.generator, self.groups, plan)
        return replace(self, networks=Networks(small, copy.deepcopy(self.discriminator)))

    def latents(self, seeds: Sequence[int]) -> Tensor:
        """The z of every seed [N, style_dim], the same in any batch and for every generator of one style_dim."""
        dim, device = self.generator.config.style_dim, self.generator.latent_avg.device
        rows = [torch.randn(dim, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
        return torch.stack(rows).to(device)

    @torch.no_grad()
    def images(self, seeds: Sequence[int], batch: int, truncation: float = 1.0) -> Tensor:
        """Pictures of `seeds`, uint8 [N, 3, H, W], made `batch` at a time with the generator's own noise."""
        parts = []
        for start in range(0, len(seeds), batch):
            out = self.generator(self.latents(seeds[start : start + batch]), truncation=truncation)
            parts.append((out * 127.5 + 127.5).round().clamp(0, 255).to(torch.uint8).cpu())
        return torch.cat(parts)
