"""transforms.json of instant-ngp, nerfstudio and the Blender scenes of NeRF: camera to world in OpenGL's axes."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gencompress.errors import FormatError
from gencompress.formats.bounded import MAX_JSON, parse_json, read_bytes
from gencompress.formats.pinhole import MAX_CAMERAS, Pinhole, matrix, pinhole

_OPENGL = np.diag([1.0, -1.0, -1.0])  # right, up, back from right, down, front
_BLENDER_SIDE = 800  # pixels of the synthetic scenes of NeRF, whose files do not say
_NERFSTUDIO = "dataparser_transforms.json"  # how nerfstudio moved and scaled the world that it trained in


def read_transforms(path: Path) -> list[Pinhole]:
    """The cameras, in the world that nerfstudio trained in if its own transforms lie beside the file."""
    content = parse_json(path, read_bytes(path, MAX_JSON))
    frames = content.get("frames") if isinstance(content, dict) else None
    if not isinstance(frames, list) or len(frames) > MAX_CAMERAS:
        raise FormatError(f"{path}: has no list 'frames' of up to {MAX_CAMERAS:,} cameras")
    world, scale = _trained_world(path.with_name(_NERFSTUDIO))
    cameras = []
    for index, frame in enumerate(frames):
        where = f"{path}: frames[{index}]"
        if not isinstance(frame, dict):
            raise FormatError(f"{where} is no object")
        given = np.asarray(frame.get("transform_matrix"), dtype=object)
        pose = matrix(f"{where}: transform_matrix", given[:3].tolist() if given.ndim else None, 3, 4)
        rotation = world[:, :3] @ pose[:, :3]
        centre = (world[:, :3] @ pose[:, 3] + world[:, 3]) * scale
        to_camera = (rotation @ _OPENGL).T
        intrinsics, size = _intrinsics(where, {**content, **frame})
        name = str(frame.get("file_path", ""))
        cameras.append(pinhole(where, to_camera, -to_camera @ centre, intrinsics, size, name))
    return cameras


def _intrinsics(where: str, values: dict[str, Any]) -> tuple[tuple[float, ...], tuple[float, float]]:
    """(fx, fy, cx, cy) and the image size, from focal lengths or angles of view."""

    def number(name: str, default: float | None = None) -> float:
        value = values.get(name, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e9:
            raise FormatError(f"{where}: {name} is {str(value)[:40]!r}, not a number")
        return float(value)

    width, height = number("w", _BLENDER_SIDE), number("h", _BLENDER_SIDE)
    if "fl_x" in values:
        fx = number("fl_x")
    else:
        angle = number("camera_angle_x")
        if not 0 < angle < math.pi:
            raise FormatError(f"{where}: camera_angle_x {angle:g} is not between 0 and pi")
        fx = width / 2 / math.tan(angle / 2)
    return (fx, number("fl_y", fx), number("cx", width / 2), number("cy", height / 2)), (width, height)


def _trained_world(path: Path) -> tuple[NDArray[np.float64], float]:
    """The movement [3, 4] and the scale behind it of the world, or none."""
    if not path.is_file():
        return np.eye(4)[:3], 1.0
    content = parse_json(path, read_bytes(path, MAX_JSON))
    if not isinstance(content, dict):
        raise FormatError(f"{path}: is no object with 'transform' and 'scale'")
    scale = content.get("scale", 1.0)
    if isinstance(scale, bool) or not isinstance(scale, int | float) or not 0 < scale < 1e9:
        raise FormatError(f"{path}: scale {str(scale)[:40]!r} is not a positive number")
    return matrix(f"{path}: transform", content.get("transform"), 3, 4), float(scale)
