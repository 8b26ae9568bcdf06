"""Published figures out of a CSV file that says for every row where it was read.

They are shown as quoted and never ranked with what was measured here: their protocol is that of their source.
"""

from __future__ import annotations

import csv
import datetime
import io
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from urllib.parse import urlsplit

from gencompress.board.measures import MEASURES
from gencompress.board.results import LARGEST
from gencompress.board.rows import Row
from gencompress.errors import FormatError, nearest
from gencompress.report.escape import printable

BUNDLED = {"3dgs": "3dgs.csv"}  # name on the command line -> file of this package
_REQUIRED = ("domain", "task", "method", "source", "url", "date")
_OPTIONAL = ("variant", "note")
_LARGEST = 4 * 10**6  # bytes
_MOST = 10_000  # rows
_LONGEST = 1000  # characters of a cell


def read_quoted(source: str | Path) -> list[Row]:
    """The rows of a CSV file in UTF-8, or of a bundled one by name.

    Columns: domain, task, method, source (title of the paper or report), url, date (YYYY-MM-DD) and one column or more
    named as the measures are (psnr_db, ssim, lpips, bytes, units ...); variant and note may be added.

    Raises:
        FormatError: the file is missing, too large or not CSV, a column is unknown or lacks, or a cell is wrong; the
            message names line and column.
    """
    name, text = _text(source)
    reader = csv.DictReader(io.StringIO(text), strict=True, restkey="further cells")
    try:
        columns = list(reader.fieldnames or ())
        _check_columns(name, columns)
        rows: list[Row] = []
        for line in reader:
            if len(rows) == _MOST:
                raise FormatError(f"{name}: more than {_MOST:,} rows")
            rows.append(_row(f"{name}, line {reader.line_num}", line, len(rows)))
    except csv.Error as error:
        raise FormatError(f"{name}, line {reader.line_num}: not CSV: {error}") from error
    return rows


def _text(source: str | Path) -> tuple[str, str]:
    """Name and content of the file."""
    if source in BUNDLED:
        name = BUNDLED[str(source)]
        return name, (files("gencompress.board") / "quoted" / name).read_text(encoding="utf-8")
    path = Path(source)
    try:
        if path.stat().st_size > _LARGEST:
            raise FormatError(f"{path}: {path.stat().st_size:,} bytes are too many, {_LARGEST:,} are read")
        return str(path), path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise FormatError(f"{path}: no such file; bundled are {', '.join(BUNDLED)}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise FormatError(f"{path}: not readable as UTF-8 text: {error}") from error


def _check_columns(name: str, columns: list[str]) -> None:
    valid = (*_REQUIRED, *_OPTIONAL, *MEASURES)
    for column in columns:
        if column not in valid:
            raise FormatError(f"{name}: unknown column {column!r}: {nearest(column, valid)}")
    missing = [column for column in _REQUIRED if column not in columns]
    if missing:
        raise FormatError(f"{name}: column {missing[0]!r} is missing; every row needs {', '.join(_REQUIRED)}")
    if len(set(columns)) < len(columns):
        raise FormatError(f"{name}: a column is there twice")
    if not set(columns) & set(MEASURES):
        raise FormatError(f"{name}: no column of figures; name one or more of {', '.join(MEASURES)}")


def _row(where: str, cells: Mapping[str, str | None], number: int) -> Row:
    """One quoted row. FormatError naming line and column."""
    for column, text in cells.items():
        if text is None or not isinstance(text, str):
            raise FormatError(f"{where}: as many cells as the head are needed")
        if len(text) > _LONGEST:
            raise FormatError(f"{where}, column {column}: more than {_LONGEST} characters")
        if column in _REQUIRED and not printable(text).strip():
            raise FormatError(f"{where}, column {column}: empty; a quoted row says what it is and where it was read")
    given = {column: printable(str(text)).strip() for column, text in cells.items()}
    _check_source(where, given)
    values = {key: _figure(f"{where}, column {key}", given[key]) for key in MEASURES if given.get(key)}
    if not values:
        raise FormatError(f"{where}: no figure")
    return Row(
        id=f"quoted {number + 1}: {given['method']} {given.get('variant', '')}".strip(),
        domain=given["domain"],
        task=given["task"],
        method=given["method"],
        variant=given.get("variant", ""),
        state="quoted",
        values=values,
        about={key: given[key] for key in ("source", "url", "date", "note") if given.get(key)},
    )


def _check_source(where: str, given: Mapping[str, str]) -> None:
    parts = urlsplit(given["url"]) if given["url"].isprintable() else None
    if parts is None or parts.scheme not in ("http", "https") or not parts.netloc:
        raise FormatError(f"{where}, column url: {given['url']!r} is no http or https address")
    try:
        datetime.date.fromisoformat(given["date"])
    except ValueError as error:
        raise FormatError(f"{where}, column date: {given['date']!r} is no date like 2025-04-29") from error


def _figure(where: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError as error:
        raise FormatError(f"{where}: {text!r} is no number") from error
    if not abs(value) <= LARGEST:
        raise FormatError(f"{where}: {text!r} is not a number up to {LARGEST:g}")
    return value
