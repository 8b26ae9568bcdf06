"""The rate-quality plot of a table in SVG coordinates on its first pair of axes; the page's script draws the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gencompress.board.axes import Axis
from gencompress.board.measures import Measure
from gencompress.board.tables import Table

WIDTH, HEIGHT = 640.0, 340.0
COLOURS = 6
SHAPES = (  # of marks around (0, 0): circle, square, triangle, diamond
    "M-4.5 0a4.5 4.5 0 1 0 9 0a4.5 4.5 0 1 0-9 0",
    "M-4-4h8v8h-8z",
    "M0-5.2L5 4H-5z",
    "M0-5.6L5.6 0L0 5.6L-5.6 0z",
)


@dataclass(frozen=True)
class Mark:
    """One row in the plot: its position in the table, its curve, its budget, and where it stands on every axis."""

    row: int
    curve: int
    group: str
    quoted: bool
    x: str
    y: str
    place: tuple[float, float] | None


@dataclass(frozen=True)
class Plot:
    """All that the template draws.

    Args:
        x: horizontal axes to choose from, the first one drawn.
        y: vertical axes, likewise.
        marks: one per row that has a rate and a quality.
        lines: number of the curve, and the SVG path through the means of its budgets.
        front: SVG path through the rows that no other beats.
    """

    x: tuple[Axis, ...]
    y: tuple[Axis, ...]
    marks: tuple[Mark, ...]
    lines: tuple[tuple[int, str], ...]
    front: str


def make_plot(table: Table) -> Plot | None:
    """The plot of a table, or None where fewer than two rows can be placed."""
    rates = {m.key for m in table.measures if m.role == "rate"}
    x = _first(table.rate, [axis for axis in table.axes if axis.key in rates])
    y = _first(table.quality, [axis for axis in table.axes if axis.key not in rates])
    if not x or not y:
        return None
    curve_of = {row: i for i, curve in enumerate(table.curves) for row in curve.rows}
    marks = [_mark(table, row, curve, x, y) for row, curve in sorted(curve_of.items())]
    lines = [(i, _line([m for m in marks if m.curve == i])) for i in range(len(table.curves))]
    best = sorted(m.place for m in marks if m.row in table.front and m.place)
    return Plot(tuple(x), tuple(y), tuple(marks), tuple((i, d) for i, d in lines if d), _path(best))


def _first(measure: Measure | None, axes: list[Axis]) -> list[Axis]:
    """Axes with that of the measure in front."""
    return sorted(axes, key=lambda axis: measure is None or axis.key != measure.key)


def _mark(table: Table, row: int, curve: int, x: Sequence[Axis], y: Sequence[Axis]) -> Mark:
    right, up = x[0].at[row], y[0].at[row]
    place = None if right is None or up is None else (round(right * WIDTH, 1), round((1 - up) * HEIGHT, 1))
    group = table.rows[row].budget or str(row)
    return Mark(row, curve, group, table.curves[curve].quoted, _positions(row, x), _positions(row, y), place)


def _positions(row: int, axes: Sequence[Axis]) -> str:
    """Where a row stands on every axis, a dash where it was not measured."""
    return " ".join("-" if axis.at[row] is None else f"{axis.at[row]:g}" for axis in axes)


def _line(marks: Sequence[Mark]) -> str:
    """The path through the mean place of the marks of every budget; empty for a single one."""
    groups: dict[str, list[tuple[float, float]]] = {}
    for mark in marks:
        if mark.place:
            groups.setdefault(mark.group, []).append(mark.place)
    means = sorted((sum(x for x, _ in g) / len(g), sum(y for _, y in g) / len(g)) for g in groups.values())
    return _path(means) if len(means) > 1 else ""


def _path(points: Sequence[tuple[float, float]]) -> str:
    return "M" + " ".join(f"{x:.1f},{y:.1f}" for x, y in points) if points else ""
