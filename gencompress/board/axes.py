"""Where rows stand on the axes of a rate-quality plot. One axis knows nothing of the other, so a page can pair them."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from gencompress.board.measures import Measure
from gencompress.board.rows import Row
from gencompress.report.charts import bounds, decades, round_numbers

_LOG_FROM = 4  # a larger spread of rates is drawn on a logarithmic axis
_ZEROS = re.compile(r"(\.\d*?)0+(?=\D|$)")


@dataclass(frozen=True)
class Axis:
    """A measure as an axis.

    Args:
        key: of the measure.
        name: with unit, and how it is drawn where that is not plain.
        at: position of every row, 0 to 1; None where it was not measured. Quality rises to 1 where it is best.
        ticks: positions and texts.
    """

    key: str
    name: str
    at: tuple[float | None, ...]
    ticks: tuple[tuple[float, str], ...]


def make_axis(measure: Measure, head: str, rows: Sequence[Row]) -> Axis | None:
    """The axis of a measure, or None where fewer than two rows have it."""
    values = [row.values.get(measure.key) if row.ranked else None for row in rows]
    known = [value for value in values if value is not None]
    if len(known) < 2:
        return None
    low, high = min(known), max(known)
    log = measure.role == "rate" and low > 0 and high / low > _LOG_FROM
    first, last = bounds(low, high, log)
    scale = math.log if log else float
    down = measure.role == "quality" and not measure.higher

    def place(value: float) -> float:
        at = (scale(value) - scale(first)) / (scale(last) - scale(first))
        return round(1 - at if down else at, 4)

    marks = decades(first, last) if log else []
    marks = marks if len(marks) > 2 else round_numbers(first, last, 6)
    notes = [measure.unit] if measure.unit else []
    notes += ["log scale"] if log else []
    notes += ["lower is better, so upside down"] if down else []
    name = f"{head}, {', '.join(notes)}" if notes else head
    at = tuple(None if value is None else place(value) for value in values)
    return Axis(measure.key, name, at, tuple((place(mark), _short(measure.words(mark))) for mark in marks))


def _short(text: str) -> str:
    """The text of a tick without zeros behind the point."""
    return _ZEROS.sub(lambda found: found[1].rstrip("."), text)
