"""What the removal cost and what it won: metrics.json and pictures, dense beside pruned on the same prompts."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn

from gencompress.config import Config
from gencompress.core.group import Groups
from gencompress.core.plan import Plan
from gencompress.domains.sam.costs import cost_model, example_image
from gencompress.domains.sam.domain import Sam
from gencompress.domains.sam.images import ImageSource
from gencompress.domains.sam.judge import (
    AGREEMENT_SIDE,
    DENSE,
    EVERYTHING,
    PRUNED,
    Judged,
    judge_agreement,
    judge_labelled,
)
from gencompress.domains.sam.labelled import LabelledImages
from gencompress.domains.sam.pictures import save_pictures
from gencompress.domains.sam.segment import Segmenter
from gencompress.metrics import hardware_description, running_costs
from gencompress.run import StageContext
from gencompress.run.atomic import write_json


def evaluate(
    ctx: StageContext,
    dense: Sam,
    pruned: Sam,
    plan: Plan,
    processor: Any,
    images: ImageSource,
    labelled: LabelledImages | None,
    config: Config,
    losses: Mapping[str, Sequence[float]],
    command: str,
) -> None:
    """Measure `pruned` against `dense`: metrics.json and the pictures that it names.

    Args:
        ctx: where to.
        dense: the model before anything was removed.
        pruned: the result.
        plan: the units that are left of `dense`, after all rounds.
        processor: of both models.
        images: pictures without labels.
        labelled: pictures with true masks; None leaves mIoU out.
        config: options of the run; ``metrics.images`` pictures are asked of each kind.
        losses: of every update, by the name of the round of training.
        command: that makes the run again.
    """
    tools = {DENSE: Segmenter(dense.model, processor), PRUNED: Segmenter(pruned.model, processor)}
    asked = {name: min(len(p), config.metrics.images) for name, p in (("images", images), ("labelled", labelled or ()))}
    tick = _Ticks(ctx, sum(asked.values()) + 2)
    agreement = judge_agreement(tools, images, asked["images"], tick)
    truth = None if labelled is None else judge_labelled(tools, labelled, asked["labelled"], tick)
    costs = measure_costs(dense, pruned, config.metrics.latency_runs)
    tick()
    read = (lambda index: (images.read(index), [])) if labelled is None else labelled.read
    drawn = save_pictures(ctx.dir, tools, truth or agreement, read)
    tick()
    metrics: dict[str, Any] = {
        "schema": 1,
        "domain": "sam",
        "model": config.model.path,
        "method": config.criterion.name,
        "budget": dict(plan.budget),
        "hardware": hardware_description(),
        "date": datetime.date.today().isoformat(),
        "threads": torch.get_num_threads(),
        "command": command,
        "latency_of": _latency_of(dense.encoder),
        "pictures": _protocol(images, labelled, truth, asked),
        **costs,
        "quality": (truth.to_json(PRUNED) if truth else {}) | agreement.to_json(PRUNED),
        "quality_dense": truth.to_json(DENSE) if truth else {},
        "groups": [{"name": g.name, "kind": g.kind, "size": g.size, "kept": plan.counts[g.name]} for g in dense.groups],
        "rounds": [{"name": name, "loss": list(values)} for name, values in losses.items()],
        "images": drawn,
    }
    write_json(ctx.dir / "metrics.json", metrics)


class _Ticks:
    """Counts the steps of the stage, and stops between two of them when asked to."""

    def __init__(self, ctx: StageContext, total: int) -> None:
        self._ctx, self._total, self._done = ctx, total, 0

    def __call__(self) -> None:
        self._done += 1
        self._ctx.progress(self._done, self._total)
        self._ctx.stop_if_requested()


def measure_costs(dense: Sam, pruned: Sam, runs: int) -> dict[str, dict[str, Any]]:
    """Costs of both image encoders; latency (in turns), peak memory and energy of one picture at batch 1."""
    device = str(next(dense.encoder.parameters()).device)
    models = {DENSE: dense, PRUNED: pruned}
    calls = {name: partial(m.encoder, example_image(m.encoder, device)) for name, m in models.items()}
    with torch.no_grad():
        running = running_costs(calls, runs, device)
    whole = {name: {"params_whole_model": sum(p.numel() for p in m.model.parameters())} for name, m in models.items()}
    return {name: encoder_cost(m.encoder) | whole[name] | running[name] for name, m in models.items()}


def encoder_cost(encoder: nn.Module) -> dict[str, int]:
    """Parameters, bytes of the weights, and MACs of one picture with and without the products of attention."""
    nothing = Groups(())  # to remove, so that encoders of which no group is left are counted too
    found = {metric: cost_model(encoder, nothing, metric).dense for metric in ("params", "macs", "bytes")}
    return {**found, "macs_without_attention": cost_model(encoder, nothing, "macs", attention=False).dense}


def _latency_of(encoder: nn.Module) -> str:
    height, width = example_image(encoder, "meta").shape[-2:]
    return f"one forward of the image encoder at batch 1, {height} x {width} pixels"


def _protocol(
    images: ImageSource, labelled: LabelledImages | None, truth: Judged | None, asked: Mapping[str, int]
) -> dict[str, Any]:
    """Which pictures were asked, and how."""
    found = {
        "unlabelled_set": images.name,
        "unlabelled_fingerprint": images.fingerprint,
        "unlabelled": asked["images"],
        "agreement_side": AGREEMENT_SIDE,
    }
    if labelled is not None and truth is not None:
        found |= {
            "labelled_set": labelled.name,
            "labelled_fingerprint": labelled.fingerprint,
            "labelled": asked["labelled"],
            "objects": len(truth.asked) // 2,
            "everything": EVERYTHING,
        }
    return found
