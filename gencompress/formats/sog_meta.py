"""meta.json of a SOG scene: the number of splats, the names of the images, and what the bytes of a pixel stand for.

Version 2 has codebooks of 256 numbers, version 1, which names no version, a range that a byte divides evenly. Both
become tables from a byte to a number. Layout: developer.playcanvas.com, The SOG Format.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from gencompress.errors import FormatError
from gencompress.formats import activations
from gencompress.formats.bounded import check_count, parse_json
from gencompress.formats.codebook import LEVELS
from gencompress.formats.scene import Array
from gencompress.formats.sog_bundle import META

MAX_META = 1 << 20  # bytes; three codebooks are 20 kB
MAX_PALETTE = 1 << 16  # entries that a label of two bytes can name
IMAGES = {
    "means": ("means_l.webp", "means_u.webp"),
    "scales": ("scales.webp",),
    "quats": ("quats.webp",),
    "sh0": ("sh0.webp",),
    "shN": ("shN_centroids.webp", "shN_labels.webp"),
}
POSITION_STEPS = (1 << 16) - 1
TAG = 252  # of a rotation whose real part is left out; 253 to 255 if x, y or z is
ANTIALIASED = "antialiased"  # of "model"
_BYTES = np.arange(LEVELS) / (LEVELS - 1)
_LIMIT = 88.0  # of the logarithm of a position: beyond it, it leaves float32


@dataclass(frozen=True, eq=False)
class Harmonics:
    """The palette of higher spherical harmonics.

    Args:
        entries: of the palette; None in version 1, which has as many as its image holds.
        sh_degree: 1 to 3; None in version 1, where the width of the image says it.
        table: what a byte stands for [256].
    """

    entries: int | None
    sh_degree: int | None
    table: Array


@dataclass(frozen=True, eq=False)
class Meta:
    """What is known before an image is opened.

    Args:
        count: splats.
        images: names of the images by property, as in `IMAGES`.
        low: sign(x) log(1 + |x|) of the lowest position [3].
        high: the same of the highest [3].
        scales: log-scale of a byte by axis [3, 256].
        sh0: constant coefficient of a byte by colour [3, 256].
        logits: of a byte of opacity [256].
        harmonics: None in a scene of degree 0.
        antialiased: as of `SplatScene`.
    """

    count: int
    images: dict[str, tuple[str, ...]]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    scales: Array
    sh0: Array
    logits: Array
    harmonics: Harmonics | None
    antialiased: bool = False


def parse(path: Path, data: bytes) -> Meta:
    """The checked content of a meta.json. FormatError names the field that is missing or wrong."""
    fields = _Fields(path, "", parse_json(path, data, META))
    version = fields.get("version", None)
    if version is not None and (type(version) is not int or version not in (1, 2)):
        raise FormatError(f"{path}: {META} is of version {version!r}; 1 and 2 are read")
    means = fields.part("means")
    count = fields.integer("count") if version == 2 else means.shape()
    check_count(path, count)
    low, high = (means.numbers(name, 3, _LIMIT) for name in ("mins", "maxs"))
    if (low > high).any():
        raise FormatError(f"{path}: {META} has means.mins above means.maxs")
    parts = {name: fields.part(name) for name in IMAGES if name != "shN" or fields.get(name, None) is not None}
    images = {name: part.names(len(IMAGES[name])) for name, part in parts.items()}
    shared: dict[str, Any] = {"count": count, "images": images, "low": low, "high": high}
    if version != 2:
        return Meta(**shared, **_evenly(parts))
    harmonics = _palette(parts["shN"]) if "shN" in parts else None
    return Meta(
        **shared,
        scales=np.tile(parts["scales"].codebook(), (3, 1)),
        sh0=np.tile(parts["sh0"].codebook(), (3, 1)),
        logits=activations.logit(_BYTES, activations.BYTE),
        harmonics=harmonics,
        antialiased=fields.get("model", "default") == ANTIALIASED,
    )


def _evenly(parts: dict[str, _Fields]) -> dict[str, Any]:
    """The tables of version 1, where opacity is stored before the logistic function."""
    sh0 = parts["sh0"].ranges(4)
    harmonics = Harmonics(None, None, parts["shN"].ranges(1)[0]) if "shN" in parts else None
    return {"scales": parts["scales"].ranges(3), "sh0": sh0[:3], "logits": sh0[3], "harmonics": harmonics}


def _palette(part: _Fields) -> Harmonics:
    entries, degree = part.integer("count"), part.integer("bands")
    if not 1 <= entries <= MAX_PALETTE or degree not in (1, 2, 3):
        raise FormatError(
            f"{part.path}: {META} has shN.count {entries:,} and shN.bands {degree}; 1 to {MAX_PALETTE:,} entries of "
            "degree 1 to 3 are read"
        )
    return Harmonics(entries, degree, part.codebook())


class _Fields:
    """An object of the JSON, whose entries are checked as they are taken."""

    def __init__(self, path: Path, name: str, value: Any) -> None:
        self.path, self._prefix = path, f"{name}." if name else ""
        if not isinstance(value, dict):
            raise FormatError(f"{path}: {META} has no object {name}" if name else f"{path}: {META} is no JSON object")
        self._value = value

    def get(self, name: str, default: Any) -> Any:
        return self._value.get(name, default)

    def part(self, name: str) -> _Fields:
        return _Fields(self.path, f"{self._prefix}{name}", self._value.get(name))

    def integer(self, name: str) -> int:
        value = self._value.get(name)
        if not isinstance(value, int) or isinstance(value, bool):
            self._refuse(name, "an integer", value)
        return value

    def shape(self) -> int:
        """The number of splats of version 1, [count, 3]."""
        value = self._value.get("shape")
        if not isinstance(value, list) or not value or type(value[0]) is not int:
            self._refuse("shape", "a list [count, 3]", value)
        return value[0]

    def numbers(self, name: str, length: int, limit: float = 1e6) -> NDArray[np.float64]:
        """`length` numbers; a single one need not be in a list."""
        value = self._value.get(name)
        value = [value] if length == 1 and not isinstance(value, list) else value
        if not isinstance(value, list) or not _is_numbers(value) or len(value) != length:
            self._refuse(name, f"{length} numbers", value)
        if not all(abs(number) <= limit for number in value):
            self._refuse(name, f"{length} numbers within +-{limit:g}", value)
        return np.array(value, np.float64)

    def ranges(self, length: int) -> Array:
        """Tables [length, 256] of even steps from mins to maxs."""
        low, high = self.numbers("mins", length)[:, None], self.numbers("maxs", length)[:, None]
        return (low + (high - low) * _BYTES).astype(np.float32)

    def codebook(self) -> Array:
        """The table [256]; a first number null, which an early writer wrote, is extrapolated as viewers do."""
        value = self._value.get("codebook")
        if isinstance(value, list) and len(value) == LEVELS and value[0] is None and _is_numbers(value[1:]):
            value = [value[1] + (value[1] - value[-1]) / (LEVELS - 1), *value[1:]]
        return _Fields(self.path, self._prefix[:-1], {"codebook": value}).numbers("codebook", LEVELS).astype(np.float32)

    def names(self, length: int) -> tuple[str, ...]:
        value = self._value.get("files")
        if not isinstance(value, list) or len(value) < length or not all(isinstance(name, str) for name in value):
            self._refuse("files", f"{length} file names", value)
        return tuple(value[:length])

    def _refuse(self, name: str, expected: str, value: Any) -> NoReturn:
        raise FormatError(f"{self.path}: {META} should have {self._prefix}{name} = {expected}, not {str(value)[:60]}")


def _is_numbers(value: list[Any]) -> bool:
    return all(type(number) in (int, float) for number in value)


def decimals(values: Array) -> list[float]:
    """The shortest decimals that are the same numbers in float32."""
    return [float(str(value)) for value in values]
