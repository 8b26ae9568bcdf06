"""cameras.json, which 3D Gaussian Splatting (Kerbl et al. 2023) writes into its output folder."""

from __future__ import annotations

from pathlib import Path

from gencompress.errors import FormatError
from gencompress.formats.bounded import MAX_JSON, parse_json, read_bytes
from gencompress.formats.pinhole import MAX_CAMERAS, Pinhole, matrix, pinhole

_NEEDED = ("position", "rotation", "fx", "fy", "width", "height")


def read_inria(path: Path) -> list[Pinhole]:
    """The cameras: `position` is the centre, `rotation` camera to world, the principal point the image's middle."""
    entries = parse_json(path, read_bytes(path, MAX_JSON))
    if not isinstance(entries, list) or len(entries) > MAX_CAMERAS:
        raise FormatError(f"{path}: not a list of up to {MAX_CAMERAS:,} cameras")
    cameras = []
    for index, entry in enumerate(entries):
        where = f"{path}: camera {index}"
        missing = [name for name in _NEEDED if name not in entry] if isinstance(entry, dict) else list(_NEEDED)
        if missing:
            raise FormatError(f"{where} has no {', '.join(missing)}")
        to_camera = matrix(f"{where}: rotation", entry["rotation"], 3, 3).T
        centre = matrix(f"{where}: position", [entry["position"]], 1, 3)[0]
        size = (entry["width"], entry["height"])
        name = str(entry.get("img_name", ""))
        cameras.append(pinhole(where, to_camera, -to_camera @ centre, (entry["fx"], entry["fy"]), size, name))
    return cameras
