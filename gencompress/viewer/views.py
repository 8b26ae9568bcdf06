"""Where the viewer's camera stands: a start pose and preset views, from the extent of the scene or from its cameras."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gencompress.domains.splats.frame import Frame, Up
from gencompress.domains.splats.rig import rig_of
from gencompress.formats.cameras import Cameras
from gencompress.formats.scene import SplatScene

Vector = NDArray[np.float64]

_FOV = 45.0
_DISTANCE = 3.1  # in radii, which hold 98 %: at 2.6 the sphere of one radius fits into a 45 degree picture
_ORBIT = (("Front", 0, 8), ("Right", 90, 8), ("Back", 180, 8), ("Left", 270, 8), ("Top", 0, 70))
_MOST = 8  # presets from cameras
_FOV_RANGE = (10.0, 120.0)  # what the viewer's settings take


@dataclass(frozen=True)
class View:
    """One named pose, in the coordinates of the scene.

    Args:
        name: what the viewer calls it.
        position: of the camera [3].
        target: the point it looks at, and turns around when it is dragged [3].
        fov: field of view in degrees across the smaller side of the picture.
    """

    name: str
    position: Vector
    target: Vector
    fov: float


@dataclass(frozen=True)
class Views:
    """Presets, of which the first one is the start pose, and which way is up [3]."""

    presets: tuple[View, ...]
    up: Vector


def views_of(scene: SplatScene, cameras: Cameras | None = None, up: Up = "auto") -> Views:
    """Views at `cameras`, or else around the scene, or from inside of it if it is a room.

    Args:
        scene: finite splats, as `gencompress.domains.splats.filter.clean` leaves them.
        cameras: those that came with the scene, if any.
        up: the axis that points up; ``auto`` is ``-y``.

    Raises:
        ConfigError: an unknown `up`.
    """
    frame = Frame.of(scene, up)
    if cameras is None:
        rig = rig_of(scene, views=1, up=up)
        cameras = rig.test if rig.kind == "room" else None
    return camera_views(cameras, frame) if cameras is not None else orbit_views(frame)


def orbit_views(frame: Frame) -> Views:
    """A start pose slightly aside and above, then front, right, back, left and top, all looking at the centre.

    The front is seen from the side that a camera without rotation looks from: the lower end of the z axis, or of the y
    axis where z is up.
    """
    start = _around(frame, "Start", 25, 14)
    return Views((start, *(_around(frame, *place) for place in _ORBIT)), frame.up)


def camera_views(cameras: Cameras, frame: Frame) -> Views:
    """Presets at up to eight of the given cameras, evenly spaced in their order. Roll is dropped: the viewer has none.

    The target lies on the optical axis at the depth of the centre of the scene, or in front of the camera where the
    centre lies behind it.
    """
    chosen = np.unique(np.linspace(0, len(cameras) - 1, min(_MOST, len(cameras))).round().astype(np.int64))
    presets = []
    for number, index in enumerate(chosen.tolist(), 1):
        position = cameras.positions[index].astype(np.float64)
        forward = cameras.viewmats[index, 2, :3].astype(np.float64)
        depth = max(float((frame.centre - position) @ forward), 0.2 * frame.radius)
        fov = _field_of_view(cameras, index)
        presets.append(View(f"View {number}", position, position + depth * forward, fov))
    return Views(tuple(presets), frame.up)


def upright(up: Vector) -> Vector:
    """The rotation, as a quaternion xyzw [4], that turns `up` [3] to +y, the viewer's up.

    For -y, where trained scenes have their up, it is half a turn about z, which is what the viewer itself applies.
    """
    x, y, z = up / np.linalg.norm(up)
    across = x**2 + z**2
    if y < 0 and across < 1e-18:
        return np.array([0.0, 0.0, 1.0, 0.0])
    w = 1 + y if y > 0 else across / (1 - y)  # the same, but near -y the sum would lose its digits
    quaternion = np.array([-z, 0.0, x, w])  # up x (0, 1, 0), and 1 + up . (0, 1, 0)
    return quaternion / np.linalg.norm(quaternion)


def rotated(quaternion: Vector, points: Vector) -> Vector:
    """Points [..., 3] turned by a unit quaternion xyzw [4]."""
    axis, w = quaternion[:3], quaternion[3]
    turned = 2 * np.cross(axis, points)
    return points + w * turned + np.cross(axis, turned)


def _field_of_view(cameras: Cameras, index: int) -> float:
    """Of one camera, in degrees across the smaller side of its picture, in the range that the viewer takes."""
    axis, side = (0, cameras.width) if cameras.width < cameras.height else (1, cameras.height)
    fov = math.degrees(2 * math.atan(side / (2 * float(cameras.Ks[index, axis, axis]))))
    return min(max(fov, _FOV_RANGE[0]), _FOV_RANGE[1])


def _around(frame: Frame, name: str, azimuth: float, elevation: float) -> View:
    """A pose on the sphere around the centre; azimuth and elevation in degrees."""
    ahead = np.array([0.0, 0.0, -1.0]) if abs(frame.up[2]) < 0.9 else np.array([0.0, -1.0, 0.0])
    back = ahead - frame.up * (ahead @ frame.up)
    back /= np.linalg.norm(back)
    side = np.cross(back, frame.up)
    a, e = math.radians(azimuth), math.radians(elevation)
    direction = math.cos(e) * (math.cos(a) * back - math.sin(a) * side) + math.sin(e) * frame.up
    return View(name, frame.centre + _DISTANCE * frame.radius * direction, frame.centre, _FOV)
