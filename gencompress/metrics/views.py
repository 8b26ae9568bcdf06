"""View synthesis by the "nerf" protocol of nerfbaselines (Kulhanek and Sattler, arXiv 2406.17345), its rules exactly.

Both pictures become 8 bits first: alpha over the scene's background (black where none is given), linear light to sRGB
where the data set is linear, times 255 and *truncated*, as nerfbaselines 1.2.12 does. A mask multiplies both. PSNR and
SSIM are computed per picture and averaged over pictures.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from gencompress.errors import DataError, NumericsError

PROTOCOL, PROTOCOL_VERSION = "nerf", "1.2.12"
HOLD = 8  # every 8th picture in the order of the names is a test picture (Mip-NeRF 360)
_WINDOW, _SIGMA, _K1, _K2 = 11, 1.5, 0.01, 0.03
Image = NDArray[Any]
Space = Literal["srgb", "linear"]


@dataclass(frozen=True)
class ViewScores:
    """Figures of every test view, in the order of the views.

    Args:
        per_view: metric name to one number per view; ``psnr`` in dB, ``ssim``, ``mae``, ``mse``, and further ones.
    """

    per_view: Mapping[str, tuple[float, ...]]

    @property
    def means(self) -> dict[str, float]:
        """Mean over views of every metric."""
        return {name: float(np.mean(values)) for name, values in self.per_view.items()}


def held_out_views(names: Sequence[str]) -> list[str]:
    """Every 8th name in sorted order, beginning with the first: the test split of Mip-NeRF 360 and its followers."""
    return sorted(names)[::HOLD]


def score_views(
    predictions: Iterable[Image],
    truths: Iterable[Image],
    *,
    background: Sequence[float] | None = None,
    color_space: Space = "srgb",
    masks: Iterable[Image] | None = None,
) -> ViewScores:
    """Score pairs of pictures one after the other; only one pair is held at a time.

    Args:
        predictions: [H, W, 3] or [H, W, 4], uint8 or floating in [0, 1].
        truths: the same sizes, in the same order.
        background: colour in [0, 1] behind transparent pixels; None is black.
        color_space: of both; ``linear`` is converted to sRGB.
        masks: [H, W], uint8 or floating, multiplied into both pictures.

    Raises:
        DataError: no pictures, a size or type that does not fit, or lists of different length.
        NumericsError: NaN inside.
    """
    rows: list[dict[str, float]] = []
    streams: list[Iterable[Image]] = [predictions, truths, *([masks] if masks is not None else [])]
    try:
        for number, (prediction, truth, *mask) in enumerate(zip(*streams, strict=True)):
            first = to_srgb8(prediction, background, color_space, f"prediction {number}")
            second = to_srgb8(truth, background, color_space, f"ground truth {number}")
            rows.append(score_view(first, second, mask[0] if mask else None))
    except ValueError as error:
        if "zip()" not in str(error):
            raise
        raise DataError("there are not as many predictions as ground-truth pictures or masks") from error
    if not rows:
        raise DataError("no views to score")
    return ViewScores({name: tuple(row[name] for row in rows) for name in rows[0]})


def score_view(prediction: Image, truth: Image, mask: Image | None = None) -> dict[str, float]:
    """``psnr`` (dB), ``ssim``, ``mae`` and ``mse`` of one 8-bit sRGB picture [H, W, 3] to another.

    Identical pictures have infinite PSNR in the protocol; here as there it is left to the mean to say so.
    """
    if prediction.shape != truth.shape:
        raise DataError(f"a prediction of {prediction.shape} and a ground truth of {truth.shape} do not fit")
    a, b = (x.astype(np.float32) / np.float32(255) for x in (prediction, truth))
    if mask is not None:
        factor = _unit(mask).astype(np.float32)[..., None]
        a, b = a * factor, b * factor
    difference = a - b
    mse = float(np.mean(difference**2))
    with np.errstate(divide="ignore"):
        psnr = float(-10 * np.log10(np.float32(mse)))
    return {"psnr": psnr, "ssim": ssim(b, a), "mae": float(np.mean(np.abs(difference))), "mse": mse}


def ssim(a: Image, b: Image) -> float:
    """Structural similarity of two pictures [H, W, C], floating in [0, 1] (Wang et al. 2004).

    Gaussian window 11 x 11, sigma 1.5, only where it lies inside the picture ("valid"); mean over channels and pixels.
    Variances are kept positive and covariances within them, as nerfbaselines does.
    """
    if min(a.shape[:2]) < _WINDOW:
        raise DataError(f"SSIM needs pictures of {_WINDOW} x {_WINDOW} pixels or more, got {a.shape[:2]}")
    mean_a, mean_b = _blur(a), _blur(b)
    least = float(np.finfo(np.float32).eps) ** 2
    var_a = np.maximum(_blur(a * a) - mean_a**2, least)
    var_b = np.maximum(_blur(b * b) - mean_b**2, least)
    joint = _blur(a * b) - mean_a * mean_b
    joint = np.sign(joint) * np.minimum(np.sqrt(var_a * var_b), np.abs(joint))
    luminance = (2 * mean_a * mean_b + _K1**2) / (mean_a**2 + mean_b**2 + _K1**2)
    return float(np.mean(luminance * (2 * joint + _K2**2) / (var_a + var_b + _K2**2)))


def to_srgb8(image: Image, background: Sequence[float] | None, color_space: Space, name: str) -> NDArray[np.uint8]:
    """A picture as 8-bit sRGB without alpha, [H, W, 3]; errors name it."""
    if image.ndim != 3 or image.shape[2] not in (3, 4):
        raise DataError(f"{name}: expected [H, W, 3] or [H, W, 4], got {image.shape}")
    if image.shape[2] == 4:
        unit = _unit(image)
        alpha = unit[..., 3:]
        behind = np.zeros(3) if background is None else np.asarray(background)
        image = unit[..., :3] * alpha + (1 - alpha) * behind.astype(np.float32)
    if color_space == "linear":
        unit = _unit(image)
        image = np.where(unit > 0.0031308, 1.055 * np.maximum(unit, 0) ** (1 / 2.4) - 0.055, 12.92 * unit)
    if image.dtype == np.uint8:
        return image
    if not np.isfinite(image).all():
        raise NumericsError(f"{name}: holds NaN or infinity")
    return (image * 255.0).clip(0, 255).astype(np.uint8)  # truncated, not rounded


def _unit(image: Image) -> Image:
    """In [0, 1] as float32, or as the floating type that it has."""
    return image if image.dtype.kind == "f" else image.astype(np.float32) / np.float32(255)


def _blur(image: Image) -> NDArray[np.float64]:
    """Gaussian means over windows inside the picture: [H - 10, W - 10, C] in float64."""
    from scipy.ndimage import correlate1d

    offsets = np.arange(_WINDOW) - _WINDOW // 2
    weights = np.exp(-0.5 * (offsets / _SIGMA) ** 2)
    weights /= weights.sum()
    inside = slice(_WINDOW // 2, -(_WINDOW // 2))
    rows = correlate1d(image.astype(np.float64), weights, axis=0)[inside]
    return correlate1d(rows, weights, axis=1)[:, inside]
