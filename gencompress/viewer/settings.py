"""settings.json of supersplat-viewer: which poses it knows and how it draws. The viewer wants every key of it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from gencompress.viewer.views import Vector, View, Views, rotated, upright

_TURN_S = 24.0  # once around
_KEYS = 12
_EFFECTS = {
    "sharpness": {"enabled": False, "amount": 0},
    "bloom": {"enabled": False, "intensity": 0.1, "blurLevel": 2},
    "grading": {"enabled": False, "brightness": 1, "contrast": 1, "saturation": 1, "tint": [1, 1, 1]},
    "vignette": {"enabled": False, "intensity": 0.5, "inner": 0.3, "outer": 0.75, "curvature": 1},
    "fringing": {"enabled": False, "intensity": 0.5},
}


def settings(views: Views, scene_name: str) -> dict[str, Any]:
    """The content of settings.json, version 2 of its schema, in the viewer's coordinates, where y is up.

    The key `scene` is this package's own: the file's name and the rotation that makes the scene stand upright.
    """
    rotation = upright(views.up)
    presets = [_turned(view, rotation) for view in views.presets]
    return {
        "version": 2,
        "tonemapping": "none",
        "highPrecisionRendering": False,
        "background": {"color": [0, 0, 0]},
        "postEffectSettings": _EFFECTS,
        "animTracks": [_turn(presets[0])],
        "cameras": [{"initial": _pose(presets[0])}],
        "annotations": [_annotation(view) for view in presets],
        "startMode": "animTrack",
        "scene": {"name": scene_name, "rotation": rotation.tolist()},
    }


def _turned(view: View, rotation: Vector) -> View:
    return View(view.name, rotated(rotation, view.position), rotated(rotation, view.target), view.fov)


def _pose(view: View) -> dict[str, Any]:
    return {"position": view.position.tolist(), "target": view.target.tolist(), "fov": view.fov}


def _annotation(view: View) -> dict[str, Any]:
    return {"position": view.target.tolist(), "title": view.name, "text": "", "camera": {"initial": _pose(view)}}


def _turn(start: View) -> dict[str, Any]:
    """The camera path: once around the target of the start pose, at its height, and over again."""
    x, height, z = start.position - start.target
    angles = math.atan2(x, z) + 2 * math.pi * np.arange(_KEYS) / _KEYS
    level = np.full(_KEYS, height)
    offsets = math.hypot(x, z) * np.stack([np.sin(angles), np.zeros(_KEYS), np.cos(angles)], axis=1)
    offsets[:, 1] = level
    return {
        "name": "turn",
        "duration": _TURN_S,
        "frameRate": 1,
        "loopMode": "repeat",
        "interpolation": "spline",
        "smoothness": 1,
        "keyframes": {
            "times": (_TURN_S * np.arange(_KEYS) / _KEYS).tolist(),
            "values": {
                "position": (start.target + offsets).ravel().tolist(),
                "target": np.tile(start.target, _KEYS).tolist(),
                "fov": [start.fov] * _KEYS,
            },
        },
    }
