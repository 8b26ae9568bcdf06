"""A scene in the browser: one offline page, a folder to host, or a local server.

Names are imported on first use, so `import gencompress.viewer` loads neither numpy nor jinja2.
"""

from __future__ import annotations

import importlib
from typing import Any

_WHERE = {
    "View": "views",
    "Views": "views",
    "camera_views": "views",
    "orbit_views": "views",
    "serve": "serve",
    "write_folder": "page",
    "write_page": "page",
}

__all__ = sorted(_WHERE)


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_WHERE[name]}"), name)


def __dir__() -> list[str]:
    return __all__
