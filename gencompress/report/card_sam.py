"""What the model card of a pruned SAM shows of its own."""

from __future__ import annotations

from typing import Any

from gencompress.report import figures
from gencompress.report.card_parts import Benchmark, Cost, costs
from gencompress.report.data import RunData, dig, numbers
from gencompress.report.sam import DENSE, MIOU, PLACES, protocol

_COSTS: tuple[Cost, ...] = (
    ("Parameters of the image encoder", figures.count, ("params",)),
    ("Parameters of the whole model", figures.count, ("params_whole_model",)),
    ("MACs of the encoder", figures.operations, ("macs",)),
    ("MACs without products of attention", figures.operations, ("macs_without_attention",)),
    ("Size of the encoder", figures.size, ("bytes",)),
    ("Latency of the encoder, median", figures.seconds, ("latency_s", "median")),
    ("Peak memory above the weights", figures.size, ("peak_memory_bytes",)),
    ("Energy per picture", figures.energy, ("energy_j",)),
)
_LABEL_FREE = (
    ("Agreement with the dense model, mIoU", "agreement"),
    ("Relative error of embeddings", "embedding_error"),
)


def context(run: RunData) -> dict[str, Any]:
    """Costs, quality before and after, protocol, and the object that lost most; only what was measured."""
    labelled = [
        ("mean_iou", f"mIoU, {prompt}", value)
        for prompt, key in MIOU
        if (value := run.number("quality", key, "mean")) is not None
    ]
    data = run.text("pictures", "labelled_set") or "labelled pictures"
    return {
        "benchmark": Benchmark("transformers", "image-segmentation", data, labelled),
        "costs": costs(run, _COSTS),
        "quality": _quality(run),
        "protocol": protocol([run]),
        "worst": _worst(run),
    }


def _quality(run: RunData) -> list[tuple[str, str, str]]:
    """Name, and values before and after with their standard errors."""
    rows = [(f"mIoU, {prompt}", _value(run, DENSE, key), _value(run, "quality", key)) for prompt, key in MIOU]
    rows += [(name, figures.NONE, _value(run, "quality", key)) for name, key in _LABEL_FREE]
    return [row for row in rows if row[2] != figures.NONE]


def _value(run: RunData, where: str, key: str) -> str:
    mean, se = run.number(where, key, "mean"), run.number(where, key, "se")
    spread = f" ± {figures.fixed(se, PLACES)}" if se is not None else ""
    return figures.fixed(mean, PLACES) + spread


def _worst(run: RunData) -> tuple[str, str] | None:
    """IoU of the object that lost most by a point prompt, before and after."""
    before, after = (numbers(dig(run.metrics, where, "miou_point", "per_image")) for where in (DENSE, "quality"))
    pairs = [(b, a) for b, a in zip(before, after, strict=False) if b is not None and a is not None]
    if not pairs:
        return None
    lost = max(pairs, key=lambda pair: pair[0] - pair[1])
    return figures.fixed(lost[0], 2), figures.fixed(lost[1], 2)
