"""COLMAP's sparse models: cameras and images, binary or text (colmap.github.io/format.html)."""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from gencompress.errors import FormatError
from gencompress.formats import quaternions
from gencompress.formats.bounded import read_bytes, read_lines
from gencompress.formats.pinhole import MAX_CAMERAS, Pinhole, pinhole

Intrinsics = tuple[tuple[float, ...], tuple[float, float]]  # (fx, fy, cx, cy) and (width, height)
_MODELS = (  # name, number of parameters, whether fx and fy are one
    ("SIMPLE_PINHOLE", 3, True),
    ("PINHOLE", 4, False),
    ("SIMPLE_RADIAL", 4, True),
    ("RADIAL", 5, True),
    ("OPENCV", 8, False),
    ("OPENCV_FISHEYE", 8, False),
    ("FULL_OPENCV", 12, False),
    ("FOV", 5, False),
    ("SIMPLE_RADIAL_FISHEYE", 4, True),
    ("RADIAL_FISHEYE", 5, True),
    ("THIN_PRISM_FISHEYE", 12, False),
)
_CAMERA = struct.Struct("<IiQQ")  # id, model, width, height; the parameters follow as doubles
_IMAGE = struct.Struct("<I7dI")  # id, quaternion wxyz, translation, camera; name and points follow
_POINT = 24  # bytes of an observed point
_MAX_NAME = 4096
_MAX_CAMERA_FILE = 16 << 20
_MAX_LINE = 32 << 20  # the observed points of one image stand in one line


def read_colmap(folder: Path) -> list[Pinhole]:
    """The images of a sparse model as cameras, the binary files before the text files. Distortion is left out."""
    if (folder / "cameras.bin").is_file():
        cameras, path = _binary_cameras(folder / "cameras.bin"), folder / "images.bin"
        poses = _binary_images(path)
    else:
        cameras, path = _text_cameras(folder / "cameras.txt"), folder / "images.txt"
        poses = _text_images(path)
    found = []
    for number, pose, camera, name in poses:
        where = f"{path}: image {number}"
        if camera not in cameras:
            raise FormatError(f"{where} names camera {camera}, which the cameras do not have")
        if not any(pose[:4]):
            raise FormatError(f"{where} has a quaternion of zeros")
        intrinsics, size = cameras[camera]
        rotation = quaternions.matrices(np.array([pose[:4]]))[0]
        found.append(pinhole(where, rotation, np.array(pose[4:]), intrinsics, size, name))
        if len(found) > MAX_CAMERAS:
            raise FormatError(f"{path}: more than {MAX_CAMERAS:,} images")
    return found


def _model(where: str, model: object, size: tuple[float, float], parameters: tuple[float, ...]) -> Intrinsics:
    """The pinhole of a camera model: its focal lengths and principal point."""
    named = {name: (name, count, one) for name, count, one in _MODELS}
    if model not in named:
        raise FormatError(f"{where}: camera model {str(model)[:40]!r} is unknown; known are {', '.join(named)}")
    name, count, one = named[str(model)]
    if len(parameters) != count:
        raise FormatError(f"{where}: {name} has {count} parameters, not {len(parameters)}")
    return (parameters[0], *parameters[:3]) if one else parameters[:4], size


def _binary_cameras(path: Path) -> dict[int, Intrinsics]:
    data = read_bytes(path, _MAX_CAMERA_FILE)
    cameras: dict[int, Intrinsics] = {}
    try:
        (count,) = struct.unpack_from("<Q", data)
        offset = 8
        for _ in range(min(count, MAX_CAMERAS)):
            number, model, width, height = _CAMERA.unpack_from(data, offset)
            if not 0 <= model < len(_MODELS):
                raise FormatError(f"{path}: camera {number} has the unknown model {model}")
            name, parameters, _ = _MODELS[model]
            values = struct.unpack_from(f"<{parameters}d", data, offset + _CAMERA.size)
            offset += _CAMERA.size + 8 * parameters
            cameras[number] = _model(f"{path}: camera {number}", name, (width, height), values)
    except struct.error as error:
        raise FormatError(f"{path}: truncated within camera {len(cameras)} of those announced") from error
    return cameras


def _binary_images(path: Path) -> Iterator[tuple[int, tuple[float, ...], int, str]]:
    """Number, quaternion and translation, camera and name of each image; the observed points are passed over."""
    with open(path, "rb") as file:
        if path.stat().st_size < 8:
            raise FormatError(f"{path}: truncated: {path.stat().st_size} bytes")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            (count,) = struct.unpack_from("<Q", data)
            offset = 8
            for index in range(min(count, MAX_CAMERAS + 1)):
                name = offset + _IMAGE.size
                end = data.find(b"\0", name, name + _MAX_NAME)
                if end < 0 or end + 9 > len(data):
                    raise FormatError(f"{path}: truncated within image {index} of {count:,}, or its name has no end")
                number, *pose, camera = _IMAGE.unpack_from(data, offset)
                (points,) = struct.unpack_from("<Q", data, end + 1)
                offset = end + 9 + _POINT * points
                if offset > len(data):
                    raise FormatError(f"{path}: truncated: image {index} claims {points:,} points")
                yield number, tuple(pose), camera, data[name:end].decode("utf-8", "replace")


def _lines(path: Path) -> Iterator[str]:
    """Lines of a text file but for comments; empty ones too, for an image without points has one."""
    return (line for line in read_lines(path, _MAX_LINE) if not line.startswith("#"))


def _numbers(where: str, words: list[str]) -> tuple[float, ...]:
    try:
        return tuple(float(word) for word in words)
    except ValueError as error:
        raise FormatError(f"{where}: {' '.join(words)[:60]!r} are not all numbers") from error


def _text_cameras(path: Path) -> dict[int, Intrinsics]:
    cameras: dict[int, Intrinsics] = {}
    for line in _lines(path):
        words = line.split()
        if not words:
            continue
        where = f"{path}: camera {words[0][:20]}"
        if len(words) < 5 or len(cameras) > MAX_CAMERAS:
            raise FormatError(f"{where}: a line has id, model, width, height and parameters")
        number, width, height, *parameters = _numbers(where, [words[0], *words[2:]])
        cameras[_whole(where, number)] = _model(where, words[1], (width, height), tuple(parameters))
    return cameras


def _text_images(path: Path) -> Iterator[tuple[int, tuple[float, ...], int, str]]:
    for index, line in enumerate(_lines(path)):
        words = line.split()
        if index % 2 or not words:  # every other line has the observed points
            continue
        where = f"{path}: image {words[0][:20]}"
        if len(words) < 10:
            raise FormatError(f"{where}: a line has id, quaternion, translation, camera and name")
        number, *pose, camera = _numbers(where, words[:9])
        yield _whole(where, number), tuple(pose), _whole(where, camera), line.split(maxsplit=9)[9].rstrip()


def _whole(where: str, number: float) -> int:
    if not number.is_integer():
        raise FormatError(f"{where}: {number:g} is no whole number")
    return int(number)
