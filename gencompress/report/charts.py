"""Geometry of the two charts: widths by depth, and the curve of the mask learning. Templates turn it into SVG.

Coordinates are in the SVG's own units; colours are CSS classes, so both charts follow the page into dark mode.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from gencompress.report.data import RunData, dig, keep_asked, number, numbers

KINDS = {
    "head": "attention heads",
    "ffn": "feed-forward neurons",
    "resnet": "ResNet channels",
    "time": "time-embedding units",
    "adaln": "modulation outputs",
    "depth": "whole blocks",
    "width": "channels of the residual stream",
    "head_dim": "dimensions of each head",
}
WIDTH = 1000.0
_BAR_HEIGHT = 84.0
_PLACE = re.compile(
    r"^(down_blocks|up_blocks|mid_block|transformer_blocks|single_transformer_blocks|backbone\.blocks|[A-Za-z]+)"
    r"[\w]*\.?(\d+)?"
)
_ORDER = {"down_blocks": 1, "mid_block": 2, "up_blocks": 3}
_SHORT = {
    "down_blocks": "down", "mid_block": "mid", "up_blocks": "up", "transformer_blocks": "block",
    "single_transformer_blocks": "single", "layers": "layer", "backbone.blocks": "block",
}  # fmt: skip
_MOST_POINTS = 600


@dataclass(frozen=True)
class Bar:
    """One group: where it stands, and how much of it stays."""

    x: float
    width: float
    kept_y: float
    kept_height: float
    kind: int
    title: str


@dataclass(frozen=True)
class Widths:
    """The bars of one run, and its part kept by kind: (class, name, kept, size)."""

    label: str
    bars: tuple[Bar, ...]
    kinds: tuple[tuple[int, str, int, int], ...]
    height: float = _BAR_HEIGHT


@dataclass(frozen=True)
class Section:
    """A stretch of neighbouring groups in the same block of the network."""

    x: float
    width: float
    name: str


def widths(run: RunData) -> Widths | None:
    """The widths chart of a run, or None where its groups are not recorded."""
    groups = depth_order(group_list(run))
    if not groups:
        return None
    slot = WIDTH / len(groups)
    gap = min(2.0, slot * 0.2)
    kinds = kind_classes(groups)
    bars = []
    for i, g in enumerate(groups):
        height = _BAR_HEIGHT * g["kept"] / g["size"]
        title = f"{g['name']}: {g['kept']} of {g['size']} {KINDS.get(g['kind'], g['kind'])}"
        bars.append(Bar(i * slot, slot - gap, _BAR_HEIGHT - height, height, kinds[g["kind"]], title))
    totals = []
    for kind, index in kinds.items():
        members = [g for g in groups if g["kind"] == kind]
        sums = sum(g["kept"] for g in members), sum(g["size"] for g in members)
        totals.append((index, KINDS.get(kind, kind), *sums))
    return Widths(run.label, tuple(bars), tuple(totals))


def sections(run: RunData) -> list[Section]:
    """The labels below the widths chart: the blocks of the network, as far as they are wide enough for a name."""
    places = [_place(g["name"]) for g in depth_order(group_list(run))]
    slot = WIDTH / max(1, len(places))
    found: list[Section] = []
    start = 0
    for i in range(1, len(places) + 1):
        if i == len(places) or places[i] != places[start]:
            width = (i - start) * slot
            found.append(Section(start * slot, width, places[start] if 7.5 * len(places[start]) < width else ""))
            start = i
    return found


def group_list(run: RunData) -> list[dict[str, Any]]:
    """The recorded groups that are whole: name, kind, size >= 1 and 0 <= kept <= size."""
    listed = dig(run.metrics, "groups")
    whole = []
    for g in listed if isinstance(listed, list) else []:
        size, kept = number(g, "size"), number(g, "kept")
        if size is not None and kept is not None and size >= 1 and 0 <= kept <= size:
            whole.append({"name": str(g.get("name")), "kind": str(g.get("kind")), "size": int(size), "kept": int(kept)})
    return whole


def depth_order(groups: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """From the input to the output of the network: a UNet lists its middle block last, though it comes between."""
    return sorted(groups, key=lambda g: _ORDER.get(g["name"].split(".")[0], 0))


def kind_classes(groups: Sequence[dict[str, Any]]) -> dict[str, int]:
    """A colour number for every kind, known kinds always the same one, in the order of appearance."""
    known = list(KINDS)
    kinds = list(dict.fromkeys(g["kind"] for g in groups))
    others = [k for k in kinds if k not in KINDS]
    return {k: known.index(k) if k in KINDS else len(known) + others.index(k) % 2 for k in kinds}


def _place(name: str) -> str:
    """The block of a group by its name: "down_blocks.1.resnets.0" is "down 1"."""
    found = _PLACE.match(name)
    if found is None:
        return ""
    block, index = found.groups()
    return " ".join(part for part in (_SHORT.get(block, block), index) if part)


Series = tuple[list[float], list[float]]


@dataclass(frozen=True)
class Line:
    """The curve of one mask: its run, and SVG paths of every value and of the running mean."""

    run: int
    label: str
    raw: str
    mean: str


@dataclass(frozen=True)
class Tick:
    """A labelled position on an axis."""

    at: float
    text: str


@dataclass(frozen=True)
class Panel:
    """One plot: lines, axes, and dashed levels (position, run)."""

    title: str
    width: float
    height: float
    lines: tuple[Line, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    levels: tuple[tuple[float, int], ...]
    log: bool

    @property
    def legend(self) -> list[tuple[int, str]]:
        """Number and label of every run once."""
        return list(dict.fromkeys((line.run, line.label) for line in self.lines))


MASK_LOSS = "Loss: squared difference of the final latents"


def curves(
    runs: Sequence[RunData], loss_title: str = MASK_LOSS, width: float = 470.0, height: float = 200.0
) -> list[Panel]:
    """Loss and expected kept cost over the updates of what was learned; empty where no run recorded a curve."""
    goals = [keep_asked(run.metrics) for run in runs]
    loss, keep = ([(run.label, _series(run, name)) for run in runs] for name in ("loss", "keep"))
    panels = [
        _panel(loss_title, loss, [], width, height),
        _panel("Expected share of the prunable cost that stays", keep, goals, width, height),
    ]
    return [panel for panel in panels if panel is not None]


def rounds(runs: Sequence[RunData], width: float = 470.0, height: float = 200.0) -> list[Panel]:
    """The loss over the updates of every round of training, one plot per round; empty where no run recorded any."""
    recorded = [(run.label, _rounds(run)) for run in runs]
    panels = (
        _panel(f"Loss, round “{name}”", [(label, found.get(name, [])) for label, found in recorded], [], width, height)
        for name in dict.fromkeys(name for _, found in recorded for name in found)
    )
    return [panel for panel in panels if panel is not None]


def _rounds(run: RunData) -> dict[str, list[Series]]:
    """The losses of every round by its name."""
    listed = dig(run.metrics, "rounds")
    found = {}
    for entry in listed if isinstance(listed, list) else []:
        losses = numbers(dig(entry, "loss"))
        found[str(dig(entry, "name"))] = _split([float(i + 1) for i in range(len(losses))], losses)
    return found


def _series(run: RunData, name: str) -> list[Series]:
    """Steps and finite values, one series for every mask."""
    return _split(numbers(dig(run.metrics, "curve", "step")), numbers(dig(run.metrics, "curve", name)))


def _split(steps: Sequence[float | None], values: Sequence[float | None]) -> list[Series]:
    """The pairs that are whole, thinned; a step that does not rise begins the next series."""
    pairs = [(s, v) for s, v in zip(steps, values, strict=False) if s is not None and v is not None]
    cuts = [i for i in range(1, len(pairs)) if pairs[i][0] <= pairs[i - 1][0]]
    parts = [pairs[start:stop] for start, stop in pairwise([0, *cuts, len(pairs)])]
    thinned = [part[:: max(1, -(-len(part) // _MOST_POINTS))] for part in parts]
    return [([s for s, _ in part], [v for _, v in part]) for part in thinned if len(part) > 1]


def _panel(
    title: str,
    runs: Sequence[tuple[str, list[Series]]],
    goals: Sequence[float | None],
    width: float,
    height: float,
) -> Panel | None:
    """The plot of one quantity for all runs that recorded it."""
    drawn = [(i, label, *part) for i, (label, parts) in enumerate(runs) for part in parts]
    if not drawn:
        return None
    shown = {i for i, *_ in drawn}
    levels = [(goal, i) for i, goal in enumerate(goals) if goal is not None and i in shown]
    xs = [x for _, _, steps, _ in drawn for x in steps]
    ys = [y for _, _, _, values in drawn for y in values] + [level for level, _ in levels]
    log = min(ys) > 0 and max(ys) / min(ys) > 30
    low, high = bounds(min(ys), max(ys), log)
    scale = math.log10 if log else float
    first, last = min(xs), max(xs)

    def place_x(x: float) -> float:
        return width * (x - first) / (last - first)

    def place_y(y: float) -> float:
        return height * (1 - (scale(y) - scale(low)) / (scale(high) - scale(low)))

    lines = tuple(
        Line(i, label, _path(steps, values, place_x, place_y), _path(steps, _running_mean(values), place_x, place_y))
        for i, label, steps, values in drawn
    )
    x_ticks = tuple(Tick(place_x(x), f"{x:,.0f}") for x in round_numbers(first, last, 5))
    y_ticks = tuple(Tick(place_y(y), f"{y:g}") for y in (decades(low, high) if log else round_numbers(low, high, 4)))
    return Panel(title, width, height, lines, x_ticks, y_ticks, tuple((place_y(v), i) for v, i in levels), log)


def _path(xs: Sequence[float], ys: Sequence[float], place_x: Any, place_y: Any) -> str:
    return "M" + " ".join(f"{place_x(x):.1f},{place_y(y):.1f}" for x, y in zip(xs, ys, strict=True))


def _running_mean(values: Sequence[float]) -> list[float]:
    """Mean over a centred window of a tenth of the curve, at its ends as much of it as there is."""
    reach = max(1, len(values) // 20)
    windows = (values[max(0, i - reach) : i + reach + 1] for i in range(len(values)))
    return [sum(window) / len(window) for window in windows]


def bounds(low: float, high: float, log: bool) -> tuple[float, float]:
    """The axis range: a little more than the data, and never empty."""
    if log:
        return low / 1.15, high * 1.15
    margin = 0.06 * (high - low) or 0.05 * abs(high) or 1.0
    return (max(0.0, low - margin) if low >= 0 else low - margin), high + margin


def round_numbers(low: float, high: float, most: int) -> list[float]:
    """At most about `most` round numbers between two bounds."""
    rough = (high - low) / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= rough * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [k * step for k in range(first, last + 1)]


def decades(low: float, high: float) -> list[float]:
    """Powers of ten between two bounds, with their 3-folds where there are few."""
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    factors = (1, 3) if high / low < 1000 else (1,)
    return [f * 10.0**e for e in exponents for f in factors if low <= f * 10.0**e <= high]
