"""Splats as glTF: the ratified extension KHR_gaussian_splatting in a .glb.

Points with position, rotation xyzw, linear scale, opacity in [0, 1] and one attribute per coefficient of the spherical
harmonics up to degree 3, all floats, in glTF's frame (left, up, front).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gencompress.errors import FormatError
from gencompress.formats import activations, frames, quaternions
from gencompress.formats.bounded import check_count, check_ratio
from gencompress.formats.gltf import FLOAT, MAX_LENGTH, UNSIGNED_BYTE, Glb, head_of
from gencompress.formats.scene import Array, SplatScene
from gencompress.run.atomic import write_file

_EXTENSION = "KHR_gaussian_splatting"
_TO_PLY = frames.from_axes("LUF")
_ANTIALIASED = "antialiased"  # in the extras: the extension has no place for it
_MAX_PRIMITIVES = 256
_POINTS = 0  # mode of a primitive
_ARRAY_BUFFER = 34962  # target of a view
_BYTES = 56  # of a splat in memory, without higher harmonics
_UNEVEN = 1e-4  # relative difference of a node's axes that is taken for rounding


def read_glb(path: Path) -> SplatScene:
    """All splats of a .glb, at the places of their nodes. FormatError names the attribute or node at fault."""
    glb = Glb(path)
    found = []
    for mesh, chain in glb.placed():
        primitives = mesh.get("primitives")
        for primitive in primitives if isinstance(primitives, list) else []:
            if _has_splats(path, primitive):
                found.append((primitive, chain, _count(glb, primitive)))
    if not found or len(found) > _MAX_PRIMITIVES:
        raise FormatError(
            f"{path}: {len(found):,} primitives hold splats by {_EXTENSION}; 1 to {_MAX_PRIMITIVES} are read"
        )
    total = sum(count for _, _, count in found)  # many nodes may show one mesh
    check_count(path, total)
    check_ratio(path, path.stat().st_size, total * _BYTES)
    return _join([_place(path, _splats(glb, primitive, count), glb.world(chain)) for primitive, chain, count in found])


def _has_splats(path: Path, primitive: Any) -> bool:
    """Whether a primitive has the extension. FormatError if with something that is not understood here."""
    extensions = primitive.get("extensions") if isinstance(primitive, dict) else None
    extension = extensions.get(_EXTENSION) if isinstance(extensions, dict) else None
    if not isinstance(extension, dict):
        return False
    further = extension.get("extensions") or {}
    unread = [f"extension {str(name)[:60]!r}" for name in further] if isinstance(further, dict) else ["extensions"]
    unread += [f"kernel {extension['kernel']!r}"] if extension.get("kernel", "ellipse") != "ellipse" else []
    linear = str(extension.get("colorSpace")).startswith("lin_")  # colours that no training writes
    unread += [f"colour space {extension['colorSpace']!r}"] if linear else []
    unread += [f"mode {primitive.get('mode')!r}"] if primitive.get("mode") != _POINTS else []
    if unread:
        raise FormatError(f"{path}: splats with {unread[0][:80]} are not read; points with kernel 'ellipse' are")
    return True


def _count(glb: Glb, primitive: dict[str, Any]) -> int:
    """The number of splats that the accessor of the positions claims."""
    attributes = primitive.get("attributes")
    if not isinstance(attributes, dict):
        raise FormatError(f"{glb.path}: a primitive of splats has no attributes")
    count = glb.item("accessors", attributes.get("POSITION")).get("count")
    if not isinstance(count, int):
        raise FormatError(f"{glb.path}: the accessor of POSITION has no count")
    check_count(glb.path, count)
    return count


def _splats(glb: Glb, primitive: dict[str, Any], count: int) -> SplatScene:
    attributes = primitive["attributes"]

    def numbers(name: str, kind: str = "VEC3") -> Array:
        key = name if name == "POSITION" else f"{_EXTENSION}:{name}"
        if key not in attributes:
            raise FormatError(f"{glb.path}: splats without the attribute {key}")
        return glb.numbers(attributes[key], kind, count)

    degrees = [degree for degree in (1, 2, 3) if f"{_EXTENSION}:SH_DEGREE_{degree}_COEF_0" in attributes]
    names = _harmonic_names(max(degrees, default=0))
    means, quats = numbers("POSITION"), quaternions.wxyz(numbers("ROTATION", "VEC4"))
    scales, opacities = numbers("SCALE"), numbers("OPACITY", "SCALAR")[:, 0]
    sh_rest = np.empty((count, len(names), 3), np.float32)
    for index, name in enumerate(names):
        sh_rest[:, index] = numbers(name)
    # writers from before the ratified text stored logarithms; a linear scale is never negative
    log_scales = scales if (scales < 0).any() else activations.log_scale(scales)
    extras = primitive.get("extras")
    return SplatScene(
        means=means,
        quats=quats,
        log_scales=log_scales,
        logits=activations.logit(opacities),
        sh0=numbers("SH_DEGREE_0_COEF_0"),
        sh_rest=sh_rest,
        antialiased=isinstance(extras, dict) and extras.get(_ANTIALIASED) is True,
    )


def _harmonic_names(degree: int) -> list[str]:
    return [f"SH_DEGREE_{band}_COEF_{index}" for band in range(1, degree + 1) for index in range(2 * band + 1)]


def _place(path: Path, scene: SplatScene, world: NDArray[np.float64]) -> SplatScene:
    """The splats in the frame of the .ply, behind the matrix [4, 4] of their node."""
    linear = world[:3, :3]
    scale = float(np.cbrt(abs(np.linalg.det(linear))))
    turned = linear / scale if scale > 0 else linear
    if not np.allclose(turned @ turned.T, np.eye(3), atol=_UNEVEN):
        raise FormatError(f"{path}: a node stretches its splats unevenly, which is not read: apply its matrix first")
    matrix = _TO_PLY if np.array_equal(turned, np.eye(3)) else _TO_PLY @ turned
    return frames.turn(scene, matrix, scale, _TO_PLY @ world[:3, 3])


def _join(scenes: list[SplatScene]) -> SplatScene:
    """All splats in one scene, of the highest degree among them."""
    if len(scenes) == 1:
        return scenes[0]
    k = max(scene.sh_rest.shape[1] for scene in scenes)
    names = ("means", "quats", "log_scales", "logits", "sh0")
    columns: dict[str, Any] = {name: np.concatenate([getattr(scene, name) for scene in scenes]) for name in names}
    padded = [np.pad(scene.sh_rest, ((0, 0), (0, k - scene.sh_rest.shape[1]), (0, 0))) for scene in scenes]
    return SplatScene(**columns, sh_rest=np.concatenate(padded), antialiased=all(scene.antialiased for scene in scenes))


def write_glb(path: Path, scene: SplatScene) -> None:
    """Replace `path` by a .glb. FormatError if it would be longer than the 4 GB that the container can address."""
    names = ["SH_DEGREE_0_COEF_0", *_harmonic_names(scene.sh_degree)]
    widths = {"POSITION": 12, "COLOR_0": 4, "ROTATION": 16, "SCALE": 12, "OPACITY": 4} | dict.fromkeys(names, 12)
    offsets = dict(zip(widths, np.cumsum([0, *widths.values()]).tolist(), strict=False))
    size = sum(widths.values()) * len(scene)
    head = head_of(json.dumps(_description(scene, widths, offsets)).encode(), size)
    if len(head) + size > MAX_LENGTH:
        raise FormatError(f"{path}: {len(scene):,} splats need {size:,} bytes; a .glb holds {MAX_LENGTH:,}")

    def write(temporary: Path) -> None:
        with open(temporary, "wb") as file:
            file.write(head)
            for part, piece in scene.chunks():
                for name, values in _attributes(frames.turn(piece, _TO_PLY.T)).items():
                    file.seek(len(head) + offsets[name] * len(scene) + widths[name] * part.start)
                    file.write(np.ascontiguousarray(values).data)

    write_file(path, write, needed=len(head) + size)


def _attributes(part: SplatScene) -> dict[str, NDArray[Any]]:
    """What the file stores of splats in its frame, by attribute."""
    opacities = activations.opacity(part.logits)
    colours = np.concatenate([activations.colour(part.sh0), opacities[:, None]], axis=1)
    attributes: dict[str, NDArray[Any]] = {
        "POSITION": part.means,
        "COLOR_0": activations.to_byte(colours),  # for viewers that show the points alone
        "ROTATION": quaternions.xyzw(quaternions.unit(part.quats)),
        "SCALE": activations.scale(part.log_scales),
        "OPACITY": opacities,
        "SH_DEGREE_0_COEF_0": part.sh0,
    }
    names = _harmonic_names(part.sh_degree)
    return attributes | {name: part.sh_rest[:, index] for index, name in enumerate(names)}


def _description(scene: SplatScene, widths: dict[str, int], offsets: dict[str, int]) -> dict[str, Any]:
    """The JSON of the file: one point primitive, one view and accessor per attribute."""
    count = len(scene)
    views: list[dict[str, Any]] = []
    accessors: list[dict[str, Any]] = []
    for name, width in widths.items():
        where = {"byteOffset": offsets[name] * count, "byteLength": width * count}
        views.append({"buffer": 0, **where, "target": _ARRAY_BUFFER})
        kind = {4: "SCALAR", 12: "VEC3", 16: "VEC4"}[width]
        accessor = {"bufferView": len(accessors), "componentType": FLOAT, "count": count, "type": kind}
        if name == "COLOR_0":
            accessor |= {"componentType": UNSIGNED_BYTE, "type": "VEC4", "normalized": True}
        accessors.append(accessor)
    bounds = np.sort(np.stack([scene.means.min(0), scene.means.max(0)]) @ _TO_PLY.astype(np.float32), axis=0)
    accessors[0] |= {"min": bounds[0].tolist(), "max": bounds[1].tolist()}
    keys = [name if name in ("POSITION", "COLOR_0") else f"{_EXTENSION}:{name}" for name in widths]
    primitive = {
        "mode": _POINTS,
        "attributes": {key: index for index, key in enumerate(keys)},
        "extensions": {_EXTENSION: {"kernel": "ellipse", "colorSpace": "srgb_rec709_display"}},
    } | ({"extras": {_ANTIALIASED: True}} if scene.antialiased else {})
    return {
        "asset": {"version": "2.0", "generator": "gencompress"},
        "extensionsUsed": [_EXTENSION],
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0}],
        "meshes": [{"primitives": [primitive]}],
        "buffers": [{"byteLength": sum(widths.values()) * count}],
        "bufferViews": views,
        "accessors": accessors,
    }
