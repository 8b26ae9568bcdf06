"""PSNR and SSIM to a reference at equal seeds, per image."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from gencompress.errors import DataError, NumericsError
from gencompress.metrics.statistics import Estimate

PSNR_CAP_DB = 100.0  # an MSE below 1e-10 is rounding noise; the cap keeps means, differences and JSON finite
SSIM_WINDOW, SSIM_SIGMA, SSIM_K1, SSIM_K2 = 11, 1.5, 0.01, 0.03  # Wang et al. 2004, section III-B
_SLACK = 1e-4  # how far a float image may leave [0, 1] by rounding
_BATCH = 32


@dataclass(frozen=True)
class ImageQuality:
    """PSNR and SSIM of images against a reference, with the protocol that made them.

    Args:
        psnr_db: 10 log10(1 / MSE) over all pixels and channels of an image, capped at `PSNR_CAP_DB`; larger is closer.
        ssim: structural similarity, at most 1; larger is closer.
        protocol: range, input type, window and cap, plain JSON.
    """

    psnr_db: Estimate
    ssim: Estimate
    protocol: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        """``{"psnr_db": {...}, "ssim": {...}, "protocol": {...}}``."""
        return {"psnr_db": self.psnr_db.to_json(), "ssim": self.ssim.to_json(), "protocol": self.protocol}


def image_quality(reference: Tensor, images: Tensor) -> ImageQuality:
    """PSNR and SSIM of every image against the reference image at the same place.

    Computed in float64 on [0, 1]. SSIM (Wang et al. 2004): Gaussian window 11 x 11, sigma 1.5, k1 0.01, k2 0.03, mean
    over channels and over all pixels, the border mirrored as torchmetrics does it (the paper leaves the border out,
    which on 32-pixel images would leave out half of the picture).

    Args:
        reference: [N, C, H, W] with C = 1 or 3: uint8 in [0, 255] or floating in [0, 1].
        images: the same shape; uint8 and floating may be mixed.

    Raises:
        DataError: shapes differ, or values are outside the range.
        NumericsError: an image holds NaN.
    """
    if tuple(reference.shape) != tuple(images.shape):
        raise DataError(f"reference {tuple(reference.shape)} and images {tuple(images.shape)} differ in shape")
    first, second = unit_range(reference, "reference"), unit_range(images, "images")
    if min(first.shape[-2:]) < SSIM_WINDOW:
        raise DataError(
            f"SSIM needs images of {SSIM_WINDOW} x {SSIM_WINDOW} pixels or more, got {tuple(first.shape[-2:])}"
        )
    psnr, ssim = [], []
    for a, b in zip(first.split(_BATCH), second.split(_BATCH), strict=True):
        psnr.append(_psnr(a.double(), b.double()))
        ssim.append(_ssim(a.double(), b.double()))
    protocol = {
        "data_range": 1.0,
        "input": "uint8" if reference.dtype == images.dtype == torch.uint8 else "float",
        "psnr_cap_db": PSNR_CAP_DB,
        "ssim": f"Gaussian {SSIM_WINDOW}x{SSIM_WINDOW}, sigma {SSIM_SIGMA}, k {SSIM_K1} {SSIM_K2}, mirrored border",
        "mean": "of per-image values",
    }
    return ImageQuality(
        Estimate.of(torch.cat(psnr).cpu().numpy(), "psnr_db"),
        Estimate.of(torch.cat(ssim).cpu().numpy(), "ssim"),
        protocol,
    )


def unit_range(images: Tensor, name: str) -> Tensor:
    """A checked copy of `images` as float32 or float64 in [0, 1], [N, C, H, W].

    Raises:
        DataError: not four dimensions, not 1 or 3 channels, empty, or outside [0, 1].
        NumericsError: NaN or infinity inside.
    """
    if images.ndim != 4 or images.shape[1] not in (1, 3) or 0 in images.shape:
        raise DataError(f"{name}: expected [N, 3, H, W] or [N, 1, H, W], channels first, got {tuple(images.shape)}")
    if images.dtype == torch.uint8:
        return images.float() / 255
    if not images.is_floating_point():
        raise DataError(f"{name}: expected uint8 in [0, 255] or floating in [0, 1], got {images.dtype}")
    if not torch.isfinite(images).all():
        raise NumericsError(f"{name}: an image holds NaN or infinity")
    low, high = float(images.min()), float(images.max())
    if low < -_SLACK or high > 1 + _SLACK:
        raise DataError(f"{name}: values lie in [{low:.4g}, {high:.4g}]; floating images must be in [0, 1]")
    return images.to(torch.promote_types(images.dtype, torch.float32)).clamp(0, 1)


def _psnr(a: Tensor, b: Tensor) -> Tensor:
    """PSNR per image, [N]."""
    return (-10 * (a - b).square().mean(dim=(1, 2, 3)).log10()).clamp(max=PSNR_CAP_DB)


def _ssim(a: Tensor, b: Tensor) -> Tensor:
    """SSIM per image, [N]: torchmetrics' map, by two passes of the window instead of its square.

    One image at a time, which stays in the cache. For twelve of 400 pixels a square window in float64 would unfold
    10 GB.
    """
    return torch.stack([_ssim_map(x, y).mean() for x, y in zip(a.split(1), b.split(1), strict=True)])


def _ssim_map(a: Tensor, b: Tensor) -> Tensor:
    """SSIM of every pixel [1, C, H, W]."""
    c1, c2 = SSIM_K1**2, SSIM_K2**2
    mean_a, mean_b = _blurred(a), _blurred(b)
    var_a = (_blurred(a * a) - mean_a.square()).clamp_min_(0)
    var_b = (_blurred(b * b) - mean_b.square()).clamp_min_(0)
    covariance = _blurred(a * b) - mean_a * mean_b
    upper = (2 * mean_a * mean_b + c1) * (2 * covariance + c2)
    return upper / ((mean_a.square() + mean_b.square() + c1) * (var_a + var_b + c2))


def _blurred(images: Tensor) -> Tensor:
    """Images [N, C, H, W] under the Gaussian window, the border mirrored."""
    half = SSIM_WINDOW // 2
    window = [math.exp(-(offset**2) / (2 * SSIM_SIGMA**2)) for offset in range(-half, half + 1)]
    weights = [value / sum(window) for value in window]
    padded = F.pad(images, (half, half, half, half), mode="reflect")
    for dim in (2, 3):
        length = images.shape[dim]
        out = padded.narrow(dim, 0, length) * weights[0]
        for i, weight in enumerate(weights[1:], 1):
            out.add_(padded.narrow(dim, i, length), alpha=weight)
        padded = out
    return padded
