"""Measuring: image quality, distances between image sets, and what a model costs.

Names are imported on first use, so `import gencompress.metrics` loads neither torch nor torchmetrics.
"""

from __future__ import annotations

import importlib
from typing import Any

_WHERE = {
    "Distance": "distances",
    "EfficientNetLite0": "efficientnet",
    "Estimate": "statistics",
    "FeatureExtractor": "extractors",
    "FeatureStatistics": "frechet",
    "ImageQuality": "images",
    "Inception": "inception",
    "Latency": "latency",
    "Lpips": "lpips",
    "PairedGain": "statistics",
    "PeakMemory": "memory",
    "RandomConvolutions": "extractors",
    "RateQuality": "bjontegaard",
    "bd_quality": "bjontegaard",
    "bd_rate": "bjontegaard",
    "bytes_on_disk": "hardware",
    "extract": "extractors",
    "feature_distances": "distances",
    "frechet_distance": "frechet",
    "hardware_description": "hardware",
    "image_quality": "images",
    "kernel_distance": "kernel",
    "lpips_or_note": "lpips",
    "measure_latencies": "latency",
    "measure_latency": "latency",
    "paired_gain": "statistics",
    "peak_memory": "memory",
}

__all__ = sorted(_WHERE)


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_WHERE[name]}"), name)


def __dir__() -> list[str]:
    return __all__
