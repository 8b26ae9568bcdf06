"""Reading files that strangers wrote: never more than a stated number of bytes, and every refusal a FormatError."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gencompress.errors import FormatError

MAX_SPLATS = 50_000_000
MAX_JSON = 64 << 20
MAX_RATIO = 100  # unpacked bytes per packed byte; splats reach 5
FREE_OF_RATIO = 16 << 20  # unpacked bytes below which any ratio is harmless


def read_bytes(path: Path, limit: int, what: str = "the file") -> bytes:
    """The whole file. FormatError if it is longer than `limit`."""
    size = path.stat().st_size
    if size > limit:
        raise FormatError(f"{path}: {what} has {size:,} bytes; at most {limit:,} are read")
    with open(path, "rb") as file:
        return file.read(size)  # read() allocates what it is asked for


def read_lines(path: Path, longest: int, start: int = 0) -> Iterator[str]:
    """The lines of a text file from byte `start` on. FormatError if one is longer than `longest` characters."""
    with open(path, encoding="utf-8", errors="replace") as file:
        file.seek(start)
        while line := file.readline(longest):
            if len(line) == longest:
                raise FormatError(f"{path}: a line is longer than {longest:,} characters")
            yield line


def parse_json(path: Path, data: bytes, what: str = "the file") -> Any:
    """The value of a JSON text. FormatError if it is none, is not UTF-8, or is nested too deeply."""
    try:
        return json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:  # a wrong letter, a wrong byte, or ten thousand brackets
        raise FormatError(f"{path}: {what} is no valid JSON: {error}") from error


def check_count(path: Path, count: int) -> None:
    """FormatError unless the number of splats that a file claims is within bounds."""
    if not 0 < count <= MAX_SPLATS:
        raise FormatError(f"{path}: the file claims {count:,} splats; 1 to {MAX_SPLATS:,} are read")


def check_ratio(path: Path, packed: int, unpacked: int) -> None:
    """FormatError if so few bytes claim to unpack to so many that the file is a bomb."""
    if unpacked > FREE_OF_RATIO and unpacked > MAX_RATIO * packed:
        raise FormatError(
            f"{path}: {packed:,} bytes claim to unpack to {unpacked:,}, over {MAX_RATIO} times as many: not a scene"
        )
