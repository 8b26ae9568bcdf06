"""Hostile SOG bundles; see `corpus_ply` for what a case is."""

from __future__ import annotations

import copy
import io
import json
import struct
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import numpy as np
from PIL import Image

from tests.hostile.corpus_ply import Case

LEVELS = [round(0.01 * i - 1, 2) for i in range(256)]
META: dict[str, Any] = {
    "version": 2,
    "count": 2,
    "means": {"mins": [-1, -1, -1], "maxs": [1, 1, 1], "files": ["means_l.webp", "means_u.webp"]},
    "scales": {"codebook": LEVELS, "files": ["scales.webp"]},
    "quats": {"files": ["quats.webp"]},
    "sh0": {"codebook": LEVELS, "files": ["sh0.webp"]},
    "shN": {"count": 64, "bands": 1, "codebook": LEVELS, "files": ["shN_centroids.webp", "shN_labels.webp"]},
}
META1: dict[str, Any] = {
    "means": META["means"] | {"shape": [2, 3]},
    "scales": {"mins": [-9, -9, -9], "maxs": [0, 0, 0], "files": ["scales.webp"]},
    "quats": META["quats"],
    "sh0": {"mins": [-1, -1, -1, -5], "maxs": [1, 1, 1, 5], "files": ["sh0.webp"]},
    "shN": {"mins": -1, "maxs": 1, "files": ["shN_centroids.webp", "shN_labels.webp"]},
}


@cache
def webp(width: int, height: int, colour: tuple[int, ...] = (0, 0, 0, 255), **options: Any) -> bytes:
    file = io.BytesIO()
    mode = "RGBA" if len(colour) == 4 else "RGB"
    Image.new(mode, (width, height), colour).save(file, "WEBP", **{"lossless": True, "exact": True} | options)
    return file.getvalue()


def webp_of(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "WEBP", lossless=True, exact=True)
    return file.getvalue()


def images() -> dict[str, bytes]:
    """Those of a scene of up to 16 splats with a palette of 64."""
    plain, labels = webp(4, 4), webp(4, 4, (5, 0, 0, 255))
    names = ("means_l.webp", "means_u.webp", "scales.webp", "sh0.webp")
    return {**dict.fromkeys(names, plain), "quats.webp": webp(4, 4, (128, 128, 128, 252)),
            "shN_centroids.webp": webp(192, 1), "shN_labels.webp": labels}  # fmt: skip


Change = Callable[[dict[str, Any]], None]


def files(changed: Change | None = None, meta: Any = META, **replaced: bytes) -> dict[str, bytes]:
    """A scene by file name, after a change of its meta.json; `replaced` are images without their ending."""
    meta = copy.deepcopy(meta)
    if changed:
        changed(meta)
    others = {f"{name}.webp": data for name, data in replaced.items()}
    return images() | {"meta.json": json.dumps(meta).encode()} | others


