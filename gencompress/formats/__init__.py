"""Files of scenes and cameras: bounded readers, atomic writers, one convention in memory.

Names are imported on first use.
"""

from __future__ import annotations

from gencompress.lazy import attach

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

__getattr__, __dir__, __all__ = attach(__name__, _WHERE)
