"""`journal.jsonl`: what happened in a run directory, one JSON object a line, only ever appended to."""

from __future__ import annotations

import json
import math
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from gencompress.run.atomic import explain_disk_full

NAME = "journal.jsonl"


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
    if not path.is_file():
        return []
    events = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if isinstance(entry, dict) and "event" in entry:
            events.append(entry)
    return events


def _plain(data: dict[str, Any]) -> dict[str, Any]:
    return {k: str(v) if isinstance(v, float) and not math.isfinite(v) else v for k, v in data.items()}
