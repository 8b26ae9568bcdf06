"""`write_report`: one self-contained HTML file out of run directories.

Everything from a run is text to the template, which escapes it; the page's policy lets no script run but its own, whose
hash it names, and loads nothing from anywhere.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from gencompress import __version__
from gencompress.report import charts, figures, sam, splats, tables
from gencompress.report.data import RunData, load_runs
from gencompress.report.pictures import sheets
from gencompress.run.atomic import write_text

_AT_FIRST = 16  # pictures of a row that are shown before one asks for all
_BAND = 8  # pictures side by side


def write_report(run_dirs: list[Path], out: Path) -> Path:
    """Write the report that compares finished runs of one model, and return its path.

    Reads eval/metrics.json, manifest.json and the listed pictures of each run, and nothing else.

    Args:
        run_dirs: one run directory or more, in the order in which they are shown.
        out: the HTML file, replaced if it exists.

    Raises:
        DataError: no runs, runs of different models, metrics or pictures that cannot be read.
        RunError: a run that was not evaluated, or a file that cannot be written.
    """
    runs = load_runs(run_dirs)
    domain = runs[0].text("domain")
    if domain == splats.DOMAIN:
        template, shown = "splats.jinja", splats.context(runs, out.parent)
    elif domain == sam.DOMAIN:
        template, shown = "sam.jinja", sam.context(runs)
    else:
        template, shown = "report.jinja", _models(runs)
    page = page_environment().get_template(template).render(**_context(runs), **shown)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_text(out, page)
    return out


def _context(runs: Sequence[RunData]) -> dict[str, Any]:
    """What every report shows."""
    script = template_text("report.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return {
        "runs": runs,
        "title": runs[0].model,
        "band": _BAND,
        "at_first": _AT_FIRST,
        "stages": tables.stage_table(runs),
        "quality_notes": tables.quality_notes(runs),
        "commands": tables.commands(runs),
        "version": __version__,
        "style": Markup(template_text("report.css")),
        "script": Markup(script),
        "script_hash": digest,
    }


def _models(runs: Sequence[RunData]) -> dict[str, Any]:
    """What the report of pruned models shows beyond that."""
    drawn = [chart for chart in (charts.widths(run) for run in runs) if chart is not None]
    return {
        "lead": _lead(runs),
        "headline": tables.headline(runs),
        "sheets": sheets(runs),
        "widths": drawn,
        "sections": next((charts.sections(run) for run in runs if charts.group_list(run)), []),
        "groups": tables.group_table(runs),
        "curves": charts.curves(runs),
        "methods": sorted({run.method for run in runs}),
        "cost": tables.cost(runs),
        "quality": tables.quality(runs),
        "protocol": tables.protocol(runs),
    }


def _lead(runs: Sequence[RunData]) -> list[tuple[str, str]]:
    """Two sentences in pieces (plain, bold): what the smallest of the runs is, in numbers."""
    run = min(runs, key=lambda r: r.number("pruned", "params") or 0)
    left, dense = figures.count(run.number("pruned", "params")), figures.count(run.number("dense", "params"))
    pieces = [(f"At {run.label}, ", left), (f" of {dense} parameters are left.", "")]
    speed = run.ratio("latency_s", "median")
    psnr = run.number("quality", "psnr_db", "mean")
    if speed and speed > 1:
        pieces += [(" Sampling is ", f"{speed:.2f}× as fast"), ("" if psnr is not None else ".", "")]
    if psnr is not None:
        start = ", and the" if speed and speed > 1 else " The"
        pieces += [(f"{start} pictures match the dense ones of the same seeds at ", figures.fixed(psnr, 1, "dB"))]
        pieces += [(" PSNR.", "")]
    return pieces


def template_text(name: str) -> str:
    """A file of the templates folder."""
    return (files("gencompress.report") / "templates" / name).read_text(encoding="utf-8")


@cache
def page_environment() -> Environment:
    """Jinja for pages: escaping on for every template, whatever its name, and an error for every undefined name."""
    environment = Environment(
        autoescape=True,
        loader=FunctionLoader(template_text),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment
