"""A comparison in words, as a table for the console, and as a page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from gencompress import __version__
from gencompress.board.compare import Comparison, Difference
from gencompress.report.html import page_environment, template_text

_WIDTH, _HEIGHT = 420.0, 120.0


def headline(comparison: Comparison) -> str:
    """The outcome in a few words, the runs called A and B."""
    if comparison.seeds_only:
        return "No difference of method"
    won = {sign: [_name(d) for d in comparison.differences if d.better == sign] for sign in (1, -1)}
    sides = [(name, won[sign]) for sign, name in ((1, "A"), (-1, "B")) if won[sign]]
    if not sides:
        return "No difference can be told"
    if len(sides) == 1 and len(sides[0][1]) == len(comparison.differences):
        return f"{sides[0][0]} is better"
    return ", ".join(f"{name} is better in {_listed(names)}" for name, names in sides)


def verdict(comparison: Comparison) -> list[str]:
    """Sentences: whether there is a difference, in what, how large, and what it cannot tell."""
    found = comparison.differences
    scope = f"over {pairs(comparison)} at {comparison.rows[0].budget}"
    if comparison.seeds_only:
        return [_of_seeds(comparison, scope)]
    sentences = []
    for sign, name in ((1, comparison.first), (-1, comparison.second)):
        better = [d for d in found if d.better == sign]
        if better:
            sentences.append(f"{name} is better in {_listed([_amount(d) for d in better])}, {scope}.")
    unclear = [d for d in found if d.better == 0]
    if unclear and sentences:
        sentences.append(f"No difference can be told in {_listed([_interval(d) for d in unclear])}.")
    elif unclear:
        intervals = _listed([_interval(d) for d in unclear])
        sentences.append(f"No difference can be told {scope}: {intervals}.")
    if any(row.options.get("criterion.seed") is not None for row in comparison.rows):
        sentences.append("Each method was run once: what another seed of it would give, these runs do not say.")
    return sentences


def pairs(comparison: Comparison) -> str:
    """How many of what was paired, such as "131 objects and 64 pictures"."""
    view = comparison.rows[0].domain == "splats"
    counts = ((d.gain.n, "view" if view else d.measure.each) for d in comparison.differences)
    return _listed([f"{n} {noun}s" for n, noun in dict.fromkeys(counts)])


def _of_seeds(comparison: Comparison, scope: str) -> str:
    """What a comparison of two seeds of one method says: nothing about the method, whatever the intervals are."""
    largest = max(comparison.differences, key=lambda d: abs(d.gain.mean) / (abs(d.first) + abs(d.second) or 1))
    clear = [d for d in comparison.differences if d.better]
    if not clear:
        intervals = _listed([_interval(d) for d in comparison.differences])
        return f"The same method from two seeds, and no difference {scope}: {intervals}."
    return (
        f"No difference of method: the runs differ in their seeds alone, and {_interval(largest)} is what a seed does, "
        f"{scope}. A gain of another method has to be larger than that."
    )


def _amount(d: Difference) -> str:
    """Such as "PSNR by 1.32 dB [0.90, 1.75]"."""
    low, high = sorted((abs(d.gain.low), abs(d.gain.high)))
    unit = f" {d.measure.unit}" if d.measure.unit.endswith("dB") else ""
    return f"{_name(d)} by {d.measure.words(abs(d.gain.mean))}{unit} [{d.measure.words(low)}, {d.measure.words(high)}]"


def _interval(d: Difference) -> str:
    """Such as "PSNR -0.11 dB [-0.40, +0.20]"."""
    unit = f" {d.measure.unit}" if d.measure.unit.endswith("dB") else ""
    return f"{_name(d)} {signed(d, d.gain.mean)}{unit} [{signed(d, d.gain.low)}, {signed(d, d.gain.high)}]"


def _name(d: Difference) -> str:
    return "PSNR of close-ups" if d.measure.key == "psnr_close_db" else d.measure.head


def signed(d: Difference, value: float) -> str:
    """A difference with its sign."""
    text = d.measure.words(abs(value))
    return f"{'+' if value >= 0 else '−'}{text}"


def as_text(comparison: Comparison) -> str:
    """The table and the verdict, for a console."""
    each = comparison.differences[0].gain.confidence
    head = ["", "A", "B", "A − B", f"interval ({each:.4g})", ""]
    lines = [head]
    for d in comparison.differences:
        words = {1: "A better", -1: "B better", 0: "no difference"}[d.better]
        unit = f", {d.measure.unit}" if d.measure.unit else ""
        interval = f"[{signed(d, d.gain.low)}, {signed(d, d.gain.high)}]"
        first, second = d.measure.words(d.first), d.measure.words(d.second)
        lines.append([f"{d.measure.head}{unit}", first, second, signed(d, d.gain.mean), interval, words])
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    texts = (0, len(head) - 1)  # columns of words, to the left
    table = []
    for line in lines:
        cells = [c.ljust(w) if i in texts else c.rjust(w) for i, (c, w) in enumerate(zip(line, widths, strict=True))]
        table.append("  ".join(cells).rstrip())
    names = [f"A  {comparison.first}", f"B  {comparison.second}"]
    return "\n".join([*names, "", *table, "", *verdict(comparison)]) + "\n"


@dataclass(frozen=True)
class Bars:
    """Differences per picture, sorted, as bars from the zero line, with the interval of their mean."""

    name: str
    bars: tuple[tuple[float, float, float, float], ...]
    zero: float
    mean: float
    low: float
    high: float
    ticks: tuple[tuple[float, str], ...]


def as_page(comparison: Comparison) -> str:
    """One HTML page without script: verdict, table, and the differences per picture."""
    return (
        page_environment()
        .get_template("compare.jinja")
        .render(
            c=comparison,
            headline=headline(comparison),
            verdict=verdict(comparison),
            bars=[_bars(d) for d in comparison.differences],
            pairs=pairs(comparison),
            signed=signed,
            width=_WIDTH,
            height=_HEIGHT,
            version=__version__,
            style=Markup(template_text("report.css") + template_text("board.css")),
        )
    )


def _bars(d: Difference) -> Bars:
    values = sorted(d.per_image, reverse=True)
    top, bottom = max(0.0, *values, d.gain.high), min(0.0, *values, d.gain.low)
    span = (top - bottom) or 1.0

    def place(value: float) -> float:
        return _HEIGHT * (top - value) / span

    slot = _WIDTH / len(values)
    bars = tuple(
        (i * slot, min(place(v), place(0)), max(slot - min(2.0, slot / 4), 0.5), abs(place(v) - place(0)))
        for i, v in enumerate(values)
    )
    ticks = tuple((place(v), signed(d, v)) for v in sorted({top, bottom, 0.0}))
    name = f"{_name(d)}{', dB' if d.measure.unit == 'dB' else ''}"
    return Bars(name, bars, place(0), place(d.gain.mean), place(d.gain.low), place(d.gain.high), ticks)


def _listed(parts: Sequence[str]) -> str:
    """Parts as a phrase: "a, b and c"."""
    return " and ".join(part for part in (", ".join(parts[:-1]), *parts[-1:]) if part)
