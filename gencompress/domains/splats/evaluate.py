"""What the removal cost and what it won: metrics.json and pictures, of the files as they are read back."""

from __future__ import annotations

import datetime
import resource
import sys
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gencompress.config import Config
from gencompress.core.plan import Plan
from gencompress.domains.splats.domain import Dense, Views
from gencompress.domains.splats.groups import SPLATS
from gencompress.domains.splats.judge import Judge, pictures
from gencompress.domains.splats.pictures import save_pictures
from gencompress.domains.splats.publish import name_of
from gencompress.formats import SplatScene, read_scene
from gencompress.kernels.splats import Splats
from gencompress.metrics import (
    Lpips,
    hardware_description,
    image_quality,
    lpips_or_note,
    measure_energy,
    measure_latencies,
)
from gencompress.run import StageContext, read_manifest
from gencompress.run.atomic import write_json


def evaluate(
    ctx: StageContext,
    dense: Dense,
    views: Views,
    stages: dict[str, SplatScene],
    plan: Plan,
    exported: Path,
    losses: list[float],
    config: Config,
    command: str,
) -> None:
    """Measure the exported files against the input's own renders: metrics.json and the pictures that it names.

    Args:
        ctx: where to.
        dense: the input.
        views: whose test views and close-ups judge.
        stages: the scene after every stage that changed it, by name.
        plan: which splats were not deleted.
        exported: folder with the files.
        losses: of the refinement.
        config: options of the run.
        command: that makes the run again.
    """
    judge, first = Judge(dense, views), config.export.formats[0]
    files = {kind: exported / f"{name_of(dense)}.{kind}" for kind in config.export.formats}
    scenes = {kind: read_scene(path) for kind, path in files.items() if kind != "html"}
    total = len(stages) + len(scenes) + 2
    steps = {}
    for step, (name, scene) in enumerate(stages.items()):
        steps[name] = {"units": len(scene), **_means(judge, scene)}
        ctx.progress(step + 1, total)
        ctx.stop_if_requested()
    measured = []
    for kind, path in files.items():
        measured.append(_file(judge, kind, path, scenes.get(kind)))
        ctx.progress(len(stages) + len(measured), total)
        ctx.stop_if_requested()
    shown = scenes[first]
    test, close = (pictures(shown, cameras, dense.device) for cameras in (views.rig.test, views.rig.close))
    quality = _quality(judge.test, test, config)
    costs = _costs(dense, shown, files[first], views, config)
    deleted = dense.units - len(plan.keep[SPLATS])
    metrics: dict[str, Any] = {
        "schema": 1,
        "domain": "splats",
        "model": config.scene,
        "method": config.criterion.name,
        "budget": _budget(plan, len(shown), files[first].stat().st_size, quality["psnr_db"]["mean"]),
        "hardware": hardware_description(),
        "date": datetime.date.today().isoformat(),
        "threads": torch.get_num_threads(),
        "command": command,
        "filter": dict(dense.removed),
        "removal": {"deleted": deleted, "merged": dense.units - deleted - len(shown)},
        "views": _views(views),
        **costs,
        "peak_memory_bytes": _peak(),
        "seconds": round(sum(entry.seconds for entry in read_manifest(ctx.run.path).stages.values()), 3),
        "quality": quality,
        "quality_close": _quality(judge.close, close, config),
        "stages": steps,
        "files": measured,
        "images": save_pictures(ctx.dir, (judge.test, judge.close), (test, close)),
    }
    if losses:
        metrics["curve"] = {"step": list(range(1, len(losses) + 1)), "loss": losses}
    write_json(ctx.dir / "metrics.json", metrics)


def _means(judge: Judge, scene: SplatScene) -> dict[str, float]:
    found = judge.quality(scene)
    return {"psnr_db": found.psnr_db.mean, "ssim": found.ssim.mean}


def _file(judge: Judge, kind: str, path: Path, scene: SplatScene | None) -> dict[str, Any]:
    """Size of one file, and the quality of what is read back from it; a page is no scene."""
    size = path.stat().st_size
    about = {"format": kind, "path": f"export/{path.name}", "bytes": size}
    if scene is None:
        return about
    close = judge.quality(scene, close=True).psnr_db.mean
    return {**about, "bytes_per_splat": size / len(scene), **_means(judge, scene), "psnr_close_db": close}


def _quality(reference: Tensor, images: Tensor, config: Config) -> dict[str, Any]:
    """PSNR, SSIM and LPIPS of images [N, 3, H, W] in [0, 1]."""
    folder = None if config.metrics.lpips is None else Path(config.metrics.lpips)
    found = image_quality(reference, images).to_json()
    return found | lpips_or_note(reference, images, partial(Lpips.load, "alex", folder))


def _costs(dense: Dense, shown: SplatScene, file: Path, views: Views, config: Config) -> dict[str, dict[str, Any]]:
    """Splats, numbers, bytes on disk, seconds and energy per rendered view, before and after."""
    camera = views.rig.test.take(slice(0, 1))
    splats = {"dense": dense.splats, "pruned": Splats.of(shown, dense.device)}
    calls = {name: partial(s.render, camera) for name, s in splats.items()}
    runs = config.metrics.latency_runs
    with torch.no_grad():
        latencies = measure_latencies(calls, warmup=1, runs=runs, device=dense.device)
        energies = {name: measure_energy(call, runs, dense.device) for name, call in calls.items()}
    sizes = {"dense": dense.bytes, "pruned": file.stat().st_size}
    return {
        name: {
            "units": len(scene),
            "params": len(scene) * (14 + 3 * scene.sh_rest.shape[1]),
            "bytes": sizes[name],
            "sh_degree": scene.sh_degree,
            "latency_s": latencies[name].to_json(),
            "energy_j": energies[name].joules,
            "energy_method": energies[name].method,
        }
        for name, scene in (("dense", dense.scene), ("pruned", shown))
    }


def _budget(plan: Plan, units: int, size: int, psnr_db: float) -> dict[str, Any]:
    """The plan's budget with what the first file, as it is read back, has reached in its metric."""
    reached = {"units": units, "bytes": size, "psnr": psnr_db}
    return {**plan.budget, "units": units, "reached": reached[str(plan.budget["metric"])]}


def _views(views: Views) -> dict[str, Any]:
    rig = views.rig
    counts = {"score": len(rig.scoring), "refine": len(views.practice), "test": len(rig.test), "close": len(rig.close)}
    return {**counts, "width": rig.scoring.width, "height": rig.scoring.height, "source": rig.kind}


def _peak() -> int:
    """Largest resident set of this process so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
