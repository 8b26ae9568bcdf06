"""The result as files for users, one for every format that is asked for."""

from __future__ import annotations

from pathlib import Path

from gencompress.config import Config
from gencompress.domains.splats.domain import Dense
from gencompress.formats import SplatScene, scene_format, write_scene
from gencompress.formats.camera_files import find_cameras, read_cameras


def publish(left: SplatScene, dense: Dense, config: Config, out: Path) -> None:
    """Write `left` as NAME.FORMAT into the folder `out` for all of ``export.formats``; NAME is that of the input."""
    name = name_of(dense)
    for kind in sorted(config.export.formats, key=lambda k: k == "html"):  # the page takes the .sog that is there
        path = out / f"{name}.{kind}"
        if kind == "html":
            _write_page(path, left, dense, config, out / f"{name}.sog")
        else:
            write_scene(path, left)


def name_of(dense: Dense) -> str:
    """The input's file name without its ending."""
    name = dense.path.name
    ending, _ = scene_format(dense.path)
    return name[: -len(ending)] if name.lower().endswith(ending) and len(name) > len(ending) else name


def _write_page(path: Path, left: SplatScene, dense: Dense, config: Config, sog: Path) -> None:
    from gencompress.viewer import write_page

    given = Path(config.rig.cameras) if config.rig.cameras else find_cameras(dense.path)
    write_page(
        path,
        left,
        title=f"{name_of(dense)}, {len(left):,} of {dense.units:,} splats",
        cameras=read_cameras(given)[0] if given is not None else None,
        up=config.rig.up,
        sog=sog.read_bytes() if sog.exists() else None,
    )
