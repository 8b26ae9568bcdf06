"""What the model cards of all kinds of models share: costs before and after, and the entry of the hub's index."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from gencompress.report import figures
from gencompress.report.data import RunData

Cost = tuple[str, Callable[[float | None], str], tuple[str, ...]]  # name, how it reads, where metrics.json has it


@dataclass(frozen=True)
class Benchmark:
    """Measured figures as the hub's model index takes them.

    Args:
        library: that opens the model.
        kind: of data, for example "generated".
        data: name of what was measured on.
        measured: type, name and value of every figure.
    """

    library: str
    kind: str
    data: str
    measured: list[tuple[str, str, float]]


def costs(run: RunData, measures: Sequence[Cost]) -> list[tuple[str, str, str, str]]:
    """Name, dense, pruned and change of every cost that was measured on both sides."""
    rows = []
    for name, words, keys in measures:
        dense, pruned = run.number("dense", *keys), run.number("pruned", *keys)
        if dense is not None and pruned is not None:
            rows.append((name, words(dense), words(pruned), figures.change(pruned, dense)))
    return rows
