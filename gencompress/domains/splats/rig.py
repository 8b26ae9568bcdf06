"""Views that a scene is scored from, and others that it is judged from, without any photograph.

Scores need cameras but no images: the scene's own renders are the truth. Where the scene comes with cameras these are
taken; otherwise they are placed around an object, or in the free space of a room.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from gencompress.domains.splats.frame import Frame, Up, coverage
from gencompress.domains.splats.poses import GOLDEN, look_at, orbit_positions
from gencompress.domains.splats.rooms import free_space, free_space_cameras
from gencompress.errors import ConfigError, DataError, nearest
from gencompress.formats.cameras import Cameras
from gencompress.formats.scene import SplatScene

Kind = Literal["auto", "orbit", "room"]
TEST_VIEWS, CLOSE_VIEWS = 12, 8
DISTANCE = 2.65  # of the whole view, in radii: at 45 degrees the object nearly fills the image
CLOSE = 0.45  # distance of a close-up, relative to the whole view
SHELLS = (1.0, 0.75, 1.0, 0.5)  # relative distances of scoring views, in turn: close-ups are scored, too
_VISIBLE_SIGMA = 3.0


@dataclass(frozen=True, eq=False)
class Rig:
    """Cameras by their purpose; no test view or close-up is a scoring view.

    Args:
        scoring: what scores, merging and refinement see.
        test: whole views that only judge.
        close: close-ups that only judge.
        kind: ``orbit``, ``room`` or ``given``.
    """

    scoring: Cameras
    test: Cameras
    close: Cameras
    kind: str


def rig_of(
    scene: SplatScene,
    *,
    kind: Kind = "auto",
    views: int = 24,
    size: int = 400,
    fov_deg: float = 45.0,
    seed: int = 0,
    up: Up = "auto",
) -> Rig:
    """A synthetic rig: the same for the same arguments.

    Args:
        scene: finite splats (`gencompress.domains.splats.filter.clean`).
        kind: around an object (``orbit``), from its free space (``room``), or by whether free space is enclosed.
        views: scoring views.
        size: width and height of the images in pixels.
        fov_deg: full field of view.
        seed: of all places.
        up: the axis that points up; ``auto`` is ``-y``, as most trained scenes have it.

    Raises:
        ConfigError: an unknown `kind` or `up`.
        DataError: a room has no free space for a camera.
    """
    if kind not in get_args(Kind):
        raise ConfigError(f"rig.kind={kind!r}; {nearest(kind, get_args(Kind))}")
    frame = Frame.of(scene, up)
    if kind != "orbit":
        space = free_space(scene, frame)
        if kind == "room" or space.enclosed:
            counts = (views, TEST_VIEWS, CLOSE_VIEWS)
            scoring, test, close = free_space_cameras(space, frame, counts, size, fov_deg, seed)
            return Rig(scoring, test, close, "room")
    scoring = _orbit(scene, frame, views, size, fov_deg, seed)
    test, close = _judging(scene, frame, size, fov_deg, seed)
    return Rig(scoring, test, close, "orbit")


def _orbit(scene: SplatScene, frame: Frame, views: int, size: int, fov_deg: float, seed: int) -> Cameras:
    """Scoring views on several shells; the nearer a camera, the farther from the centre it may look."""
    generator = np.random.default_rng(seed)
    turn = np.arange(views)
    shells = np.resize(SHELLS, views)
    heights = (turn * GOLDEN / (2 * math.pi) + generator.uniform()) % 1  # low-discrepancy, independent of the azimuth
    low, high = math.sin(math.radians(-10)), math.sin(math.radians(65))
    elevations = np.arcsin(low + (high - low) * heights)
    azimuths = 2 * math.pi * (turn + generator.uniform(size=views)) / views * _coprime_turns(views)
    targets = _points_of_interest(scene, frame, shells, generator)
    distances = frame.radius * DISTANCE * shells
    offsets = orbit_positions(frame, azimuths, elevations, distances) - frame.centre
    return look_at(targets + offsets, targets, frame.up, size, fov_deg)


def _coprime_turns(views: int) -> int:
    """How many times the azimuth goes around, so that neighbouring views of a shell do not stand side by side."""
    return next(n for n in range(round(views * 0.382), 2 * views + 2) if n > 0 and math.gcd(n, views) == 1)


def _points_of_interest(
    scene: SplatScene, frame: Frame, shells: np.ndarray, generator: np.random.Generator
) -> np.ndarray:
    """What the cameras look at [C, 3]: the centre from afar, random visible splats from near."""
    weights = coverage(scene)
    chosen = generator.choice(len(scene), size=len(shells), p=weights / weights.sum())
    outward = scene.means[chosen] - frame.centre
    length = np.linalg.norm(outward, axis=1, keepdims=True)
    outward *= np.minimum(1, frame.radius / np.maximum(length, 1e-12))
    return np.asarray(frame.centre + (1 - shells)[:, None] * outward)


def _judging(scene: SplatScene, frame: Frame, size: int, fov_deg: float, seed: int) -> tuple[Cameras, Cameras]:
    """Test views and close-ups, drawn from a stream that the scoring views do not share."""
    generator = np.random.default_rng((seed, 1))
    test = _ring(frame, generator, TEST_VIEWS, (12, 38), 6, (0.85, 1.10), size, fov_deg)
    return test, _ring(frame, generator, CLOSE_VIEWS, (5, 30), 6, (CLOSE, CLOSE), size, fov_deg)


def _ring(
    frame: Frame,
    generator: np.random.Generator,
    views: int,
    elevations_deg: Sequence[float],
    jitter_deg: float,
    nearness: tuple[float, float],
    size: int,
    fov_deg: float,
) -> Cameras:
    """`views` cameras around the centre on rings at `elevations_deg` +- `jitter_deg`, at jittered azimuths."""
    per_ring = views // len(elevations_deg)
    elevations = np.repeat(elevations_deg, per_ring) + generator.uniform(-jitter_deg, jitter_deg, views)
    steps = np.tile(np.arange(per_ring), len(elevations_deg)) + generator.uniform(0, 1, views)
    distances = generator.uniform(*nearness, views) * frame.radius * DISTANCE
    azimuths = 2 * math.pi * steps / per_ring
    positions = orbit_positions(frame, azimuths, np.radians(elevations), distances)
    return look_at(positions, np.tile(frame.centre, (views, 1)), frame.up, size, fov_deg)


def protocol_rig(scene: SplatScene, seed: int = 0) -> Rig:
    """The rig of the published quality tables: one distance, as harsh on close-ups as it can be.

    24 scoring views at elevations 2, 25 and 52 +- 4 degrees, 8 azimuths each; 12 test views at 12 and 38 +- 6 degrees
    and 0.85 to 1.10 of the distance; 8 close-ups at 0.45 of it. 400 x 400 pixels, 45 degrees, y down.
    """
    frame = Frame.of(scene, "-y")
    scoring = _ring(frame, np.random.default_rng(seed), 24, (2, 25, 52), 4, (1.0, 1.0), 400, 45.0)
    return Rig(scoring, *_judging(scene, frame, 400, 45.0, seed), "orbit")


def rig_from_cameras(given: Sequence[Cameras], *, views: int = 24, most_pixels: int = 400 * 400) -> Rig:
    """A rig of cameras that came with the scene.

    Every eighth camera judges; the others are thinned evenly to `views`. All get the image size of the largest group,
    scaled down to `most_pixels`; as no photographs are compared, only the field of view of the others changes a
    little. Close-ups are the test views at half of their field of view.

    Raises:
        DataError: there are fewer than two cameras.
    """
    cameras = _joined(given, most_pixels)
    if len(cameras) < 2:
        raise DataError(f"{len(cameras)} camera(s) were given; at least 2 are needed, one to score and one to judge")
    every = np.arange(len(cameras))
    judging = every % 8 == min(4, len(cameras) - 1)
    test = cameras.take(_thinned(every[judging], TEST_VIEWS))
    zoom = test.Ks.copy()
    zoom[:, [0, 1], [0, 1]] *= 2
    close = Cameras(test.viewmats, zoom, test.width, test.height)
    return Rig(cameras.take(_thinned(every[~judging], views)), test, close, "given")


def _joined(given: Sequence[Cameras], most_pixels: int) -> Cameras:
    """All cameras at one image size, in the order given."""
    if not sum(map(len, given)):
        raise DataError("no camera was given")
    largest = max(given, key=len)
    scale = min(1.0, math.sqrt(most_pixels / (largest.width * largest.height)))
    width, height = max(1, round(largest.width * scale)), max(1, round(largest.height * scale))
    intrinsics = []
    for cameras in given:
        factor = width / cameras.width
        Ks = cameras.Ks.copy()
        Ks[:, :2] *= factor
        Ks[:, 1, 2] += (height - cameras.height * factor) / 2  # other aspect ratios keep the middle of their image
        intrinsics.append(Ks)
    return Cameras(np.concatenate([c.viewmats for c in given]), np.concatenate(intrinsics), width, height)


def _thinned(index: np.ndarray, most: int) -> np.ndarray:
    """At most `most` entries of `index`, evenly spaced."""
    if len(index) <= most:
        return index
    return index[np.floor((np.arange(most) + 0.5) * len(index) / most).astype(np.int64)]


def require_visible(scene: SplatScene, cameras: Cameras) -> None:
    """Raise DataError, naming the cameras, if some see no splat: they look away, or stand beyond everything."""
    blind = [i for i in range(len(cameras)) if not _sees(scene, cameras, i)]
    if blind:
        shown = ", ".join(map(str, blind[:5])) + (", ..." if len(blind) > 5 else "")
        raise DataError(
            f"{len(blind)} of {len(cameras)} cameras see no splat (number {shown}): they look away from the scene or "
            "belong to another one"
        )


def _sees(scene: SplatScene, cameras: Cameras, i: int) -> bool:
    """Whether some splat within three standard deviations touches the image of camera `i`."""
    rotation, translation = cameras.viewmats[i, :3, :3], cameras.viewmats[i, :3, 3]
    x, y, depth = rotation @ scene.means.T + translation[:, None]
    reach = _VISIBLE_SIGMA * scene.scales.max(axis=1)
    front = depth > 0.01
    K, safe = cameras.Ks[i], np.where(front, depth, 1)
    u, v = K[0, 0] * x / safe + K[0, 2], K[1, 1] * y / safe + K[1, 2]
    du, dv = K[0, 0] * reach / safe, K[1, 1] * reach / safe
    inside = (u + du > 0) & (u - du < cameras.width) & (v + dv > 0) & (v - dv < cameras.height)
    return bool((front & inside).any())
