"""Camera poses in the free space of a room or an outdoor scene."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt

from gencompress.domains.splats.frame import Frame, Vector, coverage, weighted_quantiles
from gencompress.domains.splats.poses import fibonacci_sphere, look_at
from gencompress.errors import DataError
from gencompress.formats.cameras import Cameras
from gencompress.formats.scene import SplatScene

VOXELS = 64  # along the longest side
OPAQUE = 0.2  # opacity from which a splat occupies space
CLEARANCE = 0.06  # least distance of a camera from anything, relative to the longest side
ENCLOSED = 0.7  # part of all directions that is blocked, from which on a place counts as inside
_SAMPLES = 32  # points by which a splat larger than a voxel is drawn
_PITCH_DEG = 12.0


@dataclass(frozen=True, eq=False)
class FreeSpace:
    """Places where a camera may stand.

    Args:
        places: centres of free voxels [M, 3] with clearance, the most enclosed ones if any is enclosed.
        enclosed: the scene surrounds them, as a room does.
    """

    places: Vector
    enclosed: bool


def free_space(scene: SplatScene, frame: Frame) -> FreeSpace:
    """Free voxels of `scene`, and whether they lie inside of it."""
    low, voxel, occupied = _occupancy(scene)
    clearance = np.asarray(distance_transform_edt(np.pad(~occupied, 1, constant_values=True)))[1:-1, 1:-1, 1:-1]
    free = np.argwhere(clearance >= CLEARANCE * VOXELS)
    if not len(free):
        return FreeSpace(np.zeros((0, 3)), False)
    probed = free[:: max(1, len(free) // 2048)]
    inside = _blocked(occupied, probed) >= ENCLOSED
    # A gap between the parts of an object may be enclosed, too; in a room most of the free space is.
    enclosed = bool(inside.mean() >= 0.5)
    chosen = probed[inside] if inside.any() else probed
    return FreeSpace(low + (chosen + 0.5) * voxel, enclosed)


def free_space_cameras(
    space: FreeSpace, frame: Frame, counts: tuple[int, ...], size: int, fov_deg: float, seed: int
) -> list[Cameras]:
    """For every count its own cameras: places far from each other, the first yaw towards the centre of the scene.

    Raises:
        DataError: there is no place for a camera.
    """
    if not len(space.places):
        raise DataError("rig.kind=room: the scene has no free space for a camera; try rig.kind=orbit or give cameras")
    generator = np.random.default_rng((seed, 2))
    total = sum(counts)
    places = _far_apart(space.places, max(1, math.ceil(total / 4)), generator)
    stands = places[np.arange(total) % len(places)]
    towards = frame.centre - stands
    side, front = _level_axes(frame.up)
    yaws = np.arctan2(towards @ front, towards @ side) + 2 * math.pi * (np.arange(total) // len(places)) / 4
    pitches = np.radians(generator.uniform(-_PITCH_DEG, _PITCH_DEG, total))
    level = np.cos(yaws)[:, None] * side + np.sin(yaws)[:, None] * front
    rays = np.cos(pitches)[:, None] * level + np.sin(pitches)[:, None] * frame.up
    cameras = look_at(stands, stands + rays, frame.up, size, fov_deg)
    shuffled = np.split(generator.permutation(total), np.cumsum(counts)[:-1])
    return [cameras.take(np.sort(index)) for index in shuffled]


def _occupancy(scene: SplatScene) -> tuple[Vector, float, NDArray[np.bool_]]:
    """Lower corner [3] and edge of the voxels, and which of them opaque splats fill."""
    weights = coverage(scene)
    box = np.stack([weighted_quantiles(scene.means[:, axis], weights, (0.01, 0.99)) for axis in range(3)])
    voxel = float((box[:, 1] - box[:, 0]).max()) / VOXELS or 1.0
    low = box[:, 0] - voxel
    shape = np.ceil((box[:, 1] - box[:, 0]) / voxel).astype(np.int64) + 2
    occupied = np.zeros(shape, dtype=bool)
    opaque = scene.opacities > OPAQUE
    large = opaque & (scene.scales.max(axis=1) > voxel / 2)
    for points in (scene.means[opaque], _samples(scene, large)):
        cells = np.floor((points - low) / voxel)
        cells = cells[((cells >= 0) & (cells < shape)).all(axis=1)].astype(np.int64)
        occupied[tuple(cells.T)] = True
    return low, voxel, occupied


def _samples(scene: SplatScene, chosen: NDArray[np.bool_]) -> Vector:
    """Points drawn from the Gaussians of the chosen splats [n * _SAMPLES, 3]."""
    quats = scene.quats[chosen].astype(np.float64)
    w, x, y, z = (quats / np.linalg.norm(quats, axis=1, keepdims=True)).T
    rotation = np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )
    unit = np.random.default_rng(0).standard_normal((_SAMPLES, 3))
    points = np.einsum("ijn,nj,sj->nsi", rotation, scene.scales[chosen], unit)
    return np.asarray(scene.means[chosen][:, None] + points).reshape(-1, 3)


def _blocked(occupied: NDArray[np.bool_], cells: NDArray[np.int64], directions: int = 48) -> Vector:
    """Part of all directions in which something stands before the box ends, from every cell [M]."""
    rays = fibonacci_sphere(directions)
    hit: NDArray[np.bool_] = np.zeros((len(cells), directions), dtype=bool)
    shape = np.array(occupied.shape)
    for step in range(1, int(np.linalg.norm(shape)) + 1):
        at = np.round(cells[:, None] + step * rays).astype(np.int64)
        inside: NDArray[np.bool_] = np.logical_and.reduce((at >= 0) & (at < shape), axis=2)
        at = np.where(inside[..., None], at, 0)
        hit |= inside & occupied[tuple(np.moveaxis(at, 2, 0))]
    return np.asarray(hit.mean(axis=1))


def _far_apart(points: Vector, count: int, generator: np.random.Generator) -> Vector:
    """`count` of `points`, each as far as possible from those before it; all of them in turn if there are fewer."""
    chosen = [int(generator.integers(len(points)))]
    nearest = np.linalg.norm(points - points[chosen[0]], axis=1)
    while len(chosen) < min(count, len(points)):
        chosen.append(int(nearest.argmax()))
        nearest = np.minimum(nearest, np.linalg.norm(points - points[chosen[-1]], axis=1))
    return points[chosen]


def _level_axes(up: Vector) -> tuple[Vector, Vector]:
    """Two unit vectors that span the ground."""
    side = np.cross(up, np.roll(np.abs(up), 1))
    return side, np.cross(side, up)
