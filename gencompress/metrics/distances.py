"""Fréchet and kernel distance of two image sets by one extractor, with all that makes the number comparable."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from gencompress.metrics.extractors import FeatureExtractor, extract
from gencompress.metrics.frechet import frechet_distance
from gencompress.metrics.kernel import kernel_distance

ENOUGH = 10_000  # images below which a Fréchet distance is dominated by its bias in practice (Chong and Forsyth 2020)


@dataclass(frozen=True)
class Distance:
    """A distance between two image sets.

    Args:
        name: "FID" and "KID" on Inception features, else "Fréchet distance" and "kernel distance".
        value: smaller is closer.
        se: standard error where there is one.
        extractor: name of the feature extractor.
        extractor_sha256: hash of its weights.
        n: images measured.
        n_reference: images they were measured against.
        note: what a reader must know about the sample size, or None.
    """

    name: str
    value: float
    se: float | None
    extractor: str
    extractor_sha256: str
    n: int
    n_reference: int
    note: str | None

    def to_json(self) -> dict[str, Any]:
        """All fields that are not None."""
        return {key: value for key, value in vars(self).items() if value is not None}


def feature_distances(extractor: FeatureExtractor, reference: Tensor, images: Tensor) -> dict[str, Distance]:
    """``{"frechet": Distance, "kernel": Distance}`` of images to a reference set; order and pairing do not matter.

    Args:
        extractor: the injected feature extractor.
        reference: [N, 3, H, W], uint8 or floating in [0, 1].
        images: [M, 3, H, W], the same.

    Raises:
        DataError: fewer than two images, or a shape or range that does not fit.
        NumericsError: NaN in images or features.
    """
    theirs, ours = extract(extractor, reference), extract(extractor, images)
    frechet, kernel = frechet_distance(theirs, ours), kernel_distance(theirs, ours)
    names = ("FID", "KID") if extractor.inception else ("Fréchet distance", "kernel distance")
    note = bias_note(min(len(ours), len(theirs)), extractor.dimension)
    seen = (extractor.name, extractor.sha256, len(ours), len(theirs))
    return {
        "frechet": Distance(names[0], frechet, None, *seen, note),
        "kernel": Distance(names[1], kernel.mean, kernel.se, *seen, None),
    }


def bias_note(n: int, dimension: int) -> str | None:
    """A warning about small samples for a Fréchet distance on n images, or None where n is large enough."""
    if n > max(ENOUGH, dimension):
        return None
    rank = f", and fewer than the {dimension} features, so the covariance is singular" if n <= dimension else ""
    return f"{n} images{rank}: biased upwards, compare only with values from equally many images"
