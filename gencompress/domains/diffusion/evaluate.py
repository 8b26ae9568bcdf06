"""What pruning cost and what it won: metrics.json and pictures, dense beside pruned at equal seeds."""

from __future__ import annotations

import datetime
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gencompress.config import Config, MetricsConfig
from gencompress.core.group import Groups
from gencompress.core.plan import Plan
from gencompress.core.trajectory import roll
from gencompress.domains.diffusion.costs import cost_model
from gencompress.domains.diffusion.domain import Diffusion
from gencompress.metrics import (
    Lpips,
    feature_distances,
    hardware_description,
    image_quality,
    lpips_or_note,
    named_extractor,
    running_costs,
)
from gencompress.run import StageContext
from gencompress.run.atomic import write_json

PICTURES = 32  # saved of those measured: a report with hundreds would not open


def evaluate(
    ctx: StageContext,
    dense: Diffusion,
    pruned: Diffusion,
    plan: Plan,
    config: Config,
    curve: dict[str, list[float]] | None,
    method: str,
    command: str,
) -> None:
    """Measure `pruned` against `dense` and write metrics.json, dense/NN.png and pruned/NN.png."""
    seeds = [config.denoise.seeds + n for n in range(config.metrics.images)]
    images = {}
    for step, (name, model) in enumerate({"dense": dense, "pruned": pruned}.items()):
        images[name] = model.images(seeds, config.denoise.batch)
        ctx.progress(step + 1, 4)
        ctx.stop_if_requested()
    quality = measure_quality(images["dense"], images["pruned"], config.metrics)
    ctx.progress(3, 4)
    costs = measure_costs(dense, pruned, config.metrics.latency_runs)
    ctx.progress(4, 4)
    metrics: dict[str, Any] = {
        "schema": 1,
        "model": config.model.path,
        "method": method,
        "budget": dict(plan.budget),
        "hardware": hardware_description(),
        "date": datetime.date.today().isoformat(),
        "threads": torch.get_num_threads(),
        "seeds": len(seeds),
        "steps": dense.denoising.steps,
        "scheduler": type(dense.denoising.sampler.scheduler).__name__,
        "guidance_scale": dense.denoising.adapter.guidance,
        "latency_of": f"one denoising run of {dense.denoising.steps} steps at batch 1, without the decoder",
        **costs,
        "quality": quality,
        "groups": [
            {"name": g.name, "kind": g.kind, "size": g.size, "kept": len(plan.keep[g.name])} for g in dense.groups
        ],
        "images": {name: _save_pictures(ctx.dir, name, sheet) for name, sheet in images.items()}
        | _prompts(dense, seeds),
        "command": command,
    }
    if curve is not None:
        metrics["curve"] = curve
    write_json(ctx.dir / "metrics.json", metrics)


def measure_quality(reference: Tensor, images: Tensor, config: MetricsConfig) -> dict[str, Any]:
    """PSNR, SSIM, LPIPS, and Frechet and kernel distance where an extractor is given, of uint8 images [N, 3, H, W]."""
    found = image_quality(reference, images).to_json()
    found |= lpips_or_note(reference, images, partial(Lpips.load, "alex", _folder(config.lpips)))
    if config.extractor is not None:
        extractor = named_extractor(config.extractor, download=True)
        found |= {name: d.to_json() for name, d in feature_distances(extractor, reference, images).items()}
    return found


def _folder(path: str | None) -> Path | None:
    return None if path is None else Path(path)


def measure_costs(dense: Diffusion, pruned: Diffusion, runs: int) -> dict[str, dict[str, Any]]:
    """Parameters, MACs, bytes of the denoiser; latency (in turns), peak memory and energy of a denoising run."""
    device = str(next(dense.denoiser.parameters()).device)
    models = {"dense": dense, "pruned": pruned}
    running = running_costs({name: _sampling(model) for name, model in models.items()}, runs, device)
    return {name: model_cost(model.denoiser) | running[name] for name, model in models.items()}


def model_cost(denoiser: nn.Module) -> dict[str, int]:
    """Parameters, MACs of one forward at batch 1 with attention products, and bytes of the weights."""
    nothing = Groups(())  # to remove, so that models of which no group is left are counted too
    return {metric: cost_model(denoiser, nothing, metric).dense for metric in ("params", "macs", "bytes")}


def _sampling(model: Diffusion) -> Any:
    batch = model.batch([0])
    return lambda: roll(model.denoising, batch)


def _prompts(model: Diffusion, seeds: list[int]) -> dict[str, list[str]]:
    texts = model.prompts_of(seeds[:PICTURES])
    return {} if texts is None else {"prompts": texts}


def _save_pictures(folder: Path, name: str, images: Tensor) -> list[str]:
    from PIL import Image

    (folder / name).mkdir()
    paths = []
    for n, image in enumerate(images[:PICTURES]):
        path = folder / name / f"{n:03d}.png"
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(path)
        paths.append(f"eval/{name}/{n:03d}.png")
    return paths
