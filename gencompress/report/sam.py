"""The report of pruned SAM encoders: which numbers stand where, already in words. What no run recorded is left out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from gencompress.errors import DataError, NumericsError
from gencompress.metrics.statistics import PairedGain, paired_gain
from gencompress.report import charts, figures, tables
from gencompress.report.data import RunData, dig, numbers
from gencompress.report.pictures import Row, Sheet, listed_pictures, picture
from gencompress.report.tables import Cell, Column, Line, Table, cost_cell, quality_cell

DOMAIN = "sam"
_ENCODER = Column("Encoder", "parameters", ("params",), figures.count)
_MACS = Column("MACs", "with attention", ("macs",), figures.operations)
_PLAIN_MACS = Column("MACs", "without attention", ("macs_without_attention",), figures.operations)
_HEADLINE = (_ENCODER, _MACS, _PLAIN_MACS, Column("Latency", "of a picture", ("latency_s", "median"), figures.seconds))
_SIZES = (
    _ENCODER,
    Column("Whole model", "parameters", ("params_whole_model",), figures.count),
    Column("Size", "of the encoder", ("bytes",), figures.size),
    _MACS,
    _PLAIN_MACS,
)
MIOU = (("point prompts", "miou_point"), ("box prompts", "miou_box"), ("everything", "miou_everything"))
DENSE = "quality_dense"
PLACES = 3


@dataclass(frozen=True)
class Sheets:
    """Pictures of one kind: sheets with their numbers on the page, and what their first row and figures are."""

    title: str
    about: str
    first: str
    sheets: tuple[tuple[int, Sheet], ...]


def context(runs: Sequence[RunData]) -> dict[str, Any]:
    """What sam.jinja shows beyond what every report does."""
    drawn = [chart for chart in (charts.widths(run) for run in runs) if chart is not None]
    return {
        "lead": _lead(runs),
        "headline": _headline(runs),
        "shown": _shown(runs),
        "widths": drawn,
        "sections": next((charts.sections(run) for run in runs if charts.group_list(run)), []),
        "groups": tables.group_table(runs),
        "sizes": _sizes(runs),
        "curves": charts.rounds(runs),
        "cost": tables.cost(runs),
        "quality": _quality(runs),
        "notes": _notes(runs),
        "protocol": protocol(runs),
    }


def _lead(runs: Sequence[RunData]) -> list[tuple[str, str]]:
    """Sentences in pieces (plain, bold) about the run that keeps the fewest parameters."""
    run = min(runs, key=lambda r: r.number("pruned", "params") or 0)
    left, dense = figures.count(run.number("pruned", "params")), figures.count(run.number("dense", "params"))
    pieces = [(f"At {run.label}, ", left), (f" of {dense} encoder parameters are left.", "")]
    speed = run.ratio("latency_s", "median")
    if speed and speed > 1:
        pieces += [(" A picture is embedded ", f"{speed:.2f}× as fast"), (".", "")]
    point, before = run.number("quality", "miou_point", "mean"), run.number(DENSE, "miou_point", "mean")
    if point is not None and before is not None:
        pieces += [(" One point per object gives a mean IoU of ", figures.fixed(point, PLACES))]
        pieces += [(f", where the dense model has {figures.fixed(before, PLACES)}.", "")]
    elif (agreement := run.number("quality", "agreement", "mean")) is not None:
        pieces += [(" Its masks agree with the dense model's at a mean IoU of ", figures.fixed(agreement, PLACES))]
        pieces += [(".", "")]
    return pieces


def _headline(runs: Sequence[RunData]) -> Table:
    """Dense and every run: what they cost and how well they answer."""
    columns = [c for c in _HEADLINE if any(run.number("pruned", *c.keys) is not None for run in runs)]
    asked = [(small, key) for small, key in MIOU if _has(runs, key)]
    agree = _has(runs, "agreement")
    heads = [(c.head, c.small) for c in columns] + [("mIoU", small) for small, _ in asked]
    dense = [Cell(c.words(runs[0].number("dense", *c.keys))) for c in columns]
    dense += [Cell(figures.fixed(runs[0].number(DENSE, key, "mean"), PLACES)) for _, key in asked]
    lines = [Line("dense", "", (*dense, *([Cell("", "reference")] if agree else [])), dense=True)]
    for run in runs:
        cells = [cost_cell(run, column) for column in columns]
        cells += [_miou_cell(run, key) for _, key in asked]
        cells += [quality_cell(run, "agreement", PLACES, "")] if agree else []
        lines.append(Line(run.label, run.method, tuple(cells)))
    return Table((*heads, *([("Agreement", "mIoU to dense")] if agree else [])), tuple(lines))


def _has(runs: Sequence[RunData], key: str) -> bool:
    return any(run.number("quality", key, "mean") is not None for run in runs)


def _miou_cell(run: RunData, key: str) -> Cell:
    """A mean IoU, and how it changed."""
    after, before = run.number("quality", key, "mean"), run.number(DENSE, key, "mean")
    if after is None:
        return Cell(figures.NONE, "not measured")
    return Cell(figures.fixed(after, PLACES), "" if before is None else _signed(after - before))


def _signed(value: float) -> str:
    value = round(value, PLACES) + 0.0  # no minus in front of a zero
    return f"{'+' if value > 0 else ''}{figures.fixed(value, PLACES)}"


def _sizes(runs: Sequence[RunData]) -> Table:
    """Encoder and whole model, before and after."""
    columns = [c for c in _SIZES if any(run.number("pruned", *c.keys) is not None for run in runs)]
    dense = tuple(Cell(c.words(runs[0].number("dense", *c.keys))) for c in columns)
    lines = [Line("dense", "", dense, dense=True)]
    lines += [Line(run.label, "", tuple(cost_cell(run, c) for c in columns)) for run in runs]
    return Table(tuple((c.head, c.small) for c in columns), tuple(lines))


def _quality(runs: Sequence[RunData]) -> Table:
    """Means with standard errors, and the change over the same objects with its interval."""
    asked = [(small, key) for small, key in MIOU if _has(runs, key)]
    rest = [
        (head, small, key)
        for head, small, key in (("Agreement", "mIoU to dense", "agreement"), ("Embedding", "error", "embedding_error"))
        if _has(runs, key)
    ]
    heads = [head for small, _ in asked for head in (("mIoU", small), ("Change", "95 % interval"))]
    blank = [Cell("")] * len(rest)
    dense = [c for _, key in asked for c in (quality_cell(runs[0], key, PLACES, "", DENSE), Cell(""))]
    lines = [Line("dense", "", (*dense, *blank), dense=True)] if asked else []
    for run in runs:
        cells = [c for _, key in asked for c in (quality_cell(run, key, PLACES, ""), _change(run, key))]
        cells += [quality_cell(run, key, PLACES, "") for *_, key in rest]
        lines.append(Line(run.label, "", tuple(cells)))
    return Table((*heads, *((head, small) for head, small, _ in rest)), tuple(lines))


def _change(run: RunData, key: str) -> Cell:
    gain = _gain(run, key)
    if gain is None:
        return Cell(figures.NONE)
    return Cell(_signed(gain.mean), f"{_signed(gain.low)} to {_signed(gain.high)}")


def _gain(run: RunData, key: str) -> PairedGain | None:
    """Pruned minus dense over the same objects; None where values lack."""
    after, before = (numbers(dig(run.metrics, where, key, "per_image")) for where in ("quality", DENSE))
    try:
        return paired_gain([v for v in after if v is not None], [v for v in before if v is not None])
    except (DataError, NumericsError):
        return None


def _notes(runs: Sequence[RunData]) -> list[str]:
    """What a reader must know about the quality numbers."""
    notes = []
    if any(_gain(run, "miou_point") for run in runs):
        notes.append("Changes are over the same objects; their intervals are bootstrapped over objects.")
    if _has(runs, "agreement"):
        notes.append(
            "Agreement and embedding error need no labels: they compare with the dense model, mistakes included."
        )
    return notes


def _shown(runs: Sequence[RunData]) -> list[Sheets]:
    """Typical prompts, those that lost most, and everything in a picture; numbered through, for the page's controls."""
    truth = any(run.number("quality", "miou_point", "mean") is not None for run in runs)
    to = "the true mask" if truth else "the dense model's mask"
    bright = "The mask is bright and the true outline yellow" if truth else "The mask is bright"
    kinds = (
        ("Prompts", f"One column is one prompt. {bright}; below it stands its IoU with {to}.", "", "iou"),
        ("Where it lost most", "The prompts whose IoU fell most, one of a picture.", "worst_", "iou"),
        ("Everything", "The most confident masks that lie apart, of a grid of points; below, how many.", "", "masks"),
    )
    found, count = [], 0
    for title, about, prefix, figure in kinds:
        made = _sheets(runs, prefix, figure)
        numbered = tuple((count + i, sheet) for i, sheet in enumerate(made, 1))
        count += len(made)
        if numbered:
            found.append(Sheets(title, about, "prompt" if figure == "iou" else "picture", numbered))
    return found


