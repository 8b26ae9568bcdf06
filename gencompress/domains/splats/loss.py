"""How far a render is from its target: the absolute difference, and if asked for the structure, too."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

# Wang et al. 2004, section III-B
_WINDOW, _SIGMA, _C1, _C2 = 11, 1.5, 0.01**2, 0.03**2


def image_loss(image: Tensor, target: Tensor, ssim: float) -> Tensor:
    """``(1 - ssim) * L1 + ssim * (1 - SSIM)`` of two images [H, W, 3] (Kerbl et al. 2023, eq. 7)."""
    absolute = (image - target).abs().mean()
    if ssim == 0:
        return absolute
    return (1 - ssim) * absolute + ssim * (1 - similarity(image, target))


def similarity(image: Tensor, target: Tensor) -> Tensor:
    """Mean structural similarity of two images [H, W, 3] in [0, 1], zero beyond the border; differentiable."""
    a, b = (t.permute(2, 0, 1)[:, None] for t in (image, target))
    mean_a, mean_b = _blurred(a), _blurred(b)
    var_a, var_b = _blurred(a * a) - mean_a.square(), _blurred(b * b) - mean_b.square()
    joint = _blurred(a * b) - mean_a * mean_b
    upper = (2 * mean_a * mean_b + _C1) * (2 * joint + _C2)
    return (upper / ((mean_a.square() + mean_b.square() + _C1) * (var_a + var_b + _C2))).mean()


def _blurred(planes: Tensor) -> Tensor:
    """Planes [C, 1, H, W] under the Gaussian window, by columns and by rows."""
    half = _WINDOW // 2
    weights = torch.tensor([math.exp(-(i**2) / (2 * _SIGMA**2)) for i in range(-half, half + 1)])
    window = (weights / weights.sum()).to(planes)
    across = F.conv2d(planes, window[None, None, None, :], padding=(0, half))
    return F.conv2d(across, window[None, None, :, None], padding=(half, 0))
