"""The binary container of glTF 2.0 (.glb): its JSON, the numbers that accessors describe, and where nodes stand.

Khronos, "glTF 2.0 Specification", sections 3.5 (nodes), 3.6 (accessors) and 4 (GLB). Every number of the JSON is
checked before it is used.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
from numpy.typing import NDArray

from gencompress.errors import FormatError
from gencompress.formats import quaternions
from gencompress.formats.bounded import MAX_JSON, parse_json
from gencompress.formats.scene import Array

_HEAD = struct.Struct("<4sII")  # magic, version, length of the file
_CHUNK = struct.Struct("<I4s")  # length, kind
_JSON, _BINARY = b"JSON", b"BIN\0"
_COMPONENTS = {5120: "i1", 5121: "u1", 5122: "<i2", 5123: "<u2", 5125: "<u4", 5126: "<f4"}
FLOAT, UNSIGNED_BYTE = 5126, 5121
_WIDTHS = {"SCALAR": 1, "VEC3": 3, "VEC4": 4}
_MAX_DEPTH = 64  # of nodes within nodes
_MAX_NODES = 10_000
MAX_LENGTH = (1 << 32) - 1  # of a file, by the 32 bits of its header


class Glb:
    """A .glb read: `json` is its description; numbers stay in the mapped file until asked for."""

    def __init__(self, path: Path) -> None:
        self.path = path
        size = path.stat().st_size
        with open(path, "rb") as file:
            head = file.read(_HEAD.size + _CHUNK.size)
            if len(head) < _HEAD.size + _CHUNK.size or head[:4] != b"glTF":
                raise FormatError(f"{path}: not a .glb file: it does not begin with 'glTF' and a chunk")
            _, version, length = _HEAD.unpack_from(head)
            json_length, kind = _CHUNK.unpack_from(head, _HEAD.size)
            if version != 2 or length > size or kind != _JSON or json_length > min(MAX_JSON, size - len(head)):
                raise FormatError(
                    f"{path}: truncated or malformed: version {version}, {length:,} bytes announced, {size:,} there, "
                    f"first chunk {kind!r} of {json_length:,}"
                )
            self.json = parse_json(path, file.read(json_length), "the JSON of the .glb")
            tail = file.read(_CHUNK.size)
        begin = len(head) + json_length + _CHUNK.size
        binary_length, kind = _CHUNK.unpack(tail) if len(tail) == _CHUNK.size else (0, _BINARY)
        if kind != _BINARY or binary_length > size - begin:
            raise FormatError(f"{path}: truncated: the binary chunk announces {binary_length:,} bytes")
        self._binary: NDArray[np.uint8] = (
            np.memmap(path, np.uint8, "r", begin, (binary_length,)) if binary_length else np.empty(0, np.uint8)
        )

    def items(self, name: str) -> list[Any]:
        """A list at the top of the JSON, empty if absent."""
        found = self.json.get(name, []) if isinstance(self.json, dict) else None
        if not isinstance(found, list):
            raise FormatError(f"{self.path}: {name!r} of the JSON is no list")
        return found

    def item(self, name: str, index: object) -> dict[str, Any]:
        """One of them. FormatError unless the index is in range and it is an object."""
        items = self.items(name)
        if not _is_whole(index) or index >= len(items) or not isinstance(items[index], dict):
            raise FormatError(f"{self.path}: {name}[{index!r}] does not exist")
        return items[index]

    def numbers(self, index: object, kind: str, count: int) -> Array:
        """The values [count, width] of an accessor of this kind and length, integers as their normalized fractions."""
        accessor = self.item("accessors", index)
        where = f"{self.path}: accessors[{index}]"
        component = accessor.get("componentType")
        if accessor.get("type") != kind or accessor.get("count") != count or component not in list(_COMPONENTS):
            raise FormatError(f"{where} is not {count:,} {kind} of a known component type")
        if "sparse" in accessor or "bufferView" not in accessor:
            raise FormatError(f"{where} is sparse or has no bufferView, which a splat attribute may not")
        view = self.item("bufferViews", accessor["bufferView"])
        itemsize = np.dtype(_COMPONENTS[component]).itemsize
        width = _WIDTHS[kind]
        stride = view.get("byteStride", width * itemsize)
        offset, inside = view.get("byteOffset", 0), accessor.get("byteOffset", 0)
        whole = all(_is_whole(number) for number in (offset, inside, stride, view.get("byteLength")))
        if view.get("buffer") != 0 or not whole or stride < width * itemsize or stride > 252:
            raise FormatError(f"{where} lies in no valid view of the file's own buffer")
        end = inside + stride * (count - 1) + width * itemsize
        if end > view["byteLength"] or offset + view["byteLength"] > len(self._binary):
            raise FormatError(f"{where} reaches beyond its view, or that beyond the {len(self._binary):,} bytes")
        strides = (stride, itemsize)
        values = np.ndarray((count, width), _COMPONENTS[component], self._binary, offset + inside, strides)
        return _fractions(values, bool(accessor.get("normalized")))

    def placed(self) -> Iterator[tuple[dict[str, Any], list[object]]]:
        """Every mesh of the scene with the nodes that it hangs from, the outermost first."""
        scene = self.item("scenes", self.json.get("scene", 0)) if self.items("scenes") else {}
        roots = scene.get("nodes", list(range(len(self.items("nodes")))))
        todo: list[list[object]] = [[node] for node in roots] if isinstance(roots, list) else []
        for seen in range(_MAX_NODES + 1):
            if not todo:
                return
            chain = todo.pop()
            if len(chain) > _MAX_DEPTH or seen == _MAX_NODES:
                raise FormatError(f"{self.path}: more than {_MAX_NODES:,} nodes or {_MAX_DEPTH} levels, or a cycle")
            node = self.item("nodes", chain[-1])
            if "mesh" in node:
                yield self.item("meshes", node["mesh"]), chain
            children = node.get("children", [])
            todo += [[*chain, child] for child in children] if isinstance(children, list) else []

    def world(self, chain: list[object]) -> NDArray[np.float64]:
        """The matrix [4, 4] that takes the points of a mesh under these nodes to the world."""
        matrix = np.eye(4)
        for index in chain:
            matrix = matrix @ self._local(index, self.item("nodes", index))
        return matrix

    def _local(self, index: object, node: dict[str, Any]) -> NDArray[np.float64]:
        """The matrix of a node: given, or of translation, rotation xyzw and scale."""
        if "matrix" in node:
            return self._vector(index, node, "matrix", np.eye(4).ravel()).reshape(4, 4).T
        matrix = np.eye(4)
        x, y, z, w = self._vector(index, node, "rotation", np.array([0.0, 0, 0, 1]))
        scale = self._vector(index, node, "scale", np.ones(3))
        matrix[:3, :3] = quaternions.matrices(np.array([[w, x, y, z]]))[0] * scale
        matrix[:3, 3] = self._vector(index, node, "translation", np.zeros(3))
        return matrix

    def _vector(
        self, index: object, node: dict[str, Any], name: str, default: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        value = node.get(name, default)
        try:
            vector = np.asarray(value, np.float64)
        except (TypeError, ValueError, OverflowError):
            vector = np.empty(0)
        if vector.shape != default.shape or not np.isfinite(vector).all() or (name == "rotation" and not vector.any()):
            raise FormatError(f"{self.path}: {name} of nodes[{index}] is not {len(default)} finite numbers")
        return vector


def _is_whole(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 53


def _fractions(values: NDArray[Any], normalized: bool) -> Array:
    if not normalized or values.dtype.kind == "f":
        return values.astype(np.float32)
    return np.maximum(values / np.float32(np.iinfo(values.dtype).max), -1).astype(np.float32)


def head_of(json: bytes, binary_length: int) -> bytes:
    """The bytes of a .glb in front of a binary chunk of this length, a multiple of 4."""
    json += b" " * (-len(json) % 4)
    length = _HEAD.size + 2 * _CHUNK.size + len(json) + binary_length
    return b"".join(
        [_HEAD.pack(b"glTF", 2, length), _CHUNK.pack(len(json), _JSON), json, _CHUNK.pack(binary_length, _BINARY)]
    )
