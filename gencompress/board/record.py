"""What makes a row checkable, copied into the site as text: command, configuration, plan, figures and hashes."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path

from gencompress.board.collect import PLAN
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


def folder_name(row: Row, taken: set[str]) -> str:
    """A name for the row's folder in the site, of plain characters and not in `taken`, to which it is added."""
    plain = _SAFE.sub("-", row.id).strip("-.")[:_LONGEST] or "run"
    name, digest = plain, hashlib.sha256(row.id.encode()).hexdigest()
    while name.lower() in taken:
        name, digest = f"{plain}-{digest[:8]}", digest[8:]
    taken.add(name.lower())
    return name


def write_record(row: Row, out: Path) -> tuple[str, ...]:
    """Write the texts of a run into the new folder `out`; their names without suffix, in the order of interest."""
    assert row.folder is not None
    out.mkdir()
    written = []
    texts = {"command": row.about.get("command", ""), "hashes": "".join(_hashes(row.folder))}
    for name, text in texts.items():
        if text:
            (out / f"{name}.txt").write_text(printable(text).strip() + "\n", encoding="utf-8")
            written.append(name)
    for name, path in _COPIED:
        if name == "journal" and row.state == "measured":
            continue  # of interest where something went wrong
        source = row.folder / path
        if source.is_file() and not source.is_symlink() and source.stat().st_size <= _LARGEST:
            (out / f"{name}.txt").write_bytes(source.read_bytes())
            written.append(name)
    return tuple(written)


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
