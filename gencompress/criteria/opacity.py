"""Scores of splats from their own attributes. They need no cameras, and are little better than random numbers."""

from __future__ import annotations

import torch
from torch import Tensor

from gencompress.kernels.splats import Splats

VOLUME_RANK, VOLUME_POWER = 0.9, 0.1  # LightGaussian, arXiv 2311.17245, equation 4


def opacity_scores(splats: Splats) -> dict[str, Tensor]:
    """Opacity: ``{"splats": [N]}`` in [0, 1]."""
    return {"splats": splats.opacities.clone()}


def opacity_volume_scores(splats: Splats) -> dict[str, Tensor]:
    """Opacity times the product of the three standard deviations: ``{"splats": [N]}`` >= 0."""
    return {"splats": splats.opacities * splats.scales.prod(dim=1)}


def light_gaussian_scores(splats: Splats, hits: Tensor | None = None) -> dict[str, Tensor]:
    """LightGaussian's global significance (arXiv 2311.17245): ``{"splats": [N]}`` >= 0.

    ``hits * opacity * (V / V90)^0.1``, with V90 the volume that nine tenths of the splats exceed. The published
    code sums the opacity over all pixels that a splat reaches, not its blend weight.

    Args:
        splats: what is scored.
        hits: pixels that every splat reaches over all views [N]; None leaves the factor out and needs no cameras.
    """
    volumes = splats.scales.prod(dim=1)
    rank = min(len(volumes) - 1, int(VOLUME_RANK * len(volumes)))
    reference = volumes.sort(descending=True).values[rank].clamp_min(torch.finfo(volumes.dtype).tiny)
    scores = splats.opacities * (volumes / reference).pow(VOLUME_POWER)
    return {"splats": scores if hits is None else scores * hits}
