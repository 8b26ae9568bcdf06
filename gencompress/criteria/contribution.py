"""Scores of splats by their blend weights alpha * transmittance in the views of a rig."""

from __future__ import annotations

from torch import Tensor

from gencompress.formats.cameras import Cameras
from gencompress.kernels.splats import Splats


def blend_sum_scores(splats: Splats, cameras: Cameras) -> dict[str, Tensor]:
    """Sum of a splat's blend weights over all pixels of all views (Mini-Splatting, arXiv 2403.14166): [N] >= 0."""
    return {"splats": splats.contributions(cameras).blend_sum}


def blend_max_scores(splats: Splats, cameras: Cameras) -> dict[str, Tensor]:
    """Largest blend weight of a splat in any pixel of any view (RadSplat, arXiv 2403.13806): [N] in [0, 1]."""
    return {"splats": splats.contributions(cameras).blend_max}
