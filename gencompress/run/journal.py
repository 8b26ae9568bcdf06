"""`journal.jsonl`: what happened in a run directory, one JSON object a line, only ever appended to."""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from gencompress.run.atomic import explain_disk_full

NAME = "journal.jsonl"
_TAIL = 2**18  # bytes from the end of a journal that `outcome` reads


class Journal:
    """Appends events. A line torn by a kill is ended first, so that it spoils only itself."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / NAME
        self._file = open(self._path, "ab", buffering=0)
        if self._torn():
            self._file.write(b"\n")

    def write(self, event: str, **data: object) -> None:
        """Append one event with the time in UTC. Numbers that are not finite become strings."""
        entry = {"time": datetime.now(UTC).isoformat(timespec="seconds"), "event": event, **_plain(data)}
        line = json.dumps(entry, allow_nan=False).encode() + b"\n"
        with explain_disk_full(self._path, len(line)):
            self._file.write(line)

    def close(self) -> None:
        """Flush to the disk and close."""
        os.fsync(self._file.fileno())
        self._file.close()

    def _torn(self) -> bool:
        if self._path.stat().st_size == 0:
            return False
        with open(self._path, "rb") as file:
            file.seek(-1, os.SEEK_END)
            return file.read(1) != b"\n"


def read_journal(folder: Path) -> list[dict[str, Any]]:
    """All events of a run directory in order, torn lines left out; empty if there is no journal yet."""
    path = folder / NAME
    return _events(path.read_text(encoding="utf-8", errors="replace")) if path.is_file() else []


def _events(text: str) -> list[dict[str, Any]]:
    events = []
    for line in text.splitlines():
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(entry, dict) and "event" in entry:
            events.append(entry)
    return events


@dataclass(frozen=True)
class Outcome:
    """How the last opening of a run directory ended.

    Args:
        state: "unfinished" if no end is recorded: the process was killed, or is still at work.
        error: class of the error of a failed run, else "".
        message: what the error said, or where an unfinished run stands.
    """

    state: Literal["finished", "failed", "unfinished"]
    error: str = ""
    message: str = ""


def outcome(folder: Path) -> Outcome:
    """How a run ended, from the end of its journal alone."""
    path = folder / NAME
    if not path.is_file():
        return Outcome("unfinished", message="never started")
    with open(path, "rb") as file:
        file.seek(max(0, path.stat().st_size - _TAIL))
        events = _events(file.read().decode("utf-8", "replace"))
    last: dict[str, Any] = next((e for e in reversed(events) if e["event"] in ("ended", "opened")), {})
    if last.get("event") != "ended":
        return Outcome("unfinished", message=_place(events))
    error = str(last.get("error", ""))
    return Outcome("failed" if error else "finished", error, str(last.get("message", "")))


def _place(events: list[dict[str, Any]]) -> str:
    """The stage and step that the last events name."""
    last = next((e for e in reversed(events) if e["event"] in ("progress", "stage_started")), None)
    if last is None:
        return "before the first stage"
    at = f", step {last['step']} of {last['total']}" if {"step", "total"} <= last.keys() else ""
    return f"in stage {last.get('stage')}{at}"


def _plain(data: dict[str, Any]) -> dict[str, Any]:
    return {k: str(v) if isinstance(v, float) and not math.isfinite(v) else v for k, v in data.items()}
