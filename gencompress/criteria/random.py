"""Random scores: the baseline that every criterion must beat at equal budget."""

from __future__ import annotations

import torch
from torch import Tensor

from gencompress.core.group import Groups


def random_scores(groups: Groups, seed: int = 0) -> dict[str, Tensor]:
    """Uniform scores in [0, 1) by group, [size], from one generator seeded with `seed`."""
    generator = torch.Generator().manual_seed(seed)
    return {g.name: torch.rand(g.size, generator=generator) for g in groups}
