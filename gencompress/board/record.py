"""What makes a row checkable, copied into the site as text: command, configuration, plan, figures and hashes."""

from __future__ import annotations

import hashlib
import re
import stat
from collections.abc import Iterator
from pathlib import Path

from gencompress.board.results import PLAN
from gencompress.board.rows import Row
from gencompress.errors import GencompressError
from gencompress.report.data import FILE as METRICS
from gencompress.report.escape import printable
from gencompress.run import journal, read_manifest, settings

_SAFE = re.compile(r"[^A-Za-z0-9._-]+")
_LONGEST = 80
_LARGEST = 8 * 10**6  # bytes of a file that is copied; the hash of a larger one is in hashes.txt
# named .txt whatever they hold, so that browsers show them and run nothing
_COPIED = (("config", Path(settings.NAME)), ("plan", PLAN), ("metrics", METRICS), ("journal", Path(journal.NAME)))


def file_name(row: Row, taken: set[str]) -> str:
    """What the row's files in the site begin with, of plain characters and not in `taken`, to which it is added."""
    plain = _SAFE.sub("-", row.id).strip("-.")[:_LONGEST] or "run"
    name, digest = plain, hashlib.sha256(row.id.encode()).hexdigest()
    while name.lower() in taken:
        name, digest = f"{plain}-{digest[:8]}", digest[8:]
    taken.add(name.lower())
    return name


def write_record(row: Row, folder: Path, out: Path, name: str) -> tuple[str, ...]:
    """Write the texts of the run in `folder` as ``out/<name>.<kind>.txt``; their kinds in the order of interest."""
    texts = {
        "command": printable(row.about.get("command", "")).strip().encode(),
        "hashes": "".join(_hashes(folder)).strip().encode(),
        **{kind: _read(folder / path) for kind, path in _COPIED if kind != "journal" or row.state != "measured"},
    }
    for kind, text in texts.items():
        if text:
            (out / f"{name}.{kind}.txt").write_bytes(text.rstrip(b"\n") + b"\n")
    return tuple(kind for kind, text in texts.items() if text)


def _read(path: Path) -> bytes:
    """The content of a plain file that is not too large to copy, else nothing."""
    try:
        about = path.lstat()
        return path.read_bytes() if stat.S_ISREG(about.st_mode) and about.st_size <= _LARGEST else b""
    except OSError:
        return b""


def _hashes(folder: Path) -> Iterator[str]:
    """Lines that `sha256sum -c` takes, for every file of the finished stages."""
    try:
        stages = read_manifest(folder).stages
    except GencompressError:
        return
    for stage, entry in stages.items():
        for name, about in entry.files.items():
            path = f"{stage}/{name}"
            if path.isprintable() and "\\" not in path:  # others would need an escape that few tools know
                yield f"{about.get('sha256')}  {path}\n"
