"""Distances between two image sets of any size: streamed, the reference remembered, and the protocol in the number.

Features are held once as float32, where a metric needs the rows at all (kernel distance, precision and recall, FID
infinity); Fréchet alone needs no rows.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from gencompress.errors import DataError, NumericsError
from gencompress.metrics.clip import cmmd
from gencompress.metrics.distances import bias_note
from gencompress.metrics.extractors import FeatureExtractor, features_of
from gencompress.metrics.frechet import FeatureStatistics, frechet_distance
from gencompress.metrics.image_sets import ImageSet
from gencompress.metrics.kernel import kernel_distance
from gencompress.metrics.manifold import manifold_scores
from gencompress.run.atomic import write_file

Features = NDArray[np.float32]
Report = Callable[[int], None]
METRICS = ("frechet", "frechet_infinity", "kernel", "manifold", "cmmd")
_POINTS, _LEAST_PART = 15, 0.1  # subset sizes of the extrapolation, and the smallest of them as a part of all
_CACHE_FORMAT = 1


@dataclass(frozen=True)
class Extracted:
    """One image set as a feature extractor saw it.

    Args:
        statistics: mean and covariance.
        features: the rows [N, D] as float32, or None where they were not asked for.
        skipped: unreadable images left out.
    """

    statistics: FeatureStatistics
    features: Features | None
    skipped: int


def extract_set(
    extractor: FeatureExtractor,
    images: ImageSet,
    *,
    rows: bool,
    cache: Path | None = None,
    report: Report = lambda done: None,
) -> Extracted:
    """Features of a set, batch by batch.

    Args:
        extractor: the injected extractor.
        images: the set.
        rows: whether the rows are kept.
        cache: folder of remembered features and statistics, by hash of extractor and image contents; a set without
            known content is not remembered.
        report: called with the number of images seen.

    Raises:
        DataError: unreadable images, or fewer than two.
        NumericsError: the extractor gave NaN, naming the image's place.
    """
    place = _place(cache, extractor, images, rows)
    found = _remembered(place, extractor.dimension) if place else None
    if found is not None:
        return found
    statistics, kept, seen = FeatureStatistics(extractor.dimension), [], 0
    for pictures in images.batches():
        batch = features_of(extractor, pictures, images.name)
        finite = np.isfinite(batch).all(axis=1)
        if not finite.all():
            at = seen + int(np.flatnonzero(~finite)[0])
            raise NumericsError(f"{extractor.name}: the features of image {at} of {images.name} hold NaN or infinity")
        statistics.update(batch)
        seen += len(batch)
        if rows:
            kept.append(batch.astype(np.float32))
        report(seen)
    if seen < 2:
        raise DataError(f"{images.name}: a distance needs two or more images, got {seen}")
    extracted = Extracted(statistics, np.concatenate(kept) if rows else None, len(images.skipped))
    if place:
        _remember(place, extracted)
    return extracted


def set_distances(
    extractor: FeatureExtractor, reference: Extracted, images: Extracted, metrics: tuple[str, ...] = METRICS[:4]
) -> dict[str, Any]:
    """The asked distances with all that makes them comparable, plain JSON.

    Args:
        extractor: that both sets were extracted with.
        reference: the set that is aimed at.
        images: the set that is measured.
        metrics: of `METRICS`; all but ``frechet`` need rows, ``cmmd`` belongs to CLIP embeddings.

    Raises:
        DataError: an unknown metric, rows that were not kept, or too few images for a metric.
    """
    out: dict[str, Any] = {
        "extractor": extractor.name,
        "extractor_sha256": extractor.sha256,
        "n": images.statistics.n,
        "n_reference": reference.statistics.n,
        "skipped": images.skipped + reference.skipped,
    }
    prefix = "FID" if extractor.inception else "Fréchet distance"
    for metric in metrics:
        if metric not in METRICS:
            raise DataError(f"unknown metric {metric!r}; valid are {', '.join(METRICS)}")
        out[metric] = _MEASURES[metric](reference, images)
    if "frechet" in out:
        out["frechet"] |= {"name": prefix}
        note = bias_note(min(out["n"], out["n_reference"]), extractor.dimension)
        out["frechet"] |= {"note": note} if note else {}
    return out


def frechet_infinity(reference: FeatureStatistics, features: Features, seed: int = 0) -> float:
    """Fréchet distance extrapolated to infinitely many images (Chong and Forsyth 2020, section 4).

    The bias falls as 1 / N, so distances of 15 random subsets are fitted by a line in 1 / N, whose intercept it is. The
    reference's own bias stays.
    """
    n = len(features)
    least = max(2, int(_LEAST_PART * n))
    if n < 10 * _POINTS:
        raise DataError(f"an extrapolated distance needs {10 * _POINTS} or more images, got {n}")
    generator = np.random.default_rng(seed)
    sizes = np.linspace(least, n, _POINTS).astype(int)
    values = []
    for size in sizes:
        statistics = FeatureStatistics(features.shape[1])
        statistics.update(features[generator.choice(n, size, replace=False)].astype(np.float64))
        values.append(frechet_distance(reference, statistics))
    return float(np.polynomial.polynomial.polyfit(1 / sizes, values, 1)[0])


def _rows(extracted: Extracted) -> NDArray[np.float64]:
    if extracted.features is None:
        raise DataError("this metric needs the feature rows: extract with rows=True")
    return extracted.features.astype(np.float64)


def _measure_infinity(reference: Extracted, images: Extracted) -> dict[str, Any]:
    return {"value": frechet_infinity(reference.statistics, _rows(images).astype(np.float32))}


def _measure_kernel(reference: Extracted, images: Extracted) -> dict[str, Any]:
    found = kernel_distance(_rows(reference), _rows(images))
    return {"value": found.mean, "se": found.se}


_MEASURES: dict[str, Callable[[Extracted, Extracted], dict[str, Any]]] = {
    "frechet": lambda a, b: {"value": frechet_distance(a.statistics, b.statistics)},
    "frechet_infinity": _measure_infinity,
    "kernel": _measure_kernel,
    "manifold": lambda a, b: dict(manifold_scores(_rows(a), _rows(b)).to_json()),
    "cmmd": lambda a, b: {"value": cmmd(_rows(a), _rows(b))},
}


def _place(cache: Path | None, extractor: FeatureExtractor, images: ImageSet, rows: bool) -> Path | None:
    if cache is None or images.content is None:
        return None
    name = re.sub(r"[^A-Za-z0-9]+", "-", extractor.name).strip("-").lower()
    kind = "rows" if rows else "moments"
    return cache / f"{name}-{extractor.sha256[:16]}-{images.content()[:32]}-{kind}.npz"


def _remember(place: Path, extracted: Extracted) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    arrays: dict[str, Any] = {"format": _CACHE_FORMAT, "n": extracted.statistics.n, "skipped": extracted.skipped}
    arrays |= {"mean": extracted.statistics.mean, "scatter": extracted.statistics.scatter}
    if extracted.features is not None:
        arrays["features"] = extracted.features

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:
            np.savez(file, **arrays)

    write_file(place, write)


def _remembered(place: Path, dimension: int) -> Extracted | None:
    """What an earlier call left, or None; a damaged file counts as none, since it can be made again."""
    try:
        with np.load(place, allow_pickle=False) as file:
            if int(file["format"]) != _CACHE_FORMAT or file["mean"].shape != (dimension,):
                return None
            statistics = FeatureStatistics.of(int(file["n"]), file["mean"], file["scatter"])
            rows = file["features"] if "features" in file.files else None
            return Extracted(statistics, rows, int(file["skipped"]))
    except (OSError, ValueError, KeyError, EOFError, BadZipFile):
        return None
