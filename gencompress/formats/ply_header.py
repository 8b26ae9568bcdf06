"""The text that a .ply file begins with, and its elements as memory-mapped tables.

Format: Greg Turk, "The PLY Polygon File Format" (1994). Nothing is allocated before a count has been checked against
the size of the file.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gencompress.errors import FormatError
from gencompress.formats.bounded import MAX_SPLATS, read_lines

MAX_HEADER = 1 << 16  # bytes; the longest headers in use have 4 kB
MAX_PROPERTIES = 1024
_MAX_LINE = 1 << 17  # characters of a row of text: 1024 numbers of any length
ANTIALIASED = "SplatRenderMode: mip"  # the comment by which Brush and splat-transform tag such a scene
_ORDERS = {"binary_little_endian": "<", "binary_big_endian": ">", "ascii": ""}
_TYPES = {
    "char": "i1", "int8": "i1", "uchar": "u1", "uint8": "u1", "short": "i2", "int16": "i2", "ushort": "u2",
    "uint16": "u2", "int": "i4", "int32": "i4", "uint": "u4", "uint32": "u4", "float": "f4", "float32": "f4",
    "double": "f8", "float64": "f8",
}  # fmt: skip
TYPE_NAMES = {"i1": "char", "u1": "uchar", "i2": "short", "u2": "ushort", "i4": "int", "u4": "uint", "f4": "float",
              "f8": "double"}  # fmt: skip


@dataclass(frozen=True)
class Element:
    """One table of the file: `columns` are (name, numpy type code) in the order of the file."""

    name: str
    count: int
    columns: tuple[tuple[str, str], ...]
    has_lists: bool = False


@dataclass(frozen=True)
class Header:
    """What stands before the data, which begins at byte `size`; `order` is "<", ">" or "" for text."""

    order: str
    elements: tuple[Element, ...]
    comments: tuple[str, ...]
    size: int

    @property
    def antialiased(self) -> bool:
        """Whether a comment says that the scene was trained with the anti-aliased rasterizer."""
        return ANTIALIASED in self.comments

    def element(self, name: str) -> Element | None:
        """The table of this name."""
        return next((element for element in self.elements if element.name == name), None)


def read_header(path: Path) -> Header:
    """Parse the header of a .ply. FormatError says which line is wrong."""
    with open(path, "rb") as file:
        head = file.read(MAX_HEADER)
    if not head.startswith((b"ply\n", b"ply\r\n")):
        raise FormatError(f"{path}: not a .ply file: it does not begin with the line 'ply'")
    end = head.find(b"\nend_header")
    stop = head.find(b"\n", end + 1)
    if end < 0 or stop < 0:
        raise FormatError(f"{path}: the header has no line 'end_header' within {MAX_HEADER:,} bytes")
    try:
        lines = head[:end].decode("utf-8").splitlines()[1:]
    except UnicodeDecodeError as error:
        raise FormatError(f"{path}: the header is not UTF-8 text") from error
    return _parse(path, lines, stop + 1)


def _parse(path: Path, lines: list[str], size: int) -> Header:
    order: str | None = None
    elements: list[Element] = []
    comments: list[str] = []
    for line in lines:
        word, _, rest = line.strip().partition(" ")
        if word == "comment":
            comments.append(rest)
        elif word == "format":
            order = _order(path, rest)
        elif word == "element":
            elements.append(_element(path, rest))
        elif word == "property" and elements:
            elements[-1] = _with_property(path, elements[-1], rest)
        elif word not in ("obj_info", ""):
            raise FormatError(f"{path}: header line {line[:80]!r} is not a format, element, property or comment")
    if order is None:
        raise FormatError(f"{path}: the header names no format; 'format binary_little_endian 1.0' is usual")
    return Header(order, tuple(elements), tuple(comments), size)


def _order(path: Path, text: str) -> str:
    name = text.split(" ")[0]
    if name not in _ORDERS:
        raise FormatError(f"{path}: format {name[:40]!r} is unknown; valid are {', '.join(_ORDERS)}")
    return _ORDERS[name]


def _element(path: Path, text: str) -> Element:
    name, _, count = text.strip().partition(" ")
    if not (count.isascii() and count.isdigit() and len(count) < 16):
        raise FormatError(f"{path}: element {name[:40]!r} has the count {count[:40]!r}, no whole number from 0 up")
    return Element(name, int(count), ())


def _with_property(path: Path, element: Element, text: str) -> Element:
    words = text.split()
    if words[:1] == ["list"]:
        return Element(element.name, element.count, element.columns, has_lists=True)
    if len(words) != 2 or words[0] not in _TYPES:
        raise FormatError(
            f"{path}: property {text[:60]!r} of {element.name!r} has no known type; known are {', '.join(_TYPES)}"
        )
    if len(element.columns) >= MAX_PROPERTIES:
        raise FormatError(f"{path}: element {element.name!r} has more than {MAX_PROPERTIES} properties")
    if any(name == words[1] for name, _ in element.columns):
        raise FormatError(f"{path}: property {words[1][:60]!r} stands twice in element {element.name!r}")
    return Element(element.name, element.count, (*element.columns, (words[1], _TYPES[words[0]])))


def map_tables(path: Path, header: Header, wanted: set[str]) -> dict[str, NDArray[Any]]:
    """The wanted elements as structured arrays: memory maps of a binary file, arrays in memory of a text file.

    FormatError if one is missing, has list properties in it or before it, or the file ends before it does.
    """
    missing = wanted - {element.name for element in header.elements}
    if missing:
        raise FormatError(f"{path}: the file has no element {' or '.join(sorted(map(repr, missing)))}")
    found: dict[str, NDArray[Any]] = {}
    offset, line = header.size, 0
    for element in header.elements:
        if element.has_lists:
            raise FormatError(f"{path}: element {element.name!r} has list properties, which no splat file has")
        if element.name in wanted:
            at = offset if header.order else line
            found[element.name] = _table(path, header, element, at)
        if wanted <= found.keys():
            break
        offset += element.count * _row(header, element).itemsize
        line += element.count
    return found


def _row(header: Header, element: Element) -> np.dtype[Any]:
    return np.dtype([(name, (header.order or "<") + code) for name, code in element.columns])


def _table(path: Path, header: Header, element: Element, at: int) -> NDArray[Any]:
    """One element; `at` is its first byte, or in a text file its first line."""
    row = _row(header, element)
    if element.count > MAX_SPLATS:
        raise FormatError(f"{path}: element {element.name!r} claims {element.count:,} rows; the most is {MAX_SPLATS:,}")
    if not element.count or not row.itemsize:
        return np.empty(element.count if row.itemsize else 0, row)
    has = path.stat().st_size - (at if header.order else header.size)
    needs = element.count * (row.itemsize if header.order else 2 * len(element.columns))
    if needs > has:
        raise FormatError(
            f"{path}: truncated: {element.count:,} rows of {element.name!r} need {needs:,} bytes, "
            f"{max(has, 0):,} are there"
        )
    if header.order:
        return np.memmap(path, row, "r", at, (element.count,))
    return _parse_text(path, header.size, at, element, row)


def _parse_text(path: Path, start: int, skip: int, element: Element, row: np.dtype[Any]) -> NDArray[Any]:
    lines = read_lines(path, _MAX_LINE, start)
    try:
        table = np.loadtxt(lines, row, comments=None, skiprows=skip, max_rows=element.count, ndmin=1)
    except FormatError:
        raise
    except ValueError as error:
        raise FormatError(f"{path}: element {element.name!r} holds no table of numbers: {error}") from error
    if len(table) != element.count:
        raise FormatError(f"{path}: truncated: {len(table):,} of {element.count:,} rows of {element.name!r} are there")
    return table
