"""What `gencompress view` shows: a scene file, a folder that `write_folder` made, or the export of a run."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gencompress.domains.splats.filter import clean
from gencompress.domains.splats.frame import Up
from gencompress.errors import FormatError
from gencompress.formats.files import FORMATS, read_scene, scene_format, write_scene
from gencompress.viewer.page import SCENE, SETTINGS, folder_files
from gencompress.viewer.serve import Site
from gencompress.viewer.views import views_of

_PLAIN = "scene.ply"
_MOST_SETTINGS = 1 << 20  # bytes


@contextmanager
def site_of(path: Path, up: Up = "auto") -> Iterator[Site]:
    """The files to serve for `path`; what had to be converted is there until the block ends.

    A .sog file is sent as it is, anything else as the plain .ply of what this package's reader read, which the viewer
    takes without loss. Pages and scripts are always this package's own.

    Raises:
        FormatError: no scene is there, or it is malformed.
        DataError: no splat of it is usable.
    """
    scene_path, settings_path = _located(path)
    scene = clean(read_scene(scene_path)).scene
    as_it_is = scene_path.is_file() and scene_format(scene_path)[0] == ".sog"
    files = folder_files(SCENE if as_it_is else _PLAIN, title=path.resolve().name, views=views_of(scene, up=up))
    if settings_path is not None:
        files[SETTINGS] = _bounded(settings_path)
    with tempfile.TemporaryDirectory(prefix="gencompress-") as folder:
        if as_it_is:
            yield {**files, SCENE: scene_path}
        else:
            write_scene(Path(folder, _PLAIN), scene)
            yield {**files, _PLAIN: Path(folder, _PLAIN)}


def _located(path: Path) -> tuple[Path, Path | None]:
    """The scene file, and the settings beside it if `path` is a viewer's folder."""
    if path.suffix.lower() in (".html", ".htm"):
        raise FormatError(f"{path}: is a page already: open it in a browser")
    if (path / SETTINGS).is_file() and (path / SCENE).is_file():
        return path / SCENE, path / SETTINGS
    export = path / "export"
    if export.is_dir():
        found = [file for ending in FORMATS for file in sorted(export.iterdir()) if file.name.endswith(ending)]
        if not found:
            raise FormatError(f"{export}: holds no scene file: {', '.join(FORMATS)}")
        return found[0], None
    return path, None


def _bounded(path: Path) -> bytes:
    """The content of a settings file. FormatError if it is larger than any is."""
    with open(path, "rb") as file:
        content = file.read(_MOST_SETTINGS + 1)
    if len(content) > _MOST_SETTINGS:
        raise FormatError(f"{path}: more than {_MOST_SETTINGS:,} bytes are no settings of a viewer")
    return content
