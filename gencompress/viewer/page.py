"""`write_page` and `write_folder`: a scene with the viewer that shows it, as one offline file or as a folder to host.

The viewer is supersplat-viewer, vendored in `static/` as `vendored.json` there says. Titles and settings are escaped by
the template, and the page's policy lets no script run but the two that it comes with and loads nothing from elsewhere.
"""

from __future__ import annotations

import base64
import hashlib
import json
import tempfile
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from gencompress.domains.splats.frame import Up
from gencompress.formats.cameras import Cameras
from gencompress.formats.files import write_scene
from gencompress.formats.scene import SplatScene
from gencompress.run.atomic import write_bytes, write_dir, write_text
from gencompress.viewer.settings import settings
from gencompress.viewer.views import Views, views_of

HEAVY = 50_000_000  # bytes of a page from which on phones fail to open it
ASSETS = ("supersplat-viewer.js", "supersplat-viewer.css", "page.js", "page.css", "supersplat-viewer.LICENSE.txt")
SCENE, SETTINGS = "scene.sog", "settings.json"
_HANDLER = "event.stopPropagation()"  # all inline handlers that the viewer's own panels have


def write_page(
    path: Path,
    scene: SplatScene,
    *,
    title: str,
    cameras: Cameras | None = None,
    up: Up = "auto",
    sog: bytes | None = None,
) -> None:
    """Write one HTML file that shows a scene from disk, without a network. It replaces what is at `path`.

    Args:
        path: the HTML file.
        scene: finite splats.
        title: of the page; any text.
        cameras: those that came with the scene; without, it is seen from around, or from inside if it is a room.
        up: the axis that points up; ``auto`` is ``-y``.
        sog: the content of a .sog file of the scene where there is one already, which is then not made again.

    Raises:
        ConfigError: an unknown `up`.
        RunError: the disk is full.
    """
    write_text(path, page(sog or sog_of(scene), title=title, views=views_of(scene, cameras, up)))


def sog_of(scene: SplatScene) -> bytes:
    """The content of a .sog file."""
    with tempfile.TemporaryDirectory(prefix="gencompress-") as folder:
        path = Path(folder, SCENE)
        write_scene(path, scene)
        return path.read_bytes()


def page(sog: bytes, *, title: str, views: Views) -> str:
    """The text of a page out of the content of a .sog file."""
    return _render(title, views, SCENE, Markup(base64.b64encode(sog).decode()))


def write_folder(
    path: Path,
    scene: SplatScene,
    *,
    title: str,
    cameras: Cameras | None = None,
    up: Up = "auto",
    sog: bytes | None = None,
) -> None:
    """Write the same as a new folder: index.html, the viewer, settings.json and scene.sog.

    It has to be served, by any web server or by `gencompress view`, since pages from disk may not read other files.

    Raises:
        ConfigError: an unknown `up`.
        RunError: `path` exists and is not an empty folder, or the disk is full.
    """
    views = views_of(scene, cameras, up)
    with write_dir(path) as folder:
        for name, content in folder_files(SCENE, title=title, views=views).items():
            write_bytes(folder / name, content)
        write_bytes(folder / SCENE, sog or sog_of(scene))


def folder_files(scene_name: str, *, title: str, views: Views) -> dict[str, bytes]:
    """Every file of the folder by name, less the scene."""
    made = {
        "index.html": _render(title, views, scene_name, None),
        SETTINGS: json.dumps(settings(views, scene_name), indent=1, allow_nan=False) + "\n",
    }
    return {name: text.encode() for name, text in (made | {name: _static(name) for name in ASSETS}).items()}


def heavy(size: int) -> str | None:
    """What to say of a page of `size` bytes if it is too large for many browsers, else None."""
    if size <= HEAVY:
        return None
    return (
        f"the page has {size / 1e6:.0f} MB; phones fail to open single files above {HEAVY / 1e6:.0f} MB: "
        "keep fewer splats, or write the folder instead, and host that"
    )


def policy(bundled: bool) -> str:
    """The Content-Security-Policy of a page: with its own scripts by hash, or with those of the same server."""
    ours = [_hash(_static(name)) for name in ("supersplat-viewer.js", "page.js")] if bundled else ["'self'"]
    rules = {
        "default-src": ["'none'"],
        "script-src": [*ours, "'unsafe-hashes'", _hash(_HANDLER)],
        "style-src": [*([] if bundled else ["'self'"]), "'unsafe-inline'"],
        "img-src": ["data:", "blob:"],
        "worker-src": ["blob:"],
        "connect-src": ["'none'" if bundled else "'self'"],
        "base-uri": ["'none'"],
        "form-action": ["'none'"],
    }
    return "; ".join(f"{name} {' '.join(values)}" for name, values in rules.items())


def _render(title: str, views: Views, scene_name: str, payload: Markup | None) -> str:
    context: dict[str, Any] = {
        "title": title or "scene",
        "settings": settings(views, scene_name),
        "scene": payload,
        "policy": Markup(policy(payload is not None)),
        "license": Markup(_static("supersplat-viewer.LICENSE.txt").strip()),
        "viewer_css": Markup(_static("supersplat-viewer.css")),
        "viewer_js": Markup(_static("supersplat-viewer.js")),
        "page_css": Markup(_static("page.css")),
        "page_js": Markup(_static("page.js")),
    }
    return _environment().get_template("page.html").render(**context)


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


@cache
def _static(name: str) -> str:
    return (files("gencompress.viewer") / "static" / name).read_text(encoding="utf-8")


@cache
def _environment() -> Environment:
    """Jinja with escaping on, and an error for every undefined name."""
    return Environment(
        autoescape=True,
        loader=FunctionLoader(_static),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
