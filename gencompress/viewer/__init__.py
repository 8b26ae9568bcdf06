"""A scene in the browser: one offline page, a folder to host, or a local server.

Names are imported on first use, so `import gencompress.viewer` loads neither numpy nor jinja2.
"""

from __future__ import annotations

from gencompress.lazy import attach

_WHERE = {
    "View": "views",
    "Views": "views",
    "camera_views": "views",
    "orbit_views": "views",
    "serve": "serve",
    "write_folder": "page",
    "write_page": "page",
}

__getattr__, __dir__, __all__ = attach(__name__, _WHERE)
