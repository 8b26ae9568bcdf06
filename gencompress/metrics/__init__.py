"""Measuring: image quality, distances between image sets, and what a model costs.

Names are imported on first use, so `import gencompress.metrics` loads neither torch nor torchmetrics.
"""

from __future__ import annotations

from gencompress.lazy import attach

_WHERE = {
    "Clip": "clip",
    "Distance": "distances",
    "EfficientNetLite0": "efficientnet",
    "Energy": "energy",
    "Estimate": "statistics",
    "FeatureExtractor": "extractors",
    "FeatureStatistics": "frechet",
    "ImageQuality": "images",
    "ImageSet": "image_sets",
    "Inception": "inception",
    "Latency": "latency",
    "LegacyInception": "inception_legacy",
    "Lpips": "lpips",
    "Manifold": "manifold",
    "PairedGain": "statistics",
    "PeakMemory": "memory",
    "RandomConvolutions": "extractors",
    "RateQuality": "bjontegaard",
    "ViewScores": "views",
    "bd_quality": "bjontegaard",
    "bd_rate": "bjontegaard",
    "bytes_on_disk": "hardware",
    "clip_score": "clip",
    "cmmd": "clip",
    "everything_miou": "segmentation",
    "extract": "extractors",
    "extract_set": "feature_sets",
    "feature_distances": "distances",
    "frechet_distance": "frechet",
    "frechet_infinity": "feature_sets",
    "generated_images": "image_sets",
    "hardware_description": "hardware",
    "held_out_views": "views",
    "image_quality": "images",
    "image_set": "image_sets",
    "kernel_distance": "kernel",
    "lpips_or_note": "lpips",
    "manifold_scores": "manifold",
    "measure_energy": "energy",
    "measure_latencies": "latency",
    "measure_latency": "latency",
    "named_extractor": "measure",
    "paired_gain": "statistics",
    "peak_memory": "memory",
    "prompted_miou": "segmentation",
    "running_costs": "running",
    "score_views": "views",
    "set_distances": "feature_sets",
}

__getattr__, __dir__, __all__ = attach(__name__, _WHERE)
