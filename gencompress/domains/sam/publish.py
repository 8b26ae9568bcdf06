"""The result as a folder for users: model and processor, the plan, and a model card with what it cost."""

from __future__ import annotations

from pathlib import Path

from gencompress.config import Config
from gencompress.core.plan import Plan
from gencompress.domains.sam.configs import why_not_stock
from gencompress.domains.sam.domain import Sam
from gencompress.domains.sam.export import export_sam
from gencompress.domains.sam.families import family_of
from gencompress.domains.sam.teacher import Teacher
from gencompress.report.card import model_card, origin
from gencompress.report.data import load_metrics


def publish(student: Sam, teacher: Teacher, plan: Plan, measured: Path, config: Config, out: Path) -> None:
    """Write the pruned model into the new folder `out`, with the figures of `measured`/metrics.json in its card.

    Raises:
        RunError: `out` is there and not empty.
    """
    card = model_card(
        load_metrics(measured / "metrics.json"),
        **origin(config.model.path, plan.budget),
        pipeline=family_of(student.encoder).model,
        task="mask-generation",
        portable=why_not_stock(student.encoder) is None,
    )
    export_sam(student.model, plan, out, processor=teacher.processor, card=card)
