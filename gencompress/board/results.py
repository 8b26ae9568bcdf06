"""The figures of an evaluated run as rows, and the words for its task, budget and protocol."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from gencompress.board.measures import MEASURES, Domain, domain
from gencompress.board.rows import Row, Scalar
from gencompress.errors import DataError
from gencompress.report import figures
from gencompress.report.data import METRICS, dig, keep_asked, number
from gencompress.report.escape import printable
from gencompress.report.pictures import listed_pictures

PLAN = Path("plan", "plan.json")
PICTURES = 4  # pairs of one run that the board shows
LONGEST = 4000  # characters of one text
LARGEST = 1e18  # of a figure
_FILES = 32  # of one run that have rows
_PLAN_BYTES = 16 * 10**6  # of a plan that is parsed for its source


def measured_rows(
    name: str, folder: Path, options: Mapping[str, Scalar], metrics: Mapping[str, Any], failure: str
) -> list[Row]:
    """The row of an evaluated run, or one for every file of it that was measured."""
    kind = _text(metrics, "domain") or option(options, "domain.name") or "diffusion"
    about = domain(kind)
    found = {key: number(metrics, *m.keys) for key, m in MEASURES.items() if key not in about.hidden}
    spreads = {key: number(metrics, *m.keys[:-1], "se") for key, m in MEASURES.items() if m.role == "quality"}
    dense = {key: number(metrics, "dense", *m.keys[1:]) for key, m in MEASURES.items() if m.role == "rate"}
    names = {key: _text(metrics, "quality", key, "name") for key in ("frechet", "kernel")}
    method, chosen = _method(metrics, options)
    row = Row(
        id=name,
        domain=kind,
        task=task_name(_text(metrics, "model")),
        method=method,
        state="failed" if failure else "measured",
        budget=budget_words(metrics),
        note=chosen,
        error=clean(failure),
        values=_known(found),
        spread=_known(spreads),
        names={key: text for key, text in names.items() if text},
        dense=_known({key: value for key, value in dense.items() if key not in about.hidden}),
        protocol=protocol(about, metrics, options, folder),
        options=options,
        about=_about(metrics, about),
        folder=folder,
    )
    pictures, trouble = _pictures(folder, metrics)
    first = replace(row, pictures=pictures, about={**row.about, **({"pictures": trouble} if trouble else {})})
    return _by_file(first, dig(metrics, "files"))


def _by_file(row: Row, files: object) -> list[Row]:
    """One row per exported file with figures of its own; the first of them is the one that was measured in full."""
    listed = files[:_FILES] if isinstance(files, list) else []
    measured = [file for file in listed if number(file, "psnr_db") is not None]
    rows = []
    for i, file in enumerate(measured):
        own = _known({key: number(file, key) for key in MEASURES})
        shared = {k: v for k, v in row.values.items() if i == 0 or (MEASURES[k].role == "rate" and k != "bytes")}
        rows.append(
            replace(
                row,
                id=clean(f"{row.id} {file.get('format')}") if i else row.id,
                variant=clean(str(file.get("format"))),
                values={**shared, **own},
                spread=row.spread if i == 0 else {},
                pictures=row.pictures if i == 0 else (),
            )
        )
    return rows or [row]


def _method(metrics: Mapping[str, Any], options: Mapping[str, Scalar]) -> tuple[str, str]:
    """The criterion that was asked for, and the one whose scores were taken where that is another."""
    used = _text(metrics, "method") or "unnamed method"
    asked = option(options, "criterion.name") or used
    return asked, "" if asked == used else f"chose {used}"


def task_name(text: str | None) -> str:
    """What was compressed: a hub id as it is, of a path only its last part, since a page travels."""
    name = (text or "unknown model").removeprefix("sample:")
    is_path = name.startswith(("/", ".", "~")) or Path(name).suffix
    return Path(name).name if is_path else name


def budget_words(metrics: Mapping[str, Any]) -> str:
    """The budget as asked, short: "keep 0.8 params", "≤ 5 MB", "≥ 35 dB"."""
    metric = clean(str(dig(metrics, "budget", "metric")))
    unit = METRICS.get(metric, metric)
    size, psnr = number(metrics, "budget", "max_mb"), number(metrics, "budget", "min_psnr")
    keep = keep_asked(metrics)
    if size is not None:
        return f"≤ {size:g} MB"
    if psnr is not None:
        return f"≥ {psnr:g} dB"
    if keep is not None:
        return f"keep {keep:g} of {unit}"
    target = number(metrics, "budget", "target") or number(metrics, "budget", "asked")
    return f"≤ {figures.count(target)} {unit}" if target is not None else ""


def protocol(
    about: Domain, metrics: Mapping[str, Any], options: Mapping[str, Scalar], folder: Path
) -> dict[str, str | None]:
    """The conditions of the measurement by name; None where neither file tells."""
    found: dict[str, str | None] = {}
    for field in about.protocol:
        value = dig(metrics, *field.keys) if field.keys else None
        if value is None and field.option:
            value = options.get(field.option)
        found[field.name] = _condition(value)
    found["source"] = _fingerprint(folder)
    return found


def _condition(value: object) -> str | None:
    if isinstance(value, str):
        return clean(Path(value).name) if value.startswith(("/", ".", "~")) else clean(value)
    shown = number({"x": value}, "x")
    return None if shown is None else f"{shown:g}"


def _fingerprint(folder: Path) -> str | None:
    """The first digits of the hash of the weights that the plan was made for."""
    path = folder / PLAN
    try:
        if path.stat().st_size > _PLAN_BYTES:
            return None
        source = dig(json.loads(path.read_text(encoding="utf-8")), "source")
    except (OSError, ValueError, RecursionError):
        return None
    values = [v for v in source.values() if isinstance(v, str)] if isinstance(source, Mapping) else []
    return clean(values[-1][:12]) if values else None


def _about(metrics: Mapping[str, Any], about: Domain) -> dict[str, str]:
    found = {name: _text(metrics, name) for name in ("date", "hardware", "command", "latency_of")}
    found["latency_of"] = found["latency_of"] or about.latency_of
    found["lpips_note"] = _text(metrics, "quality", "lpips_note")
    return {name: text for name, text in found.items() if text}


def _pictures(folder: Path, metrics: Mapping[str, Any]) -> tuple[tuple[tuple[Path, Path, str], ...], str]:
    """Pictures before and after with their captions, and what is wrong with them."""
    try:
        before, after = (listed_pictures(folder, metrics, kind, PICTURES) for kind in ("dense", "pruned"))
    except DataError as error:
        return (), clean(str(error))
    captions = next((c for key in ("prompts", "names") if isinstance(c := dig(metrics, "images", key), list)), [])
    names = [clean(str(c)) for c in captions[:PICTURES]]
    names += [f"sample {i + 1}" for i in range(len(names), len(before))]
    return tuple(zip(before, after, names, strict=False)), ""


def _known(values: Mapping[str, float | None]) -> dict[str, float]:
    """The figures that were measured, and that can be: axes and sums stay finite."""
    return {key: value for key, value in values.items() if value is not None and abs(value) <= LARGEST}


def _text(metrics: Mapping[str, Any], *keys: str) -> str | None:
    found = dig(metrics, *keys)
    return clean(found) if isinstance(found, str) and found else None


def option(options: Mapping[str, Scalar], name: str) -> str | None:
    """The option of this dotted name if it is a text."""
    found = options.get(name)
    return found if isinstance(found, str) and found else None


def clean(text: str) -> str:
    """Foreign text as the board holds it: printable, and of bounded length."""
    return printable(text[:LONGEST])
