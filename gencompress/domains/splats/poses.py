"""Cameras from poses: looking at a point, orbiting a scene."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from gencompress.domains.splats.frame import Frame, Vector
from gencompress.formats.cameras import Cameras

GOLDEN = math.pi * (3 - math.sqrt(5))  # the angle whose multiples spread most evenly over a circle


def look_at(positions: Vector, targets: Vector, up: Vector, size: int, fov_deg: float) -> Cameras:
    """Square pinhole cameras at `positions` [C, 3] that look at `targets` [C, 3].

    Args:
        positions: centres in the world.
        targets: points that lie in the middle of the images; not the positions themselves.
        up: direction [3] that points to the top of the images.
        size: width and height in pixels.
        fov_deg: full field of view.
    """
    forward = _unit(targets - positions)
    right = np.cross(forward, up)
    vertical = np.linalg.norm(right, axis=1) < 1e-6  # looking along `up`: any other direction will do
    right[vertical] = np.cross(forward[vertical], np.roll(up, 1))
    right = _unit(right)
    down = np.cross(forward, right)
    viewmats = np.tile(np.eye(4), (len(positions), 1, 1))
    viewmats[:, :3, :3] = np.stack([right, down, forward], axis=1)
    viewmats[:, :3, 3] = -np.einsum("cij,cj->ci", viewmats[:, :3, :3], positions)
    focal = size / 2 / math.tan(math.radians(fov_deg) / 2)
    intrinsics = np.array([[focal, 0, size / 2], [0, focal, size / 2], [0, 0, 1]])
    tiled = np.tile(intrinsics.astype(np.float32), (len(positions), 1, 1))
    return Cameras(viewmats.astype(np.float32), tiled, size, size)


def orbit_positions(frame: Frame, azimuths: Vector, elevations: Vector, distances: Vector) -> Vector:
    """Points [C, 3] around the centre of `frame`: angles in radians [C], distances in the scene's unit [C]."""
    side = _unit(np.cross(frame.up, np.roll(np.abs(frame.up), 1)))
    front = np.cross(side, frame.up)
    level = np.cos(azimuths)[:, None] * side + np.sin(azimuths)[:, None] * front
    rays = np.cos(elevations)[:, None] * level + np.sin(elevations)[:, None] * frame.up
    return frame.centre + distances[:, None] * rays


def fibonacci_sphere(n: int) -> Vector:
    """Directions [n, 3] spread evenly over the unit sphere."""
    heights = 1 - (2 * np.arange(n) + 1) / n
    radii, angles = np.sqrt(1 - heights**2), GOLDEN * np.arange(n)
    return np.stack([radii * np.cos(angles), radii * np.sin(angles), heights], axis=1)


def _unit(vectors: NDArray[np.float64]) -> Vector:
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.asarray(vectors / np.maximum(lengths, 1e-12))
