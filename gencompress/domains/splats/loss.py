"""How far a render is from its target: the absolute difference, and if asked for the structure, too."""

from __future__ import annotations

from torch import Tensor

from gencompress.kernels.window import windowed

_C1, _C2 = 0.01**2, 0.03**2  # Wang et al. 2004, section III-B


def image_loss(image: Tensor, target: Tensor, ssim: float) -> Tensor:
    """``(1 - ssim) * L1 + ssim * (1 - SSIM)`` of two images [H, W, 3] (Kerbl et al. 2023, eq. 7)."""
    absolute = (image - target).abs().mean()
    if ssim == 0:
        return absolute
    return (1 - ssim) * absolute + ssim * (1 - similarity(image, target))


def similarity(image: Tensor, target: Tensor) -> Tensor:
    """Mean structural similarity of two images [H, W, 3] in [0, 1], zero beyond the border; differentiable."""
    mean_a, mean_b = windowed(image), windowed(target)
    var_a = windowed(image * image) - mean_a.square()
    var_b = windowed(target * target) - mean_b.square()
    joint = windowed(image * target) - mean_a * mean_b
    upper = (2 * mean_a * mean_b + _C1) * (2 * joint + _C2)
    return (upper / ((mean_a.square() + mean_b.square() + _C1) * (var_a + var_b + _C2))).mean()
