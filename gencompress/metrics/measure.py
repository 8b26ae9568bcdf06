"""Two image sets compared from their files: what `gencompress measure` prints and writes."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from gencompress.errors import ConfigError, DataError, nearest
from gencompress.metrics.clip import Clip, clip_score
from gencompress.metrics.efficientnet import EfficientNetLite0
from gencompress.metrics.extractors import FeatureExtractor, RandomConvolutions
from gencompress.metrics.feature_sets import METRICS, Extracted, extract_set, set_distances
from gencompress.metrics.image_sets import ImageSet, image_set
from gencompress.metrics.inception import Inception
from gencompress.metrics.inception_legacy import LegacyInception
from gencompress.run.atomic import write_json

NAMES = ("inception", "inception-legacy", "random", "clip:FOLDER-OR-HUB-ID")
_ROWLESS = ("frechet",)


def named_extractor(name: str, folder: Path | None = None, *, download: bool = False) -> FeatureExtractor:
    """The feature extractor that an option names.

    Args:
        name: one of `NAMES`, or a folder with the weights of EfficientNet-lite0.
        folder: where Inception's weights lie.
        download: whether they may be fetched where they are not at hand.

    Raises:
        ConfigError: no such extractor.
        ModelError: weights that are missing or not the official ones.
    """
    if name == "inception":
        return Inception.load(folder, download=download)
    if name == "inception-legacy":
        return LegacyInception.load(folder, download=download)
    if name == "random":
        return RandomConvolutions()
    if name.startswith("clip:"):
        return Clip.load(name.removeprefix("clip:"))
    if Path(name).exists():
        return EfficientNetLite0(Path(name))
    raise ConfigError(f"extractor {name!r} is no folder here and no name of one: {nearest(name, NAMES)}")


@dataclass(frozen=True)
class Request:
    """What to compare.

    Args:
        images: folder or .npz that is measured.
        reference: folder or .npz that is aimed at; may be missing where only prompts are judged.
        extractor: as `named_extractor` takes it.
        metrics: of `gencompress.metrics.feature_sets.METRICS`.
        weights: folder of Inception's weights.
        download: whether these may be fetched.
        skip_bad: leave out unreadable images and count them.
        cache: folder of remembered statistics.
        prompts: text file, one prompt per image in the order of the names; adds the CLIP score.
    """

    images: Path
    reference: Path | None
    extractor: str
    metrics: tuple[str, ...] = METRICS[:1]
    weights: Path | None = None
    download: bool = False
    skip_bad: bool = False
    cache: Path | None = None
    prompts: Path | None = None


def measure(request: Request, out: Path | None = None) -> dict[str, Any]:
    """Compare, write the figures to `out` as JSON if given, and return them.

    Raises:
        ConfigError: nothing to compare with, an unknown metric or extractor, or ``cmmd`` without CLIP.
        DataError: unreadable images, or prompts that are not as many.
    """
    if request.reference is None and request.prompts is None:
        raise ConfigError("measure needs something to compare with: --reference FOLDER, or --prompts FILE")
    for metric in request.metrics:
        if metric not in METRICS:
            raise ConfigError(f"unknown metric {metric!r}: {nearest(metric, METRICS)}")
    if "cmmd" in request.metrics and not request.extractor.startswith("clip:"):
        raise ConfigError("cmmd is defined on CLIP embeddings: add --extractor clip:FOLDER-OR-HUB-ID")
    extractor = named_extractor(request.extractor, request.weights, download=request.download)
    found: dict[str, Any] = {"images": request.images.name}
    if request.reference is not None:
        found |= {"reference": request.reference.name, **_distances(request, request.reference, extractor)}
    if request.prompts is not None:
        found["clip_score"] = _clip_score(request, request.prompts, extractor)
    if out is not None:
        write_json(out, found)
    return found


def _distances(request: Request, reference: Path, extractor: FeatureExtractor) -> dict[str, Any]:
    rows = any(metric not in _ROWLESS for metric in request.metrics)

    def extracted(source: Path) -> Extracted:
        images = image_set(source, skip_bad=request.skip_bad)
        return extract_set(extractor, images, rows=rows, cache=request.cache, report=_shown(images))

    return set_distances(extractor, extracted(reference), extracted(request.images), request.metrics)


def _clip_score(request: Request, file: Path, extractor: FeatureExtractor) -> dict[str, Any]:
    if not isinstance(extractor, Clip):
        raise ConfigError("a CLIP score needs CLIP: add --extractor clip:FOLDER-OR-HUB-ID")
    try:
        prompts = [line for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file}: no readable text file of prompts ({error})") from error
    images = torch.cat(list(image_set(request.images).batches()))  # none may be skipped: prompts belong to places
    estimate = clip_score(extractor, images, prompts)
    return {"value": estimate.mean, "se": estimate.se, "n": len(prompts)}


def _shown(images: ImageSet) -> Any:
    """Progress on a terminal, nothing elsewhere."""

    def show(done: int) -> None:
        if sys.stderr.isatty():
            print(f"\r{images.name}: {done} images", end="", file=sys.stderr, flush=True)

    return show


def lines(found: dict[str, Any]) -> Sequence[str]:
    """The figures for people, one a line."""
    out = []
    for name in (*METRICS, "clip_score"):
        entry = found.get(name)
        if entry is None:
            continue
        if name == "manifold":
            out.append("  ".join(f"{key} {value:.4f}" for key, value in entry.items()))
            continue
        spread = f" ± {entry['se']:.3g}" if entry.get("se") is not None else ""
        out.append(f"{entry.get('name', name)} {entry['value']:.6g}{spread}")
        if entry.get("note"):
            out.append(f"  {entry['note']}")
    if "extractor" in found:
        out.append(f"by {found['extractor']}, {found['n']} images against {found['n_reference']}")
    if found.get("skipped"):
        out.append(f"{found['skipped']} unreadable images were left out")
    return out