def _sheets(runs: Sequence[RunData], prefix: str, figure: str) -> list[Sheet]:
    """One sheet for all runs that show the same pictures with the same dense masks, byte for byte."""
    first, rest = ("asked", "") if figure == "iou" else ("everything", "everything_")
    keys = f"{prefix}{first}", *(f"{prefix}{rest}{name}" for name in ("dense", "pruned"))
    together: dict[tuple[bytes, ...], list[tuple[RunData, list[list[Any]]]]] = {}
    for run in runs:
        files = [listed_pictures(run.folder, run.metrics, key) for key in keys]
        if all(files):
            same = tuple(path.read_bytes() for path in (*files[0], *files[1]))
            together.setdefault(same, []).append((run, files))
    return [_sheet(group, prefix, figure) for group in together.values()]


def _sheet(group: Sequence[tuple[RunData, list[list[Any]]]], prefix: str, figure: str) -> Sheet:
    run, (asked, dense, _) = group[0]
    columns = min(len(paths) for _, files in group for paths in files)
    rows = [Row("prompt" if figure == "iou" else "picture", True, tuple(picture(path) for path in asked[:columns]))]
    for label, owner, name, paths in [
        ("dense", run, "dense", dense), *((r.label, r, "pruned", files[2]) for r, files in group)
    ]:  # fmt: skip
        below = numbers(dig(owner.metrics, "images", f"{prefix}{figure}_{name}"))
        words = [_below(below[i] if i < len(below) else None, figure) for i in range(columns)]
        rows.append(Row(label, False, tuple(picture(p, below=w) for p, w in zip(paths, words, strict=False))))
    names = dig(run.metrics, "images", f"{prefix}names" if figure == "iou" else "everything_names")
    given = [str(name) for name in names] if isinstance(names, list) else []
    captions = (given[i] if i < len(given) else f"picture {i + 1}" for i in range(columns))
    return Sheet(tuple(rows), tuple(captions), 0)


