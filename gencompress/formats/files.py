"""Which module reads and writes which kind of scene file, chosen by the ending of the name alone."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gencompress.errors import FormatError, RunError, nearest
from gencompress.formats.scene import SplatScene


@dataclass(frozen=True)
class SceneFormat:
    """A kind of file: `read` and `write` are functions of this package, as ``module.name``."""

    read: str
    write: str
    sh_degree: int  # the highest that it holds; what is above is left out
    any_value: bool = False  # whether it can hold NaN and infinity


FORMATS = {
    ".ply": SceneFormat("ply.read_ply", "ply.write_ply", 4, any_value=True),
    ".compressed.ply": SceneFormat("ply.read_ply", "compressed_ply.write_compressed_ply", 3),
    ".splat": SceneFormat("splat.read_splat", "splat.write_splat", 0),
    ".glb": SceneFormat("glb.read_glb", "glb.write_glb", 3),
    ".spz": SceneFormat("spz.read_spz", "spz.write_spz", 4),
    ".sog": SceneFormat("sog.read_sog", "sog.write_sog", 3),
    "meta.json": SceneFormat("sog.read_sog", "sog.write_sog", 3),  # of an unbundled SOG, whose folder may stand for it
}


def scene_format(path: str | Path) -> tuple[str, SceneFormat]:
    """The ending in `FORMATS` that belongs to a file name, and its format. FormatError names the nearest endings."""
    name = Path(path).name.lower()
    found = max((ending for ending in FORMATS if name.endswith(ending)), key=len, default=None)
    if found is None and Path(path).is_dir():
        found = "meta.json"
    if found is None:
        ending = name[name.find(".") :] if "." in name else name
        raise FormatError(f"{path}: {ending[:40]!r} is no kind of scene file: {nearest(ending, FORMATS)}")
    return found, FORMATS[found]


def read_scene(path: str | Path) -> SplatScene:
    """The splats of a scene file of any kind in `FORMATS`.

    NaN and infinite values are let through, for the filter to count and remove. The harmonics of a large .ply stay in
    the file: as long as the scene is in use, that must not be overwritten in place (`write_scene` replaces it).

    Raises:
        FormatError: the file is missing, unreadable, malformed, empty, or holds no finite splat.
    """
    path = Path(path)
    ending, kind = scene_format(path)
    if not path.is_file() and not (ending == "meta.json" and path.is_dir()):
        raise FormatError(f"{path}: is no file" if path.exists() else f"{path}: is no file: nothing is there")
    try:
        with np.errstate(all="ignore"):
            scene = _function(kind.read)(path)
        if not any(finite.any() for finite in _finite(scene)):
            raise FormatError(f"{path}: none of the file's {len(scene):,} splats has finite values")
    except OSError as error:
        raise FormatError(f"{path}: cannot be read: {error.strerror or error}") from error
    except MemoryError as error:
        raise FormatError(f"{path}: does not fit into the memory of this machine") from error
    return scene


def write_scene(path: str | Path, scene: SplatScene, **options: Any) -> None:
    """Write a scene as the kind of file that the ending of `path` names; `options` are those of its writer.

    The file appears whole or not at all, and an old one stays until then.

    Harmonics above the degree that the format holds are left out.

    Raises:
        FormatError: the ending is unknown, the scene is empty, or holds values that are not finite in a format that
            has no bits for them.
        RunError: the folder is missing or not writable, or the disk is full.
    """
    path = Path(path)
    kind = scene_format(path)[1]
    if not len(scene):
        raise FormatError(f"{path}: the scene has no splats, and a file without splats is none")
    if scene.sh_degree > kind.sh_degree:
        scene = replace(scene, sh_rest=scene.sh_rest[:, : (kind.sh_degree + 1) ** 2 - 1])
    bad = 0 if kind.any_value else len(scene) - sum(int(finite.sum()) for finite in _finite(scene))
    if bad:
        raise FormatError(f"{path}: {bad:,} splats are not finite, which only .ply can hold: filter the scene first")
    try:
        _function(kind.write)(path, scene, **options)
    except OSError as error:
        raise RunError(f"{path}: cannot be written: {error.strerror or error}") from error


def _function(where: str) -> Callable[..., Any]:
    module, name = where.split(".")
    return getattr(importlib.import_module(f"gencompress.formats.{module}"), name)


def _finite(scene: SplatScene) -> Iterator[NDArray[np.bool_]]:
    """Which splats are finite in all their values, chunk by chunk."""
    for _, part in scene.chunks():
        tables = (part.means, part.quats, part.log_scales, part.logits, part.sh0, part.sh_rest)
        yield np.logical_and.reduce([np.isfinite(table.reshape(len(part), -1)).all(1) for table in tables])
