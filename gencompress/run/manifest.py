"""`manifest.json`: the finished stages of a run in order, with size and SHA-256 of every file they made."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from gencompress.errors import RunError
from gencompress.run.atomic import sha256, write_json

NAME = "manifest.json"
_SCHEMA = 1


@dataclass(frozen=True)
class StageEntry:
    """One finished stage: file name relative to its folder -> {"sha256", "bytes"}, and how long it took."""

    files: dict[str, dict[str, Any]]
    seconds: float


@dataclass
class Manifest:
    """Finished stages by name; a dict keeps the order in which they were finished."""

    stages: dict[str, StageEntry] = field(default_factory=dict)

    def write(self, run: Path) -> None:
        """Replace the manifest of a run directory."""
        stages = {name: asdict(entry) for name, entry in self.stages.items()}
        write_json(run / NAME, {"schema": _SCHEMA, "stages": stages})


def read_manifest(run: Path) -> Manifest:
    """The manifest of a run directory, empty if nothing is finished. RunError if it is damaged."""
    path = run / NAME
    if not path.exists():
        return Manifest()
    cure = "delete it to run every stage again"
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        if raw["schema"] != _SCHEMA:
            raise RunError(f"{path}: schema {raw['schema']} is not {_SCHEMA}, the one this version reads; {cure}")
        entries = {name: StageEntry(dict(e["files"]), float(e["seconds"])) for name, e in raw["stages"].items()}
        return Manifest(entries)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise RunError(f"{path} is damaged ({error!r}); {cure}") from error


def describe(folder: Path, seconds: float) -> StageEntry:
    """The entry of a stage whose files lie under `folder`."""
    paths = sorted(p for p in folder.rglob("*") if p.is_file())
    files = {p.relative_to(folder).as_posix(): {"sha256": sha256(p), "bytes": p.stat().st_size} for p in paths}
    return StageEntry(files, round(seconds, 3))


def verify(folder: Path, entry: StageEntry) -> None:
    """RunError naming the first file of a finished stage that is missing or changed, and the cure."""
    cure = f"delete the folder {folder} and run again: that stage and the later ones are then made anew"
    for name, about in entry.files.items():
        path = folder / name
        if not path.is_file():
            raise RunError(f"{path} is missing from a finished stage; {cure}")
        if path.stat().st_size != about["bytes"] or sha256(path) != about["sha256"]:
            raise RunError(f"{path} has changed since it was written (its SHA-256 differs); {cure}")
