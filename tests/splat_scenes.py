"""Small scenes of splats that tests are made on."""

from __future__ import annotations

import numpy as np

from gencompress.domains.splats.poses import fibonacci_sphere, look_at
from gencompress.formats.cameras import Cameras
from gencompress.formats.scene import SplatScene


def ball(count: int = 300, seed: int = 0, sh_degree: int = 0, scale: float = 0.12) -> SplatScene:
    """Splats of random colours in a ball of radius one, up to a few of low opacity."""
    rng = np.random.default_rng(seed)
    means = rng.normal(size=(count, 3))
    means *= (rng.uniform(size=count) ** (1 / 3) / np.linalg.norm(means, axis=1))[:, None]
    return scene_of(means, np.full((count, 3), scale) * rng.uniform(0.5, 1.5, (count, 3)), rng, sh_degree)


def scene_of(means: np.ndarray, scales: np.ndarray, rng: np.random.Generator, sh_degree: int = 0) -> SplatScene:
    """A scene with these centres and sizes, and random rotations, opacities and colours."""
    count, terms = len(means), (sh_degree + 1) ** 2 - 1
    return SplatScene(
        means=means.astype(np.float32),
        quats=rng.normal(size=(count, 4)).astype(np.float32),
        log_scales=np.log(scales).astype(np.float32),
        logits=rng.normal(0.5, 1.5, count).astype(np.float32),
        sh0=rng.normal(size=(count, 3)).astype(np.float32),
        sh_rest=(0.2 * rng.normal(size=(count, terms, 3))).astype(np.float32),
    )


def room(count: int = 6000, seed: int = 0, half: float = 2.0) -> SplatScene:
    """The inside of a box with flat splats on its six walls, and a ball of furniture in the middle of the floor."""
    rng = np.random.default_rng(seed)
    walls = rng.uniform(-half, half, (count, 3))
    axis, side = rng.integers(3, size=count), rng.choice([-half, half], count)
    walls[np.arange(count), axis] = side
    furniture = 0.4 * rng.normal(size=(count // 10, 3)) + [0, half - 0.5, 0]
    means = np.concatenate([walls, furniture])
    scene = scene_of(means, np.full(means.shape, 0.05), rng)
    scene.logits[:] = 3
    return scene


def ring(views: int = 4, size: int = 48, distance: float = 3.0) -> Cameras:
    """Cameras around the origin."""
    positions = distance * fibonacci_sphere(views)
    return look_at(positions, np.zeros((views, 3)), np.array([0.0, -1.0, 0.0]), size, 45.0)