def _below(value: float | None, figure: str) -> str:
    if value is None:
        return ""
    return f"IoU {figures.fixed(value, 2)}" if figure == "iou" else f"{value:.0f} mask{'' if value == 1 else 's'}"


def protocol(runs: Sequence[RunData]) -> list[tuple[str, str]]:
    """The pictures and prompts, and the lines that every report has."""
    own = []
    for name, words in (("mIoU", _labelled), ("Everything", _grid), ("Agreement", _unlabelled)):
        values = list(dict.fromkeys(filter(None, map(words, runs))))
        own += [(name, "; ".join(values))] if values else []
    return own + tables.protocol(runs)


def _labelled(run: RunData) -> str | None:
    pictures, objects = run.number("pictures", "labelled"), run.number("pictures", "objects")
    if pictures is None or objects is None:
        return None
    return (
        f"{objects:.0f} objects in {pictures:.0f} pictures of {run.text('pictures', 'labelled_set')}; asked with the "
        "point of an object farthest from its edge, and with the tight box around it; of the masks that the model "
        "proposes, the one whose predicted IoU is highest"
    )


def _grid(run: RunData) -> str | None:
    how = run.text("pictures", "everything")
    if how is None:
        return None
    return f"{how}; a true mask counts with the proposal that it is matched to, each proposal once"


def _unlabelled(run: RunData) -> str | None:
    pictures, side = run.number("pictures", "unlabelled"), run.number("pictures", "agreement_side")
    if pictures is None or side is None:
        return None
    return (
        f"mean IoU of pruned and dense masks for {side:.0f} × {side:.0f} points on each of {pictures:.0f} pictures of "
        f"{run.text('pictures', 'unlabelled_set')}; embedding error is the distance over the dense embedding's length"
    )
