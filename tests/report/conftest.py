from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


def metrics(keep: float = 0.7) -> dict:
    """What an evaluation of a small UNet writes."""
    side = {"latency_s": {"median": 1.2, "p10": 1.1, "p90": 1.4, "runs": 10}, "peak_memory_bytes": 61_000_000}
    side |= {"peak_memory_method": "resident set", "energy_j": 0.2, "energy_method": "RAPL, 1 package"}
    groups = [
        {"name": "down_blocks.0.resnets.0", "kind": "resnet", "size": 64, "kept": 48},
        {"name": "up_blocks.0.attentions.0.attn1", "kind": "head", "size": 8, "kept": 5},
        {"name": "mid_block.attentions.0.attn1", "kind": "head", "size": 8, "kept": 0},
    ]
    return {
        "schema": 1,
        "model": "small model",
        "method": "ecodiff",
        "budget": {"metric": "params", "asked": keep, "reached": keep - 0.001, "scope": "prunable"},
        "hardware": "Some CPU, 2 cores",
        "date": "2026-11-02",
        "threads": 2,
        "seeds": 64,
        "steps": 20,
        "scheduler": "DDIMScheduler",
        "dense": {"params": 1_812_345, "macs": 312_000_000, "bytes": 7_249_380, **side},
        "pruned": {
            "params": int(1_812_345 * keep), "macs": int(312_000_000 * keep), "bytes": int(7_249_380 * keep),
            **side, "energy_j": 0.15, "latency_s": {"median": 0.9, "p10": 0.8, "p90": 1.0, "runs": 10},
        },
        "quality": {
            "psnr_db": {"mean": 27.61, "se": 0.31, "per_image": [27.1, 22.2]},
            "ssim": {"mean": 0.9312, "se": 0.004, "per_image": []},
            "lpips_note": "LPIPS was not measured: its official weights (x.pth) were not at hand",
            "frechet": {"name": "Fréchet distance", "value": 12.34, "extractor": "random-convolutions", "n": 64},
        },
        "groups": groups,
        "curve": {"step": [1, 2, 3, 4], "loss": [0.5, 0.2, 0.05, 0.01], "keep": [1.0, 0.9, 0.7, 0.7]},
        "images": {},
        "command": f"gencompress run budget.keep={keep}",
    }  # fmt: skip


@pytest.fixture
def make_run(tmp_path):
    """make_run(name, keep, change) writes a run directory with three 16-pixel pictures and returns it."""

    def make(name: str = "run", keep: float = 0.7, change=lambda m: None, pictures: int = 3, size: int = 16) -> Path:
        run = tmp_path / name
        (run / "eval").mkdir(parents=True)
        value = metrics(keep)
        value["images"] = {"dense": [], "pruned": []}
        for i in range(pictures):
            pixels = np.random.default_rng(i).integers(0, 200, (size, size, 3), dtype=np.uint8)
            for kind, offset in (("dense", 0), ("pruned", 10)):
                Image.fromarray(pixels + np.uint8(offset)).save(run / f"eval/{kind}-{i}.png")
                value["images"][kind].append(f"eval/{kind}-{i}.png")
        change(value)
        (run / "eval/metrics.json").write_text(json.dumps(value))
        stages = {"score": {"files": {}, "seconds": 312.4}, "eval": {"files": {}, "seconds": 64.2}}
        (run / "manifest.json").write_text(json.dumps({"schema": 1, "stages": stages}))
        return run

    return make
