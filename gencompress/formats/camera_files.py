"""Camera files of the usual kinds, and where they lie beside a scene."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from gencompress.errors import FormatError
from gencompress.formats.cameras import Cameras
from gencompress.formats.cameras_json import read_inria
from gencompress.formats.colmap import read_colmap
from gencompress.formats.pinhole import Pinhole
from gencompress.formats.transforms import read_transforms

_TRANSFORMS = ("transforms.json", "transforms_train.json")
_COLMAP = ("sparse/0", "colmap/sparse/0", "sparse")
_COLMAP_FILES = ("cameras.bin", "cameras.txt")


def read_cameras(path: str | Path) -> list[Cameras]:
    """The cameras of a file or folder, one entry per image size, in the order of the file.

    Understood are cameras.json (3D Gaussian Splatting), transforms.json (instant-ngp, nerfstudio, Blender) and a folder
    with cameras and images of COLMAP, binary or text. Lens distortion is dropped: splats are trained on undistorted
    images, and the cameras serve as viewpoints.

    Raises:
        FormatError: the path is missing or none of these, or the file is malformed or without cameras.
    """
    sizes: dict[tuple[int, int], list[Pinhole]] = {}
    for pinhole in read_pinholes(path):
        sizes.setdefault((pinhole.width, pinhole.height), []).append(pinhole)
    return [
        Cameras(np.stack([view.viewmat for view in views]), np.stack([view.K for view in views]), width, height)
        for (width, height), views in sizes.items()
    ]


def read_pinholes(path: str | Path) -> list[Pinhole]:
    """`read_cameras` one by one, with the names of their images; raises what it raises."""
    path = Path(path)
    try:
        with np.errstate(all="ignore"):  # poses are checked to be finite
            pinholes = _read(path)
    except OSError as error:
        raise FormatError(f"{path}: cannot be read: {error.strerror or error}") from error
    if not pinholes:
        raise FormatError(f"{path}: holds no camera")
    return pinholes


def _read(path: Path) -> list[Pinhole]:
    if path.is_dir() and any((path / name).is_file() for name in _COLMAP_FILES):
        return read_colmap(path)
    if path.suffix == ".json" and path.name.startswith("transforms"):
        return read_transforms(path)
    if path.suffix == ".json":
        return read_inria(path)
    if path.name in _COLMAP_FILES:
        return read_colmap(path.parent)
    raise FormatError(
        f"{path}: no cameras: a cameras.json, a transforms.json or a COLMAP folder with cameras.bin or .txt is read"
    )


def find_cameras(scene: str | Path) -> Path | None:
    """What `read_cameras` reads of the cameras that a scene file was trained with, or None.

    Looked for beside the file, and above ``point_cloud/iteration_*`` in the output folder of 3D Gaussian Splatting.
    """
    folder = Path(scene).absolute().parent
    folders = [folder]
    if folder.name.startswith("iteration_") and folder.parent.name == "point_cloud":
        folders.append(folder.parent.parent)
    for base in folders:
        files = [base / name for name in ("cameras.json", *_TRANSFORMS)]
        models = [base / name for name in _COLMAP if any((base / name / file).is_file() for file in _COLMAP_FILES)]
        for found in (*(file for file in files if file.is_file()), *models):
            return found
    return None
