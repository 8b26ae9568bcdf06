"""Rate-quality curves of methods, and what each saves against a baseline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from gencompress.board.front import Point, pareto_front
from gencompress.board.measures import MEASURES, Measure
from gencompress.board.naming import Label
from gencompress.board.rows import Row
from gencompress.errors import DataError
from gencompress.metrics.bjontegaard import RateQuality, bd_quality, bd_rate


@dataclass(frozen=True)
class Curve:
    """The rows of one method in one table.

    Args:
        label: what its rows are called.
        quoted: True if its figures are from a paper.
        rows: positions of its rows in the table.
        points: (rate, quality) of the table's measures by ascending rate; seeds of one budget are averaged.
        saved: relative change of the rate at equal quality against the baseline, by key of the quality measure.
        gained: change of the table's quality at equal rate.
        why_not: why `saved` lacks a measure, by key.
    """

    label: Label
    quoted: bool
    rows: tuple[int, ...]
    points: tuple[Point, ...]
    saved: Mapping[str, float] = field(default_factory=dict)
    gained: float | None = None
    why_not: Mapping[str, str] = field(default_factory=dict)


def make_curves(
    rows: Sequence[Row], labels: Sequence[Label], rate: Measure, qualities: Sequence[Measure], baseline: str | None
) -> list[Curve]:
    """One curve per label in the order of appearance, compared with the one called `baseline` where there is one.

    Args:
        rows: rows of one table.
        labels: one per row.
        rate: horizontal axis.
        qualities: the first one is the vertical axis; rates at equal quality are compared by each of them.
        baseline: label of a curve, or None.
    """
    members: dict[tuple[Label, bool], list[int]] = {}
    for i, (row, label) in enumerate(zip(rows, labels, strict=True)):
        if row.ranked:
            members.setdefault((label, row.state == "quoted"), []).append(i)
    compared_with = {quoted: found for (label, quoted), found in members.items() if label.text == baseline}
    curves = []
    for (label, quoted), found in members.items():
        ours, theirs = [rows[i] for i in found], [rows[i] for i in compared_with.get(quoted, [])]
        points = tuple(points_of(ours, rate, qualities[0])) if qualities else ()
        compared = bool(theirs) and label.text != baseline
        saved, why_not = _saved(theirs, ours, rate, qualities) if compared else ({}, {})
        gained = _gained(theirs, ours, rate, qualities[0]) if compared else None
        curves.append(Curve(label, quoted, tuple(found), points, saved, gained, why_not))
    return curves


def points_of(rows: Sequence[Row], rate: Measure, quality: Measure) -> list[Point]:
    """(rate, quality) by ascending rate; rows of one budget, from several seeds, are one point, their mean."""
    together: dict[object, list[Point]] = {}
    for i, row in enumerate(rows):
        if rate.key in row.values and quality.key in row.values:
            point = (row.values[rate.key], row.values[quality.key])
            together.setdefault(row.budget or i, []).append(point)
    return sorted((sum(r for r, _ in p) / len(p), sum(q for _, q in p) / len(p)) for p in together.values())


def _saved(
    baseline: Sequence[Row], rows: Sequence[Row], rate: Measure, qualities: Sequence[Measure]
) -> tuple[dict[str, float], dict[str, str]]:
    """BD-rate by key of the measure, and why there is none."""
    saved, why_not = {}, {}
    for quality in qualities:
        try:
            saved[quality.key] = bd_rate(_curve(baseline, rate, quality), _curve(rows, rate, quality))
        except DataError as error:
            why_not[quality.key] = str(error)
    return saved, why_not


def _gained(baseline: Sequence[Row], rows: Sequence[Row], rate: Measure, quality: Measure) -> float | None:
    try:
        gain = bd_quality(_curve(baseline, rate, quality), _curve(rows, rate, quality))
    except DataError:
        return None
    return gain if quality.higher else -gain


def _curve(rows: Sequence[Row], rate: Measure, quality: Measure) -> RateQuality:
    """The points that no other point of the same method beats: who may choose the budget takes one of those."""
    sign = 1 if MEASURES[quality.key].higher else -1
    points = [(r, sign * q) for r, q in points_of(rows, rate, quality) if r > 0]
    best = dict(points[i] for i in pareto_front(points))
    return RateQuality(list(best), list(best.values()))
