"""The result as a folder for users: the pipeline, its plan, and a model card with what it cost."""

from __future__ import annotations

from pathlib import Path

from gencompress.config import Config
from gencompress.core.plan import Plan
from gencompress.domains.diffusion.domain import Diffusion
from gencompress.domains.diffusion.export import export_pipeline
from gencompress.report.card import Task, model_card, origin
from gencompress.report.data import load_metrics


def publish(pruned: Diffusion, plan: Plan, config: Config, measured: Path, out: Path) -> None:
    """Write the pruned pipeline into the new folder `out`, with the figures of `measured`/metrics.json in its card.

    Raises:
        RunError: `out` is there and not empty.
    """
    card = model_card(
        load_metrics(measured / "metrics.json"),
        **origin(config.model.path, plan.budget),
        pipeline=type(pruned.pipe).__name__,
        task=_task(pruned),
        portable=config.export.portable,
    )
    export_pipeline(pruned.pipe, plan, out, portable=config.export.portable, card=card)


def _task(model: Diffusion) -> Task:
    text = getattr(model.pipe, "tokenizer", None) is not None or getattr(model.pipe, "tokenizer_2", None) is not None
    return "text-to-image" if text else "unconditional-image-generation"