def bundle(content: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, data in content.items():
            archive.writestr(zipfile.ZipInfo(name), data, method)
    return file.getvalue()


def sog(changed: Change | None = None, meta: Any = META, **replaced: bytes) -> bytes:
    return bundle(files(changed, meta, **replaced))


def setting(*keys: Any, value: Any) -> Change:
    """A change of one entry of nested objects."""

    def change(meta: Any) -> None:
        for key in keys[:-1]:
            meta = meta[key]
        meta[keys[-1]] = value

    return change


def without(*keys: Any) -> Change:
    def change(meta: Any) -> None:
        for key in keys[:-1]:
            meta = meta[key]
        del meta[keys[-1]]

    return change


def sog_meta() -> Iterator[Case]:
    for version in (0, 3, -1, 2.5, "2", True, [2], 10**400):
        yield f"version {version!s:.9}", sog(setting("version", value=version)), "is of version"
    for count in (0, -1, -(2**63), 50_000_001, 10**30):
        yield f"count {count}", sog(setting("count", value=count)), "claims"
    for count in (None, "2", 2.0, True, [2], {}):
        yield f"count {count!r}", sog(setting("count", value=count)), "count = an integer"
    for name in ("means", "scales", "quats", "sh0"):
        yield f"no {name}", sog(without(name)), f"no object {name}"
        yield f"{name} is a list", sog(setting(name, value=[1, 2])), f"no object {name}"
    yield "shN is a number", sog(setting("shN", value=7)), "no object shN"
    for name in ("means", "scales", "quats", "sh0", "shN"):
        yield f"no files of {name}", sog(without(name, "files")), f"{name}.files"
        yield f"files of {name} are numbers", sog(setting(name, "files", value=[1, 2])), f"{name}.files"
    yield "one file of means", sog(setting("means", "files", value=["means_l.webp"])), "2 file names"
    for bounds in ([1, 1], [1, 1, 1, 1], [1, None, 1], ["a", 1, 1], 5, [float("nan"), 1, 1], [float("inf"), 1, 1],
                   [1e3, 1e3, 1e3], [10**400, 1, 1], [True, 1, 1]):  # fmt: skip
        yield f"maxs {str(bounds)[:20]}", sog(setting("means", "maxs", value=bounds)), r"means\.maxs"
    yield "mins above maxs", sog(setting("means", "mins", value=[0, 2, 0])), "mins above"
    for name in ("scales", "sh0", "shN"):
        yield f"no codebook of {name}", sog(without(name, "codebook")), f"{name}.codebook"
        yield f"codebook of {name} of 255", sog(setting(name, "codebook", value=LEVELS[1:])), "256 numbers"
        yield f"codebook of {name} of 257", sog(setting(name, "codebook", value=[*LEVELS, 1])), "256 numbers"
        for bad in (float("nan"), float("-inf"), 1e39, None, "0", [0]):
            book = [*LEVELS[:-1], bad]
            yield f"codebook of {name} with {bad!r}", sog(setting(name, "codebook", value=book)), f"{name}.codebook"
    for bands in (0, 4, -1, 9, "1", None, 1.0):
        yield f"bands {bands!r}", sog(setting("shN", "bands", value=bands)), "bands"
    for entries in (0, -1, 65_537, 2**63, "64", None):
        yield f"palette of {entries!r}", sog(setting("shN", "count", value=entries)), r"shN\.count"
    yield "palette larger than its image", sog(setting("shN", "count", value=65)), "hold no 65 entries"
    yield "degree above that of the image", sog(setting("shN", "bands", value=3)), "of degree 3"
    for text in (b"", b"[]", b"null", b"7", b"{", b"{" * 100_000, b"[" * 100_000, b'{"a":' * 50_000, b"\xff\xfe{}",
                 b"1" * 10_000):  # fmt: skip
        yield f"meta.json of {text[:6]!r} x {len(text)}", bundle(files() | {"meta.json": text}), "meta.json"
    yield "meta.json of two megabytes", bundle(files() | {"meta.json": b" " * (2 << 20) + b"{}"}), "at most"


def sog_meta1() -> Iterator[Case]:
    for shape in (None, [], 2, ["2", 3], [2.0, 3], [True, 3]):
        yield f"shape {shape!r}", sog(setting("means", "shape", value=shape), META1), r"means\.shape"
    for shape in ([0, 3], [-5, 3], [10**12, 3]):
        yield f"shape {shape!r}", sog(setting("means", "shape", value=shape), META1), "claims"
    yield "no mins of scales", sog(without("scales", "mins"), META1), r"scales\.mins"
    yield "three mins of sh0", sog(setting("sh0", "mins", value=[0, 0, 0]), META1), r"sh0\.mins"
    yield "mins of shN are NaN", sog(setting("shN", "mins", value=float("nan")), META1), r"shN\.mins"
    for width in (64, 191, 256, 320, 1024):
        yield f"palette {width} wide", sog(None, META1, shN_centroids=webp(width, 1)), "hold no"
    yield "label beyond the palette", sog(None, META1, shN_labels=webp(4, 4, (64, 0, 0, 255))), "entry 64"


def sog_images() -> Iterator[Case]:
    for name in images():
        stem = name.removesuffix(".webp")
        others = {key: data for key, data in files().items() if key != name}
        yield f"{stem} is missing", bundle(others), f"no file {name}"
        yield f"{stem} is empty", sog(**{stem: b""}), "truncated"
        yield f"{stem} cut", sog(**{stem: images()[name][:-3]}), "damaged|truncated"
        yield f"{stem} of one pixel", sog(setting("count", value=2), **{stem: webp(1, 1)}), "pixels|hold no"
    count = setting("count", value=17)
    yield "17 splats in 16 pixels", sog(count), "has 16 pixels for 17"
    yield "image of 64 megapixels", sog(sh0=webp(8000, 8000)), "8000 x 8000 pixels for 2"
    yield "image of the largest size", sog(scales=webp(16383, 16383, method=0, quality=0)), "16383 x 16383 pixels"
    palette = webp(192, 16383, method=0, quality=0)
    yield "palette of a million entries", sog(shN_centroids=palette), "192 x 16383 pixels"
    yield "png", sog(sh0=b"\x89PNG\r\n\x1a\n" + bytes(60)), "no WebP"
    yield "gif", sog(sh0=b"GIF89a" + bytes(60)), "no WebP"
    yield "riff of something else", sog(sh0=b"RIFF" + struct.pack("<I", 60) + b"WAVEfmt " + bytes(60)), "no WebP"
    yield "unknown chunk", sog(sh0=webp(4, 4)[:12] + b"VP9 " + webp(4, 4)[16:]), "unknown or animated"
    still, other = Image.new("RGBA", (4, 4), (9, 0, 0, 255)), Image.new("RGBA", (4, 4), (0, 9, 0, 255))
    file = io.BytesIO()
    still.save(file, "WEBP", save_all=True, append_images=[other], lossless=True)
    yield "animated", sog(sh0=file.getvalue()), "unknown or animated"
    yield "noise after the header", sog(sh0=webp(4, 4)[:25] + bytes(range(1, 60))), "damaged|truncated|pixels"
    for tag in (0, 1, 251):
        yield f"rotation of tag {tag}", sog(quats=webp(4, 4, (128, 128, 128, tag))), f"tag {tag}"
    yield "rotations without alpha", sog(setting("version", value=2), quats=webp(4, 4, (3, 3, 3, 0))), "tag 0"
    yield "label beyond the palette", sog(shN_labels=webp(4, 4, (64, 0, 0, 255))), "entry 64"
    yield "label of two bytes beyond it", sog(shN_labels=webp(4, 4, (0, 255, 0, 255))), "entry 65,280"


def sog_names() -> Iterator[Case]:
    for name in ("../means_l.webp", "/etc/passwd", "..", "a/b.webp", "C:\\a.webp", "..\\a.webp", "", "a\x00.webp",
                 "~/a.webp", ".hidden", "x" * 300, "sh0.webp\n", "http://host/a.webp", "%2e%2e", "ä.webp"):  # fmt: skip
        hostile = files(setting("sh0", "files", value=[name]))
        yield f"file name {name[:20]!r}", bundle(hostile | {name or "x": webp(4, 4)}), "names a file"
    yield "file that is not there", sog(setting("sh0", "files", value=["other.webp"])), "no file other.webp"
    yield "meta.json as an image", sog(setting("sh0", "files", value=["meta.json"])), "no WebP|truncated"


def _patched(data: bytes, offset: int, value: bytes) -> bytes:
    """The zip with bytes of the last entry of its list of members replaced."""
    at = data.rfind(b"PK\x01\x02")
    return data[: at + offset] + value + data[at + offset + len(value) :]


def sog_zips() -> Iterator[Case]:
    whole = sog()
    yield "zip without meta.json", bundle(images()), "no file meta.json"
    yield "empty zip", bundle({}), "no file meta.json"
    yield "zip in a folder", bundle({f"scene/{name}": data for name, data in files().items()}), "no file meta.json"
    yield "no list of members", whole[: whole.rfind(b"PK\x05\x06")], "not a .sog"
    yield "list of members elsewhere", whole[:-6] + b"\xff\xff\xff\x7f" + whole[-2:], "damaged|not a .sog"
    yield "list of four gigabytes", whole[:-10] + b"\xff\xff\xff\xff" + whole[-6:], "too many members"
    yield "64-bit zip", whole[:-22] + b"PK\x06\x07" + bytes(16) + whole[-22:], "too many members"
    many = files() | {f"{i:060}": b"" for i in range(1200)}
    yield "1200 members", bundle(many), "too many members"
    archive = io.BytesIO(whole)
    with zipfile.ZipFile(archive, "a") as twice, warnings.catch_warnings(action="ignore"):
        twice.writestr("sh0.webp", webp(4, 4))
    yield "two members of one name", archive.getvalue(), "same name"
    yield "encrypted", _patched(whole, 8, b"\x01\x00"), "encrypted"
    for method in (12, 14, 93, 99):
        yield f"method {method}", _patched(whole, 10, struct.pack("<H", method)), "encrypted|damaged"
    yield "member beyond the end", _patched(whole, 42, struct.pack("<I", 2**31)), "damaged"
    yield "member at another's place", _patched(whole, 42, struct.pack("<I", 0)), "damaged"
    yield "longer than it is", _patched(whole, 24, struct.pack("<I", 2**31)), "claims to unpack|damaged"
    yield "wrong checksum", _patched(whole, 16, b"\0\0\0\0"), "damaged"
    packed = bundle(files(), zipfile.ZIP_DEFLATED)
    start = packed.find(b"meta.json") + len("meta.json")
    yield "damaged deflate stream", packed[:start] + b"\xff" * 20 + packed[start + 20 :], "damaged"


def sog_bombs() -> Iterator[Case]:
    spaces = b'{"a":"' + b" " * (400 << 10) + b'"}'
    yield "deflate bomb as meta.json", bundle(files() | {"meta.json": spaces}, zipfile.ZIP_DEFLATED), "claims to unpack"
    zeros = bundle(files(sh0=bytes(100 << 20)), zipfile.ZIP_DEFLATED)
    yield "deflate bomb as an image", zeros, "claims to unpack"
    other = files(setting("sh0", "files", value=["q.webp"])) | {"q.webp": bytes(50 << 20)}
    lying = _patched(bundle(other, zipfile.ZIP_DEFLATED), 24, struct.pack("<I", 9000))
    yield "deflate bomb that lies", lying, "q.webp is damaged"
    side = 3000
    big = setting("count", value=side * side)
    planes = {name: webp(side, side) for name in ("means_l", "means_u", "scales", "sh0", "shN_labels")}
    bomb = sog(big, **planes, quats=webp(side, side, (128, 128, 128, 252)))
    yield "bomb of nine million splats in white", bomb, "claim to unpack"
    yield "claims fifty million splats", sog(setting("count", value=50_000_000)), "claim to unpack"
    quine = zlib.compress(bytes(1 << 20), 9)
    yield "zlib as an image", sog(sh0=quine), "no WebP"
