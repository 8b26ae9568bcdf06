"""The board for programs: CSV, JSON, Markdown, and the `model-index` that model cards carry."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from typing import Any

from gencompress import __version__
from gencompress.board.measures import MEASURES
from gencompress.board.rows import Row
from gencompress.board.tables import Table
from gencompress.report.escape import csv_cell, markdown, printable, yaml_string

NAMES = ("board.csv", "board.json", "board.md", "model-index.yaml")
_SCHEMA = 1
_TEXTS = ("id", "domain", "task", "method", "variant", "budget", "state", "error")
_ABOUT = ("source", "url", "date", "hardware", "command")
_TAGS = {
    "diffusion": ("unconditional-image-generation", "text-to-image"),
    "sam": ("mask-generation", "mask-generation"),
}
_NAMES = {"psnr_db": "PSNR, dB", "ssim": "SSIM", "lpips": "LPIPS", "psnr_close_db": "PSNR of close-ups, dB"}


def all_texts(tables: Sequence[Table]) -> dict[str, str]:
    """The content of every file by its name, those of `NAMES`."""
    as_text = json.dumps(as_json(tables), indent=1, allow_nan=False) + "\n"
    return dict(zip(NAMES, (as_csv(tables), as_text, as_markdown(tables), as_model_index(tables)), strict=True))


def as_csv(tables: Sequence[Table]) -> str:
    """One line per row. Text that a spreadsheet would compute has an apostrophe in front; figures are in full."""
    measures = [key for key in MEASURES if any(key in row.values for table in tables for row in table.rows)]
    fields = list(dict.fromkeys(name for table in tables for row in table.rows for name in row.protocol))
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    protocol = [f"protocol.{name}" for name in fields]
    writer.writerow([*_TEXTS, "label", "pareto", *measures, *(f"{m}.se" for m in measures), *protocol, *_ABOUT])
    for table, position, row, label in _lines(tables):
        cells: list[object] = [getattr(row, name) for name in _TEXTS]
        cells += [label, int(position in table.front), *(row.values.get(key, "") for key in measures)]
        cells += [row.spread.get(key, "") for key in measures]
        cells += [row.protocol.get(name) or "" for name in fields] + [row.about.get(name, "") for name in _ABOUT]
        writer.writerow([csv_cell(cell) for cell in cells])
    return out.getvalue()


def as_json(tables: Sequence[Table]) -> dict[str, Any]:
    """All tables with rows, curves and what they save against the baseline, in plain JSON types."""
    return {"schema": _SCHEMA, "made_by": f"gencompress {__version__}", "tables": [_table(table) for table in tables]}


def as_markdown(tables: Sequence[Table]) -> str:
    """A heading and a table for each, best rows first."""
    parts = []
    for table in tables:
        quality, rate = table.quality, table.rate
        lines = [f"## {markdown(', '.join(part for part in (table.task, table.apart) if part))}", ""]
        lines += [f"{markdown(table.about.title)}: {markdown(table.conditions)}.", ""]
        lines.append("| " + " | ".join(["method", "budget", *(str(markdown(h)) for h in table.heads), "state"]) + " |")
        lines.append("|---|---|" + "---:|" * len(table.heads) + "---|")
        for i, (row, label) in enumerate(zip(table.rows, table.labels, strict=True)):
            cells = [label.text, row.budget or row.variant, *(m.words(row.values.get(m.key)) for m in table.measures)]
            state = f"{row.state}: {row.error}" if row.error else "quoted" if row.state == "quoted" else ""
            cells.append("Pareto front" if i in table.front and not state else state)
            lines.append("| " + " | ".join(str(markdown(cell)) for cell in cells) + " |")
        if table.front and quality and rate:
            lines += ["", f"Pareto front: no other row has less {rate.head.lower()} and a better {quality.head}."]
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def as_model_index(tables: Sequence[Table]) -> str:
    """YAML for the front matter of model cards: one model per measured row, with its task, data and quality."""
    lines = ["model-index:"]
    for table, _, row, label in _lines(tables):
        qualities = [m for m in table.measures if m.role == "quality" and m.key in row.values]
        if row.state == "measured" and qualities:
            lines += _model(table, row, f"{row.task}, {label}, {row.budget}".rstrip(", "), qualities)
    return "\n".join(lines if len(lines) > 1 else ["model-index: []"]) + "\n"


def _model(table: Table, row: Row, name: str, qualities: Sequence[Any]) -> list[str]:
    """One entry. Every foreign text is a JSON string, which YAML reads as what it is."""
    prompted = bool(row.protocol.get("prompts")) or (row.protocol.get("guidance_scale") or "1") != "1"
    task = _TAGS[row.domain][prompted] if row.domain in _TAGS else "image-to-3d"
    lines = [f"- name: {yaml_string(name)}", "  results:", "  - task:", f"      type: {task}", "    dataset:"]
    lines += ["      type: generated", f"      name: {yaml_string(table.about.reference)}", "    metrics:"]
    for measure in qualities:
        lines += [
            f"    - type: {measure.key.removesuffix('_db')}",
            f"      name: {yaml_string(_NAMES.get(measure.key, row.names.get(measure.key, measure.head)))}",
            f"      value: {row.values[measure.key]:.6g}",
        ]
    return lines


def _lines(tables: Sequence[Table]) -> Iterator[tuple[Table, int, Row, str]]:
    for table in tables:
        for position, (row, label) in enumerate(zip(table.rows, table.labels, strict=True)):
            yield table, position, row, label.text


def _table(table: Table) -> dict[str, Any]:
    return {
        "domain": table.rows[0].domain,
        "task": table.task,
        "conditions": table.conditions,
        "rate": table.rate and table.rate.key,
        "quality": table.quality and table.quality.key,
        "baseline": table.baseline,
        "notes": list(table.notes),
        "curves": [
            {
                "label": curve.label.text,
                "quoted": curve.quoted,
                "points": [list(point) for point in curve.points],
                "bd_rate": dict(curve.saved),
                "bd_quality": curve.gained,
                "without": dict(curve.why_not),
            }
            for curve in table.curves
        ],
        "rows": [
            {
                **{name: printable(getattr(row, name)) for name in _TEXTS},
                "label": label.text,
                "note": row.note,
                "pareto": i in table.front,
                "values": dict(row.values),
                "se": dict(row.spread),
                "protocol": dict(row.protocol),
                "about": dict(row.about),
            }
            for i, (row, label) in enumerate(zip(table.rows, table.labels, strict=True))
        ],
    }
