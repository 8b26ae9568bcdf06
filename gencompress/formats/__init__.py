"""Files of scenes and cameras: bounded readers, atomic writers, one convention in memory.

Names are imported on first use.
"""

from __future__ import annotations

import importlib
from typing import Any

_WHERE = {
    "FORMATS": "files",
    "SH_C0": "scene",
    "Cameras": "cameras",
    "SplatScene": "scene",
    "deviations": "fidelity",
    "find_cameras": "camera_files",
    "read_cameras": "camera_files",
    "read_pinholes": "camera_files",
    "read_scene": "files",
    "scene_format": "files",
    "write_scene": "files",
}

__all__ = sorted(_WHERE)


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_WHERE[name]}"), name)


def __dir__() -> list[str]:
    return __all__
