"""Run directories become rows. One that failed, is half finished or damaged becomes a row that says so."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from gencompress.board.measures import MEASURES, Domain, domain
from gencompress.board.rows import Row, Scalar, State
from gencompress.errors import DataError, GencompressError, RunError
from gencompress.report import figures
from gencompress.report.data import FILE as METRICS_FILE
from gencompress.report.data import METRICS, dig, keep_asked, load_metrics, number
from gencompress.report.escape import printable
from gencompress.report.pictures import listed_pictures
from gencompress.run import journal, read_manifest, settings
from gencompress.run.atomic import sha256
from gencompress.run.manifest import NAME as MANIFEST

PLAN = Path("plan", "plan.json")
PICTURES = 4  # pairs of one run that the board shows
_MARKS = (settings.NAME, MANIFEST, journal.NAME)  # any of these makes a folder a run directory
_DEEPEST = 4  # folders below a given one in which runs are looked for
_MOST = 100_000
_LONGEST = 4000  # characters of one text
_PLAN_BYTES = 16 * 10**6  # of a plan that is parsed for its source


def read_runs(folders: Sequence[Path]) -> list[Row]:
    """The rows of run directories, or of all that lie in a folder: one per run, or one per file that a run exported.

    A run without figures has a row with state and error. Rows of equally named runs are told apart by their parents.

    Raises:
        RunError: a folder does not exist, or holds no run.
    """
    paths = list(dict.fromkeys(run for folder in folders for run in _find(folder)))
    if len(paths) > _MOST:
        raise RunError(f"{len(paths):,} runs are too many for one board, {_MOST:,} are the most")
    return [row for name, path in zip(_unique_names(paths), paths, strict=True) for row in read_run(name, path)]


def read_run(name: str, folder: Path) -> list[Row]:
    """The rows of one run directory."""
    options: dict[str, Scalar] = {}
    try:
        options = _flat(settings.read(folder))
        ended = journal.outcome(folder)
        if "eval" in read_manifest(folder).stages:
            metrics = _metrics(folder)
            failure = f"{ended.error}: {ended.message}" if ended.state == "failed" else ""
            return _measured(name, folder, options, metrics, failure)
        if ended.state == "finished":
            return [_unmeasured(name, folder, options, "failed", "finished without an evaluation")]
        if ended.state == "failed":
            return [_unmeasured(name, folder, options, "failed", f"{ended.error}: {ended.message}")]
        message = f"no end is recorded, {ended.message}: killed, or still at work; the same command resumes it"
        return [_unmeasured(name, folder, options, "unfinished", message)]
    except (GencompressError, OSError) as error:
        return [_unmeasured(name, folder, options, "failed", f"{type(error).__name__}: {error}")]


def _find(folder: Path, depth: int = 0) -> Iterator[Path]:
    """`folder` if it is a run directory, else those below it."""
    if not folder.is_dir():
        raise RunError(f"{folder}: no such folder")
    if any((folder / mark).exists() for mark in _MARKS):
        yield folder.resolve()
        return
    below = sorted(p for p in folder.iterdir() if p.is_dir() and not p.is_symlink() and not p.name.startswith("."))
    found = [run for path in below if depth < _DEEPEST for run in _find(path, depth + 1)]
    if not found and depth == 0:
        raise RunError(f"{folder} is no run directory and holds none: it has no {settings.NAME}")
    yield from found


def _unique_names(paths: Sequence[Path]) -> list[str]:
    """The name of every folder, with as many of its parents in front as tell it from the others."""
    parts = {path: 1 for path in paths}
    while True:
        names = {path: printable("/".join(path.parts[-parts[path] :])) for path in paths}
        counts = Counter(names.values())
        same = [path for path in paths if counts[names[path]] > 1 and parts[path] < len(path.parts)]
        if not same:
            return [names[path] for path in paths]
        for path in same:
            parts[path] += 1


def _flat(options: Mapping[str, Any]) -> dict[str, Scalar]:
    """The scalar options by dotted name. Two levels and no more, so that no file of references grows here."""
    found: dict[str, Scalar] = {}
    for group, value in options.items():
        inner = value if isinstance(value, Mapping) else {"": value}
        for name, item in inner.items():
            if item is None or isinstance(item, bool | int | float):
                found[f"{group}.{name}".rstrip(".")] = item
            elif isinstance(item, str):
                found[f"{group}.{name}".rstrip(".")] = _clean(item)
    return found


def _metrics(folder: Path) -> dict[str, Any]:
    """metrics.json, if it is the file that the evaluation wrote."""
    path, entry = folder / METRICS_FILE, read_manifest(folder).stages["eval"]
    recorded = dig(entry.files, METRICS_FILE.name, "sha256")
    if path.is_file() and recorded is not None and sha256(path) != recorded:
        raise DataError(f"{path} has changed since it was written: measure it again with `gencompress eval {folder}`")
    return load_metrics(path)


def _measured(
    name: str, folder: Path, options: Mapping[str, Scalar], metrics: Mapping[str, Any], failure: str
) -> list[Row]:
    """The row of an evaluated run, or one for every file of it that was measured."""
    kind = _text(metrics, "domain") or _option(options, "domain.name") or "diffusion"
    about = domain(kind)
    found = {key: _value(metrics, m.keys) for key, m in MEASURES.items() if key not in about.hidden}
    spreads = {key: _value(metrics, (*m.keys[:-1], "se")) for key, m in MEASURES.items() if m.role == "quality"}
    dense = {key: _value(metrics, ("dense", *m.keys[1:])) for key, m in MEASURES.items() if m.role == "rate"}
    names = {key: _text(metrics, "quality", key, "name") for key in ("frechet", "kernel")}
    method, chosen = _method(metrics, options)
    row = Row(
        id=name,
        domain=kind,
        task=_task(_text(metrics, "model")),
        method=method,
        state="failed" if failure else "measured",
        budget=_budget(metrics),
        note=chosen,
        error=_clean(failure),
        values=_known(found),
        spread=_known(spreads),
        names={key: text for key, text in names.items() if text},
        dense=_known({key: value for key, value in dense.items() if key not in about.hidden}),
        protocol=_protocol(about, metrics, options, folder),
        options=options,
        about=_about(metrics, about),
        folder=folder,
    )
    pictures, trouble = _pictures(folder, metrics)
    first = replace(row, pictures=pictures, about={**row.about, **({"pictures": trouble} if trouble else {})})
    return _by_file(first, dig(metrics, "files"))


def _by_file(row: Row, files: object) -> list[Row]:
    """One row per exported file with figures of its own; the first of them is the one that was measured in full."""
    measured = [f for f in files if number(f, "psnr_db") is not None] if isinstance(files, list) else []
    rows = []
    for i, file in enumerate(measured):
        own = _known({key: number(file, key) for key in MEASURES})
        shared = {k: v for k, v in row.values.items() if i == 0 or (MEASURES[k].role == "rate" and k != "bytes")}
        rows.append(
            replace(
                row,
                id=_clean(f"{row.id} {file.get('format')}") if i else row.id,
                variant=_clean(str(file.get("format"))),
                values={**shared, **own},
                spread=row.spread if i == 0 else {},
                pictures=row.pictures if i == 0 else (),
            )
        )
    return rows or [row]


def _unmeasured(name: str, folder: Path, options: Mapping[str, Scalar], state: State, error: str) -> Row:
    """The row of a run without figures, with what its options tell."""
    kind = _option(options, "domain.name") or "diffusion"
    about = domain(kind)
    return Row(
        id=name,
        domain=kind,
        task=_task(_option(options, about.task_option)),
        method=_option(options, "criterion.name") or "unknown method",
        state=state,
        budget=_budget({"budget": {k.partition(".")[2]: v for k, v in options.items() if k.startswith("budget.")}}),
        error=_clean(error),
        protocol=_protocol(about, {}, options, folder),
        options=options,
        about={"command": _command(folder)},
        folder=folder,
    )


def _command(folder: Path) -> str:
    """The command of a run that did not get to record it; empty if its options cannot be read."""
    from gencompress.config import build

    try:
        return settings.command(build(settings.read(folder)))
    except GencompressError:
        return ""


def _method(metrics: Mapping[str, Any], options: Mapping[str, Scalar]) -> tuple[str, str]:
    """The criterion that was asked for, and the one whose scores were taken where that is another."""
    used = _text(metrics, "method") or "unnamed method"
    asked = _option(options, "criterion.name") or used
    return asked, "" if asked == used else f"chose {used}"


def _task(text: str | None) -> str:
    """What was compressed: a hub id as it is, of a path only its last part, since a page travels."""
    name = (text or "unknown model").removeprefix("sample:")
    is_path = name.startswith(("/", ".", "~")) or Path(name).suffix
    return Path(name).name if is_path else name


def _budget(metrics: Mapping[str, Any]) -> str:
    """The budget as asked, short: "keep 0.8 params", "≤ 5 MB", "≥ 35 dB"."""
    unit = METRICS.get(str(dig(metrics, "budget", "metric")), str(dig(metrics, "budget", "metric")))
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


def _protocol(
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
        return _clean(Path(value).name) if value.startswith(("/", ".", "~")) else _clean(value)
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
    return _clean(values[-1][:12]) if values else None


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
        return (), _clean(str(error))
    captions = next((c for key in ("prompts", "names") if isinstance(c := dig(metrics, "images", key), list)), [])
    names = [_clean(str(c)) for c in captions[:PICTURES]]
    names += [f"sample {i + 1}" for i in range(len(names), len(before))]
    return tuple(zip(before, after, names, strict=False)), ""


def _value(metrics: Mapping[str, Any], keys: tuple[str, ...]) -> float | None:
    return number(metrics, *keys)


def _known(values: Mapping[str, float | None]) -> dict[str, float]:
    return {key: value for key, value in values.items() if value is not None}


def _text(metrics: Mapping[str, Any], *keys: str) -> str | None:
    found = dig(metrics, *keys)
    return _clean(found) if isinstance(found, str) and found else None


def _clean(text: str) -> str:
    """Foreign text as the board holds it: printable, and of bounded length."""
    return printable(text[:_LONGEST])


def _option(options: Mapping[str, Scalar], name: str) -> str | None:
    found = options.get(name)
    return found if isinstance(found, str) and found else None


