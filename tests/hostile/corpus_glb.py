"""Hostile .glb files; see `corpus_ply` for what a case is."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from tests.hostile.corpus_ply import Case

KHR = "KHR_gaussian_splatting"
ATTRIBUTES = {"POSITION": "VEC3", f"{KHR}:ROTATION": "VEC4", f"{KHR}:SCALE": "VEC3", f"{KHR}:OPACITY": "SCALAR"}
ATTRIBUTES |= {f"{KHR}:SH_DEGREE_0_COEF_0": "VEC3"}


def gltf() -> dict[str, Any]:
    """Two splats; every attribute lies at the beginning of the same 64 bytes."""
    accessors = [{"bufferView": 0, "componentType": 5126, "count": 2, "type": kind} for kind in ATTRIBUTES.values()]
    primitive = {"mode": 0, "attributes": {name: i for i, name in enumerate(ATTRIBUTES)}}
    primitive["extensions"] = {KHR: {"kernel": "ellipse", "colorSpace": "srgb_rec709_display"}}
    return {
        "asset": {"version": "2.0"}, "scene": 0, "scenes": [{"nodes": [0]}], "nodes": [{"mesh": 0}],
        "meshes": [{"primitives": [primitive]}], "buffers": [{"byteLength": 64}],
        "bufferViews": [{"buffer": 0, "byteOffset": 0, "byteLength": 64}], "accessors": accessors,
    }  # fmt: skip


def glb(content: object = None, body: bytes | None = None, **raw: Any) -> bytes:
    text = raw.get("text", json.dumps(gltf() if content is None else content).encode())
    text += b" " * (-len(text) % 4)
    body = np.full(16, 0.5, "<f4").tobytes() if body is None else body
    length = 12 + 8 + len(text) + 8 + len(body)
    head = struct.pack("<4sII", raw.get("magic", b"glTF"), raw.get("version", 2), raw.get("length", length))
    first = struct.pack("<I4s", raw.get("json_length", len(text)), raw.get("kind", b"JSON"))
    second = struct.pack("<I4s", raw.get("body_length", len(body)), raw.get("body_kind", b"BIN\0"))
    return head + first + text + second + body


def changed(change: Callable[[dict[str, Any]], object]) -> bytes:
    content = gltf()
    change(content)
    return glb(content)


def set_in(*path: Any, value: object) -> bytes:
    def change(content: Any) -> None:
        for key in path[:-1]:
            content = content[key]
        content[path[-1]] = value

    return changed(change)


def glb_containers() -> Iterator[Case]:
    yield "wrong magic", glb(magic=b"gLTF"), "does not begin with 'glTF'"
    for version in (0, 1, 3):
        yield f"version {version}", glb(version=version), f"version {version}"
    yield "length beyond the file", glb(length=2**32 - 1), "truncated"
    for length in (10_000, 2**32 - 1):
        yield f"JSON of {length}", glb(json_length=length), "truncated"
    yield "binary chunk first", glb(kind=b"BIN\0"), "first chunk"
    yield "binary chunk beyond the file", glb(body_length=2**32 - 1), "truncated"
    yield "unknown second chunk", glb(body_kind=b"EVIL"), "truncated"
    yield "no binary chunk", glb(body=b"")[:-8], "beyond|truncated"
    deep = b"[" * 200_000
    texts = {"deep": deep, "deep objects": b'{"a":' * 100_000, "number": b"1" * 6000, "list": b"[]", "null": b"null"}
    texts |= {
        "string": b'"glTF"',
        "nothing": b"",
        "half": json.dumps(gltf()).encode()[:-9],
        "not UTF-8": b'{"a": "\xff"}',
    }
    for name, text in texts.items():
        yield f"JSON of {name}", glb(text=text), "no valid JSON|is no list|: 0 primitives"
    for name in ("meshes", "nodes", "scenes", "accessors", "bufferViews"):
        yield f"{name} is a number", set_in(name, value=3), "is no list"
        if name != "scenes":  # without one, every node counts
            yield f"{name} is empty", set_in(name, value=[]), "does not exist|: 0 primitives"
    yield "empty object", glb({}), ": 0 primitives"


def glb_references() -> Iterator[Case]:
    for value in (-1, 1, 10**30, "0", 0.0, True, None, [0], {}):
        yield f"scene {value!r}", set_in("scene", value=value), "scenes"
        yield f"mesh {value!r}", set_in("nodes", 0, "mesh", value=value), "meshes"
        yield f"node {value!r}", set_in("scenes", 0, "nodes", 0, value=value), "nodes"
    for value in (-1, 99, "0", 1.0, None):
        yield (
            f"accessor {value!r}",
            set_in("meshes", 0, "primitives", 0, "attributes", "POSITION", value=value),
            "accessors",
        )
        yield f"view {value!r}", set_in("accessors", 1, "bufferView", value=value), "bufferViews"
    for name in ATTRIBUTES:
        missing = changed(lambda c, name=name: c["meshes"][0]["primitives"][0]["attributes"].pop(name))
        yield f"without {name}", missing, "accessors|without the attribute"
    yield "attributes of a list", set_in("meshes", 0, "primitives", 0, "attributes", value=[]), "no attributes"
    yield "primitives of a number", set_in("meshes", 0, "primitives", value=3), ": 0 primitives"
    yield "extension of a list", set_in("meshes", 0, "primitives", 0, "extensions", value=[]), ": 0 primitives"
    yield "triangles", set_in("meshes", 0, "primitives", 0, "mode", value=4), "mode 4"
    khr = ("meshes", 0, "primitives", 0, "extensions", KHR)
    yield "linear colours", set_in(*khr, "colorSpace", value="lin_rec709_display"), "colour space"
    yield "another kernel", set_in(*khr, "kernel", value="cube"), "kernel"
    packed = {"KHR_gaussian_splatting_compression_spz_2": {"bufferView": 0}}
    yield "compressed", set_in(*khr, "extensions", value=packed), "compression_spz_2"


def glb_numbers() -> Iterator[Case]:
    for value in (-1, 0, 2**31, 10**18, "2", 1.5, None):
        yield f"count {value!r}", set_in("accessors", 0, "count", value=value), "count|claims"
    yield "another count", set_in("accessors", 2, "count", value=3), "is not 2 VEC3"
    for value in (-4, 60, 2**40, "0", 0.5):
        yield f"offset {value!r}", set_in("bufferViews", 0, "byteOffset", value=value), "no valid view|reaches beyond"
        yield (
            f"inner offset {value!r}",
            set_in("accessors", 1, "byteOffset", value=value),
            "no valid view|reaches beyond",
        )
    for value in (0, 3, 253, 10**9, "16"):
        yield f"stride {value!r}", set_in("bufferViews", 0, "byteStride", value=value), "no valid view"
    for value in (0, -1, 8, 10**9, "64", None):
        yield (
            f"view of {value!r} bytes",
            set_in("bufferViews", 0, "byteLength", value=value),
            "no valid view|reaches beyond",
        )
    yield "another buffer", set_in("bufferViews", 0, "buffer", value=1), "no valid view"
    yield "component type", set_in("accessors", 0, "componentType", value=9999), "component type"
    yield "component list", set_in("accessors", 0, "componentType", value=[5126]), "component type"
    yield "MAT4", set_in("accessors", 0, "type", value="MAT4"), "is not 2 VEC3"
    yield "sparse", set_in("accessors", 0, "sparse", value={"count": 1}), "sparse"
    yield "all NaN", glb(body=np.full(16, np.nan, "<f4").tobytes()), "finite values"


def glb_nodes() -> Iterator[Case]:
    yield "cycle", set_in("nodes", 0, "children", value=[0]), "cycle"
    yield "children of a number", set_in("nodes", 0, value={"children": 3}), ": 0 primitives"
    chain = [{"children": [i + 1]} for i in range(500)]
    yield "500 levels", set_in("nodes", value=[*chain, {"mesh": 0}]), "levels"
    yield "20,000 nodes", changed(lambda c: c["scenes"][0].update(nodes=[0] * 20_000)), "nodes"
    n = 5_000  # shown 250 times
    instances = gltf()
    for accessor in instances["accessors"]:
        accessor["count"] = n
    instances["bufferViews"][0]["byteLength"] = instances["buffers"][0]["byteLength"] = 16 * n
    instances["scenes"][0]["nodes"] = [0] * 250
    yield "instance bomb", glb(instances, np.full(4 * n, 0.5, "<f4").tobytes()), "claim to unpack"
    values: list[tuple[str, object, str]] = [
        ("matrix", [1] * 15, "matrix"), ("matrix", [float("nan")] * 16, "matrix"), ("matrix", "a" * 16, "matrix"),
        ("matrix", [10**400] * 16, "matrix"), ("matrix", [0] * 16, "unevenly"), ("scale", [1, 2, 1], "unevenly"),
        ("scale", [0, 0, 0], "unevenly"), ("scale", [1, 1], "scale"), ("rotation", [0, 0, 0, 0], "rotation"),
        ("rotation", [1, 0, 0], "rotation"), ("translation", [1e400, 0, 0], "translation"),
        ("translation", {"x": 1}, "translation"), ("translation", [[1], [2], [3]], "translation"),
        ("matrix", [1, 0.5, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1], "unevenly"),
    ]  # fmt: skip
    for index, (name, value, wrong) in enumerate(values):
        yield f"{name} {index}", set_in("nodes", 0, name, value=value), wrong
