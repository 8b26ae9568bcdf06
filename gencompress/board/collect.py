"""Run directories become rows. One that failed, is half finished or damaged becomes a row that says so."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from gencompress.board.measures import domain
from gencompress.board.results import budget_words, clean, measured_rows, option, protocol, task_name
from gencompress.board.rows import Row, Scalar, State
from gencompress.config import TABLES, Config
from gencompress.errors import DataError, GencompressError, RunError
from gencompress.report.data import FILE as METRICS_FILE
from gencompress.report.data import dig, load_metrics
from gencompress.report.escape import printable
from gencompress.run import StageEntry, journal, read_manifest, settings
from gencompress.run.atomic import sha256
from gencompress.run.manifest import NAME as MANIFEST

_MARKS = (settings.NAME, MANIFEST, journal.NAME)  # any of these makes a folder a run directory
_DEEPEST = 4  # folders below a given one in which runs are looked for
_MOST = 100_000


def read_runs(folders: Sequence[Path]) -> list[Row]:
    """The rows of run directories, or of all that lie in a folder: one per run, or one per file that a run exported.

    A run without figures has a row with state and error. Rows of equally named runs are told apart by their parents.
    Files between the folders are passed over, as a shell puts them into ``runs/*``.

    Raises:
        RunError: a folder does not exist, or holds no run; nothing but files.
    """
    given = [folder for folder in folders if not folder.is_file()]
    if folders and not given:
        raise RunError(f"{folders[0]} is a file: name run directories, or a folder that holds them")
    paths = list(dict.fromkeys(run for folder in given for run in _find(folder)))
    if len(paths) > _MOST:
        raise RunError(f"{len(paths):,} runs are too many for one board, {_MOST:,} are the most")
    return [row for name, path in zip(_unique_names(paths), paths, strict=True) for row in read_run(name, path)]


def read_run(name: str, folder: Path) -> list[Row]:
    """The rows of one run directory."""
    options: dict[str, Scalar] = {}
    try:
        ended = journal.outcome(folder)
        failure = f"{ended.error}: {ended.message}" if ended.state == "failed" else ""
        if failure and not (folder / settings.NAME).exists():  # values of a sweep that do not go together
            return [_unmeasured(name, folder, options, "failed", failure)]
        options = _flat(settings.read(folder))
        measured = read_manifest(folder).stages.get("eval")
        if measured is not None:
            return measured_rows(name, folder, options, _metrics(folder, measured), failure)
        if ended.state != "unfinished":
            return [_unmeasured(name, folder, options, "failed", failure or "finished without an evaluation")]
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
                found[f"{group}.{name}".rstrip(".")] = clean(item)
    return found


def _metrics(folder: Path, entry: StageEntry) -> dict[str, Any]:
    """metrics.json, if it is the file that the evaluation wrote."""
    path = folder / METRICS_FILE
    recorded = dig(entry.files, METRICS_FILE.name, "sha256")
    if path.is_file() and recorded is not None and sha256(path) != recorded:
        raise DataError(f"{path} has changed since it was written: measure it again with `gencompress eval {folder}`")
    return load_metrics(path)


def _unmeasured(name: str, folder: Path, options: Mapping[str, Scalar], state: State, error: str) -> Row:
    """The row of a run without figures, with what its options tell."""
    kind = option(options, "domain.name") or "diffusion"
    about = domain(kind)
    asked = {key.partition(".")[2]: value for key, value in options.items() if key.startswith("budget.")}
    return Row(
        id=name,
        domain=kind,
        task=task_name(option(options, about.task_option)),
        method=option(options, "criterion.name") or "unknown method",
        state=state,
        budget=budget_words({"budget": asked}),
        error=clean(error),
        protocol=protocol(about, {}, options, folder),
        options=options,
        about={"command": _command(options)},
        folder=folder,
    )


def _command(options: Mapping[str, Scalar]) -> str:
    """The command of a run that did not get to record it; empty if its options are not those of this version."""
    parts: dict[str, Any] = {}
    for name, value in options.items():
        group, _, option = name.partition(".")
        if option:
            parts.setdefault(group, {})[option] = value
        else:
            parts[group] = value
    try:
        for f in fields(Config):
            if isinstance(parts.get(f.name), dict):
                own = parts[f.name]
                kind = TABLES[f.name][own["name"]] if f.name in TABLES else type(getattr(Config(), f.name))
                parts[f.name] = kind(**own)
        return clean(settings.command(Config(**parts)))
    except (KeyError, TypeError):
        return ""
