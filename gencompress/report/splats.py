"""The report of pruned scenes: which numbers stand where, already in words. What no run recorded is left out."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from gencompress.report import charts, figures, tables
from gencompress.report.data import RunData, dig, number, numbers
from gencompress.report.pictures import Picture, listed_pictures, picture, sheets
from gencompress.report.tables import Cell, Column, Line, Table, cost_cell, quality_cell

DOMAIN = "splats"
_STRIPS, _WIDE = 6, 1536  # strips of a run, and their largest width in pixels
_LOSS = "Loss: difference to the input's own renders"
_COSTS = (
    Column("Splats", "", ("units",), figures.count),
    Column("Size", "of the first file", ("bytes",), figures.size),
    Column("Render", "of one view, median", ("latency_s", "median"), figures.seconds),
    Column("Energy", "of one view", ("energy_j",), figures.energy),
)
_TEST, _CLOSE = "quality", "quality_close"
_QUALITY = (("PSNR", "psnr_db", "dB"), ("SSIM", "ssim", ""), ("LPIPS", "lpips", ""))
_STEPS = {"prune": "after deletion", "merge": "after merging", "recover": "after refinement"}


@dataclass(frozen=True)
class Crops:
    """The worst regions of one run, each a strip: input, pruned, difference."""

    label: str
    strips: tuple[Picture, ...]


def context(runs: Sequence[RunData], folder: Path) -> dict[str, Any]:
    """What splats.jinja shows beyond what every report does; links are relative to `folder`, where the page will be."""
    return {
        "lead": _lead(runs),
        "headline": _headline(runs),
        "sheets": sheets(runs, whole="input"),
        "gain": max((run.number("images", "error_gain") or 1 for run in runs), default=1),
        "crops": [made for made in map(_crops, runs) if made.strips],
        "pages": [(run.label, link) for run in runs for link in _pages(run, folder)],
        "files": _files(runs),
        "removed": _removed(runs),
        "steps": _steps(runs),
        "curves": charts.curves(runs, _LOSS),
        "memory": _memory(runs),
        "quality": _quality(runs),
        "protocol": _protocol(runs),
    }


def _lead(runs: Sequence[RunData]) -> list[tuple[str, str]]:
    """Sentences in pieces (plain, bold) about the run that keeps the fewest splats."""
    run = min(runs, key=lambda r: r.number("pruned", "units") or 0)
    left, dense = run.number("pruned", "units"), run.number("dense", "units")
    pieces = [(f"At {run.label}, ", figures.count(left)), (f" of {figures.count(dense)} splats are left.", "")]
    psnr, close = (run.number(where, "psnr_db", "mean") for where in (_TEST, _CLOSE))
    if psnr is not None:
        pieces += [(" Views that chose nothing match the input's own renders at ", figures.fixed(psnr, 1, "dB"))]
        pieces += [(" PSNR", ""), *([(", close-ups at ", figures.fixed(close, 1, "dB"))] if close is not None else [])]
        pieces += [(".", "")]
    return pieces


def _headline(runs: Sequence[RunData]) -> Table:
    """The input and every run: what it costs and how close it stays."""
    columns = [c for c in _COSTS if any(run.number("pruned", *c.keys) is not None for run in runs)]
    kinds = [
        (name, key, places, unit, where, small)
        for name, key, places, unit, where, small in (
            ("PSNR", "psnr_db", 1, "dB", _TEST, "held-out views"),
            ("SSIM", "ssim", 4, "", _TEST, "held-out views"),
            ("PSNR", "psnr_db", 1, "dB", _CLOSE, "close-ups"),
        )
        if any(run.number(where, key, "mean") is not None for run in runs)
    ]
    heads = [(c.head, c.small) for c in columns] + [(name, small) for name, *_, small in kinds]
    dense = [Cell(c.words(runs[0].number("dense", *c.keys))) for c in columns] + [Cell("", "reference")] * len(kinds)
    lines = [Line("input", "", tuple(dense), dense=True)]
    for run in runs:
        cells = [cost_cell(run, column) for column in columns]
        cells += [quality_cell(run, key, places, unit, where) for _, key, places, unit, where, _ in kinds]
        lines.append(Line(run.label, run.method, tuple(cells)))
    return Table(tuple(heads), tuple(lines))


def _files(runs: Sequence[RunData]) -> Table:
    """Every written file, decoded again: what it takes, and what its quantisation costs."""
    asked: tuple[tuple[str, str, str, Callable[[float | None], str]], ...] = (
        ("Size", "", "bytes", figures.size),
        ("Bytes", "per splat", "bytes_per_splat", lambda v: figures.fixed(v, 1)),
        ("PSNR", "held-out views", "psnr_db", lambda v: figures.fixed(v, 2, "dB")),
        ("SSIM", "held-out views", "ssim", lambda v: figures.fixed(v, 4)),
        ("PSNR", "close-ups", "psnr_close_db", lambda v: figures.fixed(v, 2, "dB")),
    )
    lines = []
    for run in runs:
        dense = run.number("dense", "bytes")
        for file in _entries(run.metrics, "files"):
            size = number(file, "bytes")
            cells = [Cell(words(number(file, key))) for _, _, key, words in asked]
            cells[0] = Cell(cells[0].value, figures.change(size, dense), size / dense if size and dense else None)
            lines.append(Line(f".{file.get('format')}", run.label, tuple(cells)))
    return Table(tuple((head, small) for head, small, *_ in asked), tuple(lines))


def _steps(runs: Sequence[RunData]) -> Table:
    """Splats and quality after every step, and of the file as it was written."""
    lines = []
    for run in runs:
        made = [(words, dig(run.metrics, "stages", key)) for key, words in _STEPS.items()]
        final = {"units": run.number("pruned", "units"), "psnr_db": run.number(_TEST, "psnr_db", "mean")}
        final["ssim"] = run.number(_TEST, "ssim", "mean")
        for words, values in [*made, ("as written", final)]:
            if values is None:
                continue
            cells = (
                Cell(figures.count(number(values, "units"))),
                Cell(figures.fixed(number(values, "psnr_db"), 2, "dB")),
                Cell(figures.fixed(number(values, "ssim"), 4)),
            )
            lines.append(Line(run.label, words, cells))
    return Table((("Splats", ""), ("PSNR", "held-out views"), ("SSIM", "held-out views")), tuple(lines))


def _removed(runs: Sequence[RunData]) -> Table:
    """Splats of the input by what became of them."""
    reasons = list(dict.fromkeys(reason for run in runs for reason in _counts(run, "filter")))
    fates = list(dict.fromkeys(fate for run in runs for fate in _counts(run, "removal")))
    lines = []
    for run in runs:
        unusable, went = _counts(run, "filter"), _counts(run, "removal")
        cells = [Cell(figures.count(unusable.get(reason))) for reason in reasons]
        cells += [Cell(figures.count(went.get(fate))) for fate in fates]
        lines.append(Line(run.label, "", (*cells, Cell(figures.count(run.number("pruned", "units"))))))
    heads = [(reason, "filtered first") for reason in reasons] + [(fate, "of the input") for fate in fates]
    return Table((*heads, ("left", "")), tuple(lines))


def _quality(runs: Sequence[RunData]) -> Table:
    """Means with standard errors on held-out views and close-ups, and the worst view of each."""
    shown = [
        (name, key, unit, where, small)
        for where, small in ((_TEST, "held-out views"), (_CLOSE, "close-ups"))
        for name, key, unit in _QUALITY
        if any(run.number(where, key, "mean") is not None for run in runs)
    ]
    places = {"psnr_db": 2, "ssim": 4, "lpips": 4}
    worst = [where for where in (_TEST, _CLOSE) if any(_worst(run, where) for run in runs)]
    lines = []
    for run in runs:
        cells = [quality_cell(run, key, places[key], unit, where) for _, key, unit, where, _ in shown]
        cells += [Cell(_worst(run, where) or figures.NONE) for where in worst]
        lines.append(Line(run.label, "", tuple(cells)))
    heads = [(name, small) for name, *_, small in shown]
    heads += [("Worst PSNR", "held-out view" if where == _TEST else "close-up") for where in worst]
    return Table(tuple(heads), tuple(lines))


def _worst(run: RunData, where: str) -> str | None:
    values = [value for value in numbers(dig(run.metrics, where, "psnr_db", "per_image")) if value is not None]
    return figures.fixed(min(values), 1, "dB") if values else None


def _memory(runs: Sequence[RunData]) -> Table:
    """What the runs themselves took."""
    heads = (("Time", "until the files were written"), ("Peak memory", "of the process"))
    lines = []
    for run in runs:
        cells = Cell(figures.seconds(run.number("seconds"))), Cell(figures.size(run.number("peak_memory_bytes")))
        lines.append(Line(run.label, "", cells))
    return Table(heads, tuple(lines))


def _protocol(runs: Sequence[RunData]) -> list[tuple[str, str]]:
    """The views, how figures are taken from them, and the lines that every report has."""
    own = []
    for name, words in (("Views", _views), ("PSNR and SSIM", _closeness)):
        values = list(dict.fromkeys(filter(None, map(words, runs))))
        own += [(name, "; ".join(values))] if values else []
    return own + [line for line in tables.protocol(runs) if line[0] not in dict(own)]


def _views(run: RunData) -> str | None:
    counts = [run.number("views", key) for key in ("score", "refine", "test", "close", "width", "height")]
    if any(count is None for count in counts):
        return None
    score, refine, test, close, width, height = (f"{count:.0f}" for count in counts)
    source = {"orbit": "around the object", "room": "in the room"}.get(str(run.text("views", "source")))
    where = source or f"from {run.text('views', 'source') or 'an unnamed rig'}"
    return (
        f"{score} to score on, {refine} to refine on, {test} held-out ones and {close} close-ups to judge by, {where}, "
        f"{width} × {height} pixels; the truth is the input's own render"
    )


def _closeness(run: RunData) -> str | None:
    ssim = run.text(_TEST, "protocol", "ssim")
    return None if ssim is None else f"to the input's own renders, mean of the values of every view; SSIM {ssim}"


def _crops(run: RunData) -> Crops:
    """The strips of the worst views, encoded anew; the first ones where no PSNR tells which those are."""
    found = listed_pictures(run.folder, run.metrics, "crops")
    psnr = [math.inf if value is None else value for value in numbers(dig(run.metrics, "images", "psnr_db"))]
    if len(psnr) == len(found):
        found = [found[i] for i in sorted(range(len(found)), key=psnr.__getitem__)]
    return Crops(run.label, tuple(picture(path, _WIDE) for path in found[:_STRIPS]))


def _pages(run: RunData, folder: Path) -> list[str]:
    """Links to the viewer pages that lie in the run directory."""
    root, links = run.folder.resolve(), []
    for file in _entries(run.metrics, "files"):
        path = root / str(file.get("path")).replace("\0", "")
        if file.get("format") == "html" and path.is_file() and path.resolve().is_relative_to(root):
            links.append(quote(Path(os.path.relpath(path, folder.resolve())).as_posix()))
    return links


def _entries(metrics: Mapping[str, Any], key: str) -> list[Mapping[str, Any]]:
    """The mappings of a list; empty if it is none."""
    found = metrics.get(key)
    return [item for item in found if isinstance(item, Mapping)] if isinstance(found, list) else []


def _counts(run: RunData, key: str) -> dict[str, float]:
    """The numbers of a mapping that are not zero, by name."""
    found = run.metrics.get(key)
    values = {str(name): number(found, name) for name in found} if isinstance(found, Mapping) else {}
    return {name: value for name, value in values.items() if value}
