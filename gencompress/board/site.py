"""`write_board`: a folder with one page, its thumbnails, and the texts by which every row can be checked and made anew.

Everything from a run or a CSV file is text to the template, which escapes it; the page's policy lets no script run but
its own, whose hash it names, and loads nothing from elsewhere.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from markupsafe import Markup

from gencompress import __version__
from gencompress.board import exports
from gencompress.board.collect import read_runs
from gencompress.board.measures import Measure
from gencompress.board.naming import Label, seed
from gencompress.board.pictures import Strip, Strips
from gencompress.board.plot import COLOURS, HEIGHT, SHAPES, WIDTH, Plot, make_plot
from gencompress.board.quoted import read_quoted
from gencompress.board.record import file_name, write_record
from gencompress.board.rows import Row
from gencompress.board.tables import Table, make_tables
from gencompress.errors import DataError, RunError
from gencompress.report import figures
from gencompress.report.escape import printable
from gencompress.report.html import page_environment, template_text
from gencompress.run.atomic import refuse_occupied, write_dir

TITLE = "Compression leaderboard"
_MARKER = "board.json"  # by which a later call knows the folder as one of its own
_OURS = {"index.html", "runs", "pictures", *exports.NAMES}


@dataclass(frozen=True)
class Line:
    """A row as the page shows it: with label, curve, pictures, and what the names of its texts begin and end with."""

    index: int
    row: Row
    label: Label
    curve: int | None
    front: bool
    strip: Strip | None
    file: str
    texts: tuple[str, ...]
    trouble: str


@dataclass(frozen=True)
class View:
    """A table as the page shows it."""

    table: Table
    plot: Plot | None
    lines: tuple[Line, ...]

    @property
    def failures(self) -> int:
        """Rows without a result that counts."""
        return sum(not line.row.ranked for line in self.lines)

    def distinct(self, name: str) -> list[str]:
        """The values of a text of the rows, for a choice; budgets by size."""
        return sorted({getattr(line.row, name) for line in self.lines} - {""}, key=_natural)


def write_board(
    runs: Sequence[Path],
    out: Path,
    *,
    baseline: str | None = None,
    quoted: Sequence[str | Path] = (),
    title: str = TITLE,
) -> Path:
    """Write the site of a leaderboard into the folder `out`, and return the path of its page.

    Args:
        runs: run directories, or folders in which they lie.
        out: folder to make; one that an earlier board was written to is replaced whole.
        baseline: method that rates at equal quality are compared with.
        quoted: CSV files of published figures, or names of bundled ones.
        title: heading of the page.

    Raises:
        RunError: no runs, `out` holds something else than a board, or the disk is full.
        FormatError: a CSV file of published figures is wrong.
        ConfigError: no row is of the baseline's method.
    """
    rows = read_runs(runs) if runs else []
    rows += [row for source in quoted for row in read_quoted(source)]
    if not rows:
        raise RunError("a board needs run directories, or published figures with --quoted")
    _refuse_inside(rows, out)
    tables = make_tables(rows, baseline)
    try:
        with write_dir(out, refuse=_refuse_foreign, durable=False) as folder:
            context = _context(_views(tables, folder), printable(title))
            page = page_environment().get_template("board.jinja").render(**context)
            for name, text in {"index.html": page, **exports.all_texts(tables)}.items():
                (folder / name).write_text(text, encoding="utf-8")
    except OSError as error:
        raise RunError(f"{out}: the board cannot be written there: {error.strerror or error}") from error
    return out / "index.html"


def _refuse_foreign(out: Path) -> None:
    """RunError unless `out` is absent, empty, or what an earlier call wrote and nothing else."""
    names = {entry.name for entry in out.iterdir()} if out.is_dir() and not out.is_symlink() else set()
    if _MARKER not in names:
        refuse_occupied(out)
    elif names - _OURS:
        foreign = sorted(names - _OURS)[0]
        raise RunError(f"{out} holds {foreign!r} beside a board: move it away, or choose another folder")


def _refuse_inside(rows: Sequence[Row], out: Path) -> None:
    """RunError if a run lies in the folder that the board would replace, or the board would lie in a run."""
    target = out.resolve()
    for row in rows:
        if row.folder and (row.folder.is_relative_to(target) or target.is_relative_to(row.folder)):
            raise RunError(f"{out}: the run {row.folder} lies there; write the board to a folder apart from all runs")


def _views(tables: Sequence[Table], out: Path) -> list[View]:
    """Every table with what its rows link to, written into `out`."""
    (out / "runs").mkdir()
    (out / "pictures").mkdir()
    strips, taken = Strips(out / "pictures"), set[str]()
    records: dict[Path, tuple[str, tuple[str, ...]]] = {}
    views = []
    for table in tables:
        curve_of = {row: i for i, curve in enumerate(table.curves) for row in curve.rows}
        lines = []
        for i, (row, label) in enumerate(zip(table.rows, table.labels, strict=True)):
            if row.folder and row.folder not in records:
                name = file_name(row, taken)
                records[row.folder] = name, write_record(row, row.folder, out / "runs", name)
            name, texts = records[row.folder] if row.folder else ("", ())
            strip, trouble = _strip(strips, row)
            lines.append(Line(i, row, label, curve_of.get(i), i in table.front, strip, name, texts, trouble))
        views.append(View(table, make_plot(table), tuple(lines)))
    return views


def _strip(strips: Strips, row: Row) -> tuple[Strip | None, str]:
    """The pictures of a row, or what is wrong with them."""
    try:
        return strips.add(row), row.about.get("pictures", "")
    except (DataError, OSError) as error:
        return None, str(error)


def _context(views: Sequence[View], title: str) -> dict[str, Any]:
    """All that the template shows."""
    script = template_text("board.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return {
        "views": views,
        "title": title,
        "lead": _lead(views),
        "width": WIDTH,
        "height": HEIGHT,
        "colours": COLOURS,
        "shapes": SHAPES,
        "axes": _axes,
        "facts": _facts,
        "small": _small,
        "change": figures.change,
        "percent": partial(figures.change, base=1.0),
        "gain": _gain,
        "reason": _reason,
        "version": __version__,
        "style": Markup(template_text("report.css") + template_text("board.css")),
        "script": Markup(script),
        "script_hash": digest,
    }


def _lead(views: Sequence[View]) -> str:
    """What is on the board, in numbers."""
    rows = list({id(line.row): line.row for view in views for line in view.lines}.values())
    parts = [_number(len({(row.domain, row.task) for row in rows}), "task")]
    for state, noun in (("measured", "measured row"), ("quoted", "quoted row")):
        count = sum(row.state == state for row in rows)
        parts += [_number(count, noun)] if count else []
    missing = sum(not row.ranked for row in rows)
    parts += [f"{missing} without a result"] if missing else []
    return ", ".join(parts) + "."


def _number(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def _small(line: Line) -> str:
    """What stands below the label."""
    row = line.row
    parts = [row.variant if row.state == "quoted" else "", line.label.options, row.note, seed(row), line.trouble]
    return ", ".join(part for part in parts if part)


def _facts(line: Line) -> str:
    """What the detail of a row shows beside its figures, as JSON."""
    about = line.row.about
    facts = {name: about[name] for name in ("hardware", "date", "source", "note") if name in about}
    strip = line.strip
    shown: dict[str, Any] = {"id": line.row.id, "facts": facts, "command": about.get("command", "")}
    if strip:
        size = {"count": strip.count, "width": strip.width, "height": strip.height}
        shown["strip"] = {"before": strip.before, "after": strip.after, **size, "captions": strip.captions}
    return json.dumps(shown)


def _axes(axes: Sequence[Any]) -> str:
    """Name and ticks of axes, as JSON."""
    return json.dumps([{"key": axis.key, "name": axis.name, "ticks": axis.ticks} for axis in axes])


def _gain(value: float, measure: Measure) -> str:
    """A difference of quality with its sign."""
    text = measure.words(abs(value))
    return f"{'+' if value >= 0 else '−'}{text} {measure.unit}".strip()


def _reason(why: str | None) -> str:
    """The reason why two curves do not compare, in two words."""
    if not why:
        return figures.NONE
    return "no overlap" if "in common" in why else "too few budgets" if "two points" in why else "no curve"


def _natural(text: str) -> list[Any]:
    """A sort key by which "keep 0.9" comes after "keep 0.75", and numbers before words."""
    parts = re.split(r"([0-9]+(?:\.[0-9]+)?)", text)  # every second one is a number
    return [float(part) if i % 2 else part for i, part in enumerate(parts)]
