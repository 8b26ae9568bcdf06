"""Hostile camera files: name -> (the files of a folder, the one to read or "" for the folder, a pattern)."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterator
from typing import Any

Files = dict[str, bytes]
Case = tuple[str, Files, str, str]
NAN = float("nan")
EYE = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]


def inria(content: object = None, **changes: Any) -> Files:
    """One camera with some entries changed, or left out where the change is None."""
    camera = {
        "position": [0.0, 1.0, 2.0],
        "rotation": EYE,
        "fx": 500.0,
        "fy": 500.0,
        "width": 64,
        "height": 48,
    } | changes
    camera = {key: value for key, value in camera.items() if value is not None}
    return {"cameras.json": json.dumps([camera] if content is None else content).encode()}


def inria_cases() -> Iterator[Case]:
    texts = {"nothing": b"", "half": inria()["cameras.json"][:-9], "deep": b"[" * 200_000, "number": b"1" * 6000}
    texts |= {"deep objects": b'[{"position":' * 100_000, "not UTF-8": b'["\xff"]', "not JSON": b"import os"}
    for name, text in texts.items():
        yield f"JSON of {name}", {"cameras.json": text}, "cameras.json", "no valid JSON|not a list"
    for name, content in (("empty list", []), ("object", {}), ("null", 0), ("string", "a")):
        yield name, inria(content), "cameras.json", "holds no camera|not a list"
    for entry in (None, 3, [], "camera"):
        yield f"a camera that is {entry!r}", inria([entry]), "cameras.json", "camera 0 has no"
    yield "too many cameras", inria([0] * 100_001), "cameras.json", "not a list of up to"
    for key in ("position", "rotation", "fx", "fy", "width", "height"):
        yield f"no {key}", inria(**{key: None}), "cameras.json", f"camera 0 has no {key}"
    for value in (0, -1, 10**9, NAN, math.inf, "64", [64], 10**400, {}):
        yield f"width {str(value)[:9]}", inria(width=value), "cameras.json", "pixels|finite number"
    for value in (0, -1, NAN, math.inf, "500", 10**400):
        yield f"fx {str(value)[:9]}", inria(fx=value), "cameras.json", "focal|finite number"
    mirror, stretched = [[-1, 0, 0], *EYE[1:]], [[2, 0, 0], *EYE[1:]]
    rotations = {
        "mirror": mirror,
        "stretch": stretched,
        "zeros": [[0] * 3] * 3,
        "NaN": [[NAN] * 3] * 3,
        "short": EYE[:2],
    }
    rotations |= {"flat": [1] * 9, "ragged": [[1], [1, 2], []], "words": [["a"] * 3] * 3, "deep": [[[1]] * 3] * 3}
    for name, value in rotations.items():
        yield f"rotation of {name}", inria(rotation=value), "cameras.json", "pose|rotation"
    for name, value in {"NaN": [NAN] * 3, "two": [0, 1], "words": "abc", "huge": [10**400] * 3}.items():
        yield f"position of {name}", inria(position=value), "cameras.json", "pose|position"


def transforms(content: object = None, **changes: Any) -> Files:
    pose = [[*row, 0.0] for row in EYE] + [[0, 0, 0, 1]]
    values = {"fl_x": 500.0, "w": 64, "h": 48, "frames": [{"transform_matrix": pose}]} | changes
    values = {key: value for key, value in values.items() if value is not None}
    return {"transforms.json": json.dumps(values if content is None else content).encode()}


def transforms_cases() -> Iterator[Case]:
    name = "transforms.json"
    for key, text in {"nothing": b"", "deep": b'{"frames":[' * 50_000, "not UTF-8": b'{"\xff": 1}'}.items():
        yield f"JSON of {key}", {name: text}, name, "no valid JSON"
    for content in ([], 3, {"frames": 3}, {"frames": {}}, {}, {"frames": [0] * 100_001}):
        yield f"content {str(content)[:20]}", transforms(content), name, "no list 'frames'"
    yield "no frames", transforms(frames=[]), name, "holds no camera"
    for frame in (None, 3, [], {}, {"transform_matrix": 3}, {"transform_matrix": "a"}, {"transform_matrix": [[1]]}):
        yield f"frame {frame}", transforms(frames=[frame]), name, "is no object|transform_matrix"
    for row in ([NAN] * 4, [0] * 4, [3, 0, 0, 0], ["a"] * 4, [10**400] * 4):
        yield (
            f"row {str(row)[:20]}",
            transforms(frames=[{"transform_matrix": [row] * 4}]),
            name,
            "pose|transform_matrix",
        )
    for value in (0, -3, math.pi, 99, NAN, "1", True, 10**400):
        yield f"angle {str(value)[:9]}", transforms(fl_x=None, camera_angle_x=value), name, "camera_angle_x"
    yield "neither focal length nor angle", transforms(fl_x=None), name, "camera_angle_x"
    for key in ("fl_x", "fl_y", "w", "h"):
        for value in (0, -1, NAN, "5", True if key != "fl_x" else [5]):
            yield f"{key} {value!r}", transforms(**{key: value}), name, "focal|pixels|not a number"
    world = "dataparser_transforms.json"
    for key, value in {"list": [], "zero": {"scale": 0}, "no matrix": {"scale": 1}, "word": {"scale": "a"}}.items():
        files = transforms() | {world: json.dumps(value).encode()}
        yield f"world of {key}", files, name, "dataparser_transforms"


def colmap(camera: bytes | None = None, image: bytes | None = None, cameras: int = 1, images: int = 1) -> Files:
    camera = struct.pack("<IiQQ4d", 1, 1, 64, 48, 500, 500, 32, 24) if camera is None else camera
    image = colmap_image() if image is None else image
    return {
        "cameras.bin": struct.pack("<Q", cameras) + camera,
        "images.bin": struct.pack("<Q", images) + image,
    }


def colmap_image(
    quat: tuple[float, ...] = (1, 0, 0, 0), camera: int = 1, name: bytes = b"a.png\0", points: int = 0
) -> bytes:
    return struct.pack("<I7dI", 1, *quat, 0, 0, 4, camera) + name + struct.pack("<Q", points)


def colmap_cases() -> Iterator[Case]:
    whole = colmap()
    for name in ("cameras.bin", "images.bin"):
        for cut in sorted({0, 1, 7, 8, 9, 30, len(whole[name]) // 2, len(whole[name]) - 1}):
            yield (
                f"{name} cut at {cut}",
                whole | {name: whole[name][:cut]},
                "",
                "truncated|holds no camera|names camera",
            )
    for count in (2, 10**6, 2**63, 2**64 - 1):
        yield f"{count} cameras", colmap(cameras=count), "", "truncated"
        yield f"{count} images", colmap(images=count), "", "truncated"
    yield "no images", colmap(images=0), "", "holds no camera"
    yield "no images file", {"cameras.bin": whole["cameras.bin"]}, "", "cannot be read"
    for model in (-1, 11, 2**31 - 1):
        yield f"model {model}", colmap(struct.pack("<IiQQ4d", 1, model, 64, 48, 1, 1, 1, 1)), "", "unknown model"
    for size in ((0, 48), (2**63, 48), (64, 10**9)):
        yield f"size {size}", colmap(struct.pack("<IiQQ4d", 1, 1, *size, 1, 1, 1, 1)), "", "pixels"
    for focal in (0.0, -1.0, NAN, math.inf):
        yield f"focal {focal}", colmap(struct.pack("<IiQQ4d", 1, 1, 64, 48, focal, 1, 1, 1)), "", "focal|finite number"
    for quat in ((0, 0, 0, 0), (NAN, 0, 0, 0), (math.inf, 0, 0, 0)):
        yield f"quaternion {quat}", colmap(image=colmap_image(quat)), "", "quaternion of zeros|pose"
    yield "another camera", colmap(image=colmap_image(camera=9)), "", "names camera 9"
    yield "endless name", colmap(image=colmap_image(name=b"a" * 100_000)), "", "name has no end"
    for points in (1, 2**60, 2**64 - 1):
        yield f"{points} points", colmap(image=colmap_image(points=points)), "", "points"


def text_model(camera: str = "1 PINHOLE 64 48 500 500 32 24", image: str = "1 1 0 0 0 0 0 4 1 a.png") -> Files:
    return {"cameras.txt": f"# cameras\n{camera}\n".encode(), "images.txt": f"# images\n{image}\n\n".encode()}


def text_cases() -> Iterator[Case]:
    for line in ("a", "1 PINHOLE", "1 PINHOLE 64 48 a b c d", "1.5 PINHOLE 64 48 1 1 1 1", "nan PINHOLE 64 48 1 1 1 1",
                 "1 PINHOLE 64 48 1 1 1", "1 CUBE 64 48 1 1 1 1", "1 PINHOLE 0 48 1 1 1 1", "1 PINHOLE 64 48 -1 1 1 1",
                 "1 PINHOLE 64 48 inf 1 1 1", "\0" * 50, "1 " * 100_000):  # fmt: skip
        yield f"camera {line[:25]!r}", text_model(camera=line), "", "camera|model|parameters|pixels|focal|finite number"
    for line in ("a", "1 1 0 0", "1 a 0 0 0 0 0 4 1 a.png", "1 0 0 0 0 0 0 4 1 a.png", "1 nan 0 0 0 0 0 4 1 a.png",
                 "1 1 0 0 0 0 0 4 9 a.png", "1 1 0 0 0 0 0 4 1.5 a.png", "1e400 1 0 0 0 0 0 4 1 a"):  # fmt: skip
        yield f"image {line[:25]!r}", text_model(image=line), "", "image"
    yield "no image", text_model(image="# nothing"), "", "holds no camera"
    yield "not UTF-8", text_model() | {"cameras.txt": b"\xff\xfe" * 100}, "", "camera"
    yield "one line of 40 MB", text_model() | {"cameras.txt": b"1 " * (20 << 20)}, "", "line is longer"


def camera_cases() -> dict[str, tuple[Files, str, str]]:
    """Every case by its name."""
    makers = (inria_cases, transforms_cases, colmap_cases, text_cases)
    return {f"{make.__name__}: {name}": (files, read, wrong) for make in makers for name, files, read, wrong in make()}


def whole_files() -> dict[str, tuple[Files, str]]:
    """What they were made from: these are read without complaint."""
    return {
        "inria": (inria(), "cameras.json"), "transforms": (transforms(), "transforms.json"),
        "colmap": (colmap(), ""), "text": (text_model(), ""),
    }  # fmt: skip
