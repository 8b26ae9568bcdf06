"""Run directories as the evaluation of a SAM encoder writes them, without running anything."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

PICTURES = 3


def estimate(*values: float) -> dict[str, Any]:
    return {"mean": float(np.mean(values)), "se": 0.0125, "per_image": list(values), "n": len(values)}


def metrics(keep: float = 0.5) -> dict[str, Any]:
    """What an evaluation with labelled pictures writes."""
    side = {"peak_memory_bytes": 61_000_000, "peak_memory_method": "resident set", "energy_method": "RAPL"}
    groups = [
        {"name": "residual", "kind": "width", "size": 64, "kept": 32},
        {"name": "layers.0.attn", "kind": "head_dim", "size": 16, "kept": 8},
        {"name": "layers.0.mlp", "kind": "ffn", "size": 128, "kept": 48},
        {"name": "layers.1.attn", "kind": "head_dim", "size": 16, "kept": 8},
    ]
    return {
        "schema": 1, "domain": "sam", "model": "somebody/small-sam", "method": "disturbed_taylor",
        "budget": {"metric": "params", "keep": keep, "asked": 500_000, "reached": 490_000, "dense": 1_000_000,
                   "prunable": 1_000_000, "scope": "prunable", "uniform": True},
        "hardware": "Some CPU, 2 cores", "date": "2026-11-27", "threads": 1,
        "command": f"gencompress run +experiment=slimsam_sample budget.keep={keep}",
        "latency_of": "one forward of the image encoder at batch 1, 128 x 128 pixels",
        "pictures": {"unlabelled_set": "photos", "unlabelled_fingerprint": "a" * 64, "unlabelled": 24,
                     "agreement_side": 4, "labelled_set": "composites", "labelled_fingerprint": "b" * 64,
                     "labelled": 64, "objects": 4, "everything": "16 x 16 points, predicted IoU 0.3, stability 0.5"},
        "dense": {"params": 1_000_000, "params_whole_model": 1_400_000, "bytes": 4_000_000, "macs": 486_000_000,
                  "macs_without_attention": 369_000_000, "energy_j": 0.2,
                  "latency_s": {"median": 0.012, "p10": 0.011, "p90": 0.014, "runs": 10}, **side},
        "pruned": {"params": int(1_000_000 * keep), "params_whole_model": 400_000 + int(1_000_000 * keep),
                   "bytes": int(4_000_000 * keep), "macs": int(486_000_000 * keep),
                   "macs_without_attention": int(300_000_000 * keep), "energy_j": 0.1,
                   "latency_s": {"median": 0.006, "p10": 0.005, "p90": 0.007, "runs": 10}, **side},
        "quality": {"miou_point": estimate(0.8, 0.75, 0.25, 0.9), "miou_box": estimate(0.875, 0.9, 0.8, 0.925),
                    "miou_everything": estimate(0.5, 0.625, 0.5, 0.75), "agreement": estimate(0.8125, 0.8, 0.825),
                    "embedding_error": estimate(0.25, 0.28, 0.31)},
        "quality_dense": {"miou_point": estimate(0.85, 0.85, 0.75, 0.95), "miou_box": estimate(0.9, 0.95, 0.8, 0.95),
                          "miou_everything": estimate(0.75, 0.75, 0.5, 0.75)},
        "groups": groups,
        "rounds": [{"name": "embedding", "loss": [0.5, 0.25, 0.125]}, {"name": "bottleneck", "loss": [0.25, 0.0625]}],
        "images": {},
    }  # fmt: skip


def make_run(
    folder: Path, keep: float = 0.5, change: Callable[[dict[str, Any]], object] = lambda m: None, worst: int = 0
) -> Path:
    """A run directory with its pictures; `worst` chooses other prompts as the worst ones."""
    (folder / "eval").mkdir(parents=True)
    value = metrics(keep)
    images: dict[str, Any] = {}
    sheets = [("", "asked", ""), ("worst_", "asked", ""), ("", "everything", "everything_")]
    for offset, (prefix, first, rest) in enumerate(sheets):
        shift = 10 * offset + (worst if prefix else 0)
        for shade, key in (
            (0, prefix + first),
            (20, f"{prefix}{rest}dense"),
            (40 + round(100 * keep), f"{prefix}{rest}pruned"),
        ):
            images[key] = [f"eval/{key}-{i}.png" for i in range(PICTURES)]
            for i, name in enumerate(images[key]):
                pixels = np.random.default_rng(shift + i).integers(0, 100, (24, 24, 3)) + shade
                Image.fromarray(pixels.astype(np.uint8)).save(folder / name)
    for prefix in ("", "worst_"):
        images[f"{prefix}names"] = [f"picture {i + 1 + worst}, point" for i in range(PICTURES)]
        images[f"{prefix}iou_dense"], images[f"{prefix}iou_pruned"] = [0.875, 0.75, 0.5], [0.8125, 0.625, 0.25]
    images |= {"everything_names": ["picture 1", "picture 5", "picture 9"]}
    images |= {"masks_dense": [5, 4, 1], "masks_pruned": [3, 4, 0]}
    value["images"] = images
    change(value)
    (folder / "eval/metrics.json").write_text(json.dumps(value))
    stages = {name: {"files": {}, "seconds": 12.5} for name in ("embedding_slim", "bottleneck_slim", "eval")}
    (folder / "manifest.json").write_text(json.dumps({"schema": 1, "stages": stages}))
    return folder
