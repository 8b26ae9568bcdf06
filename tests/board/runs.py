"""Run directories as evaluations write them, without running anything."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

from gencompress.config import CRITERIA, Config, DiffusionDomain
from gencompress.run.settings import as_mapping

FINISHED = ({"event": "opened"}, {"event": "ended"})


def metrics(method: str, keep: float, psnr: list[float], ssim: list[float] | None = None) -> dict[str, Any]:
    """What an evaluation of a diffusion model writes, with these values per picture."""
    ssim = ssim or [value / 50 for value in psnr]
    spread = {"psnr_db": psnr, "ssim": ssim}
    quality = {name: {"mean": float(np.mean(v)), "se": 0.1, "per_image": v} for name, v in spread.items()}
    return {
        "schema": 1, "model": "sample:emoji", "method": method, "seeds": len(psnr), "steps": 10,
        "budget": {"metric": "params", "scope": "prunable", "keep": keep, "reached": round(1000 * keep), "dense": 1000},
        "scheduler": "DDIMScheduler", "guidance_scale": 1.0, "hardware": "a CPU", "date": "2026-11-02",
        "latency_of": "one denoising run", "command": f"gencompress run criterion={method} budget.keep={keep}",
        "dense": {"params": 1000, "macs": 5000, "bytes": 4000, "latency_s": {"median": 1.0}},
        "pruned": {
            "params": round(1000 * keep), "macs": round(5000 * keep), "bytes": round(4000 * keep),
            "latency_s": {"median": 0.8}, "peak_memory_bytes": 10**6,
        },
        "quality": {**quality, "protocol": {"ssim": "Gaussian 11x11", "input": "uint8"}},
        "images": {},
    }  # fmt: skip


def make_run(
    folder: Path,
    method: str = "magnitude",
    keep: float = 0.7,
    psnr: list[float] | None = None,
    *,
    ssim: list[float] | None = None,
    options: Mapping[str, object] | None = None,
    change: Callable[[dict[str, Any]], object] = lambda m: None,
    events: tuple[Mapping[str, object], ...] = FINISHED,
    pictures: int = 0,
    size: int = 16,
) -> Path:
    """An evaluated run.

    Args:
        folder: the run directory to make.
        method: criterion, of the config and of the metrics.
        keep: budget.
        psnr: value per picture.
        ssim: value per picture.
        options: options by dotted name that differ from the defaults.
        change: alters the content of metrics.json.
        events: the journal.
        pictures: pairs of pictures of `size` pixels.
        size: of the pictures.
    """
    write_options(folder, method, keep, options or {})
    write_journal(folder, *events)
    value = metrics(method, keep, psnr or [30.0, 32.0], ssim)
    _write_pictures(folder, value, pictures, size, round(100 * keep))
    change(value)
    (folder / "plan").mkdir()
    (folder / "eval").mkdir(exist_ok=True)
    (folder / "plan/plan.json").write_text(
        json.dumps({"schema": 1, "source": {"shapes": "5" * 64, "weights": "a" * 64}})
    )
    (folder / "eval/metrics.json").write_text(json.dumps(value))
    write_manifest(folder)
    return folder


def write_options(folder: Path, method: str, keep: float, changed: Mapping[str, object]) -> None:
    """config.yaml as a run saves it."""
    folder.mkdir(parents=True)
    config = as_mapping(Config(domain=DiffusionDomain(), criterion=CRITERIA.get(method, CRITERIA["magnitude"])()))
    config["criterion"]["name"], config["model"]["path"], config["budget"]["keep"] = method, "sample:emoji", keep
    config["metrics"]["images"] = 2
    for name, value in changed.items():
        group, _, option = name.partition(".")
        if option:
            config[group][option] = value
        else:
            config[group] = value
    (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))


def write_journal(folder: Path, *events: Mapping[str, object]) -> None:
    (folder / "journal.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))


def write_manifest(folder: Path) -> None:
    """manifest.json with the hash of every file of the stages plan and eval."""
    stages = {}
    for stage in ("plan", "eval"):
        files = {}
        for path in sorted((folder / stage).rglob("*")):
            if path.is_file():
                digest = hashlib.sha256(path.read_bytes()).hexdigest()
                files[path.relative_to(folder / stage).as_posix()] = {"sha256": digest, "bytes": path.stat().st_size}
        stages[stage] = {"files": files, "seconds": 1.0}
    (folder / "manifest.json").write_text(json.dumps({"schema": 1, "stages": stages}))


def _write_pictures(folder: Path, value: dict[str, Any], count: int, size: int, shade: int) -> None:
    for kind, offset in (("dense", 0), ("pruned", shade)) if count else ():
        (folder / "eval" / kind).mkdir(parents=True)
        value["images"][kind] = [f"eval/{kind}/{i:03d}.png" for i in range(count)]
        for i, name in enumerate(value["images"][kind]):
            pixels = np.random.default_rng(i).integers(0, 150, (size, size, 3), dtype=np.uint8)
            Image.fromarray(pixels + np.uint8(offset)).save(folder / name)
