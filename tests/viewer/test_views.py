"""Poses of the viewer: every view sees the scene upright, and the settings are complete."""

from __future__ import annotations

import json
import math
from typing import get_args

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gencompress.domains.splats.frame import Frame, Up, axis_of
from gencompress.domains.splats.poses import look_at
from gencompress.errors import ConfigError
from gencompress.formats import Cameras
from gencompress.viewer.settings import settings
from gencompress.viewer.views import camera_views, orbit_views, rotated, upright, views_of
from tests.formats.synthetic import synthetic

UPS = get_args(Up)
units = st.tuples(*[st.floats(-1, 1)] * 3).map(np.array).filter(lambda v: np.linalg.norm(v) > 0.1)


def frame(up: Up = "-y", radius: float = 2.0) -> Frame:
    return Frame(np.array([1.0, -2.0, 0.5]), radius, axis_of(up))


@given(units, units)
@example(np.array([0.0, -0.5, 1e-6]), np.array([0.0, 0.0, 1.0]))
@example(np.array([1e-10, -1.0, 0.0]), np.array([1.0, 0.0, 0.0]))
def test_upright_is_a_rotation_that_turns_up_upward(up: np.ndarray, point: np.ndarray) -> None:
    quaternion = upright(up)
    assert np.linalg.norm(quaternion) == pytest.approx(1)
    assert rotated(quaternion, up / np.linalg.norm(up)) == pytest.approx([0, 1, 0], abs=1e-6)
    assert np.linalg.norm(rotated(quaternion, point)) == pytest.approx(np.linalg.norm(point))
    other = np.array([0.3, -0.2, 0.9])
    assert rotated(quaternion, point) @ rotated(quaternion, other) == pytest.approx(point @ other, abs=1e-9)


def test_scenes_with_y_down_are_turned_as_the_viewer_does_itself() -> None:
    assert upright(axis_of("-y")) == pytest.approx([0, 0, 1, 0])
    assert rotated(upright(axis_of("-y")), np.array([1.0, 2.0, 3.0])) == pytest.approx([-1, -2, 3])


@pytest.mark.parametrize("up", UPS)
def test_orbit_views_hold_the_whole_scene_with_up_in_the_picture(up: Up) -> None:
    scene = frame(up)
    views = orbit_views(scene)
    assert [view.name for view in views.presets] == ["Start", "Front", "Right", "Back", "Left", "Top"]
    for view in views.presets:
        assert view.target == pytest.approx(scene.centre)
        distance = np.linalg.norm(view.position - view.target)
        assert scene.radius < distance * math.sin(math.radians(view.fov / 2)), "the sphere fits into the picture"
        assert (view.position - view.target) @ scene.up > 0, "seen from slightly above"
    front, right, back = (view.position - scene.centre for view in views.presets[1:4])
    # right of the front view: seen from the front, it lies to the right
    assert np.cross(-front, scene.up) @ right > 0 and front @ back < 0
    assert views.presets[-1].position @ scene.up > views.presets[1].position @ scene.up


def test_front_is_where_a_camera_without_rotation_looks_from() -> None:
    front = orbit_views(frame()).presets[1]
    forward = (front.target - front.position) / np.linalg.norm(front.target - front.position)
    assert forward @ np.array([0.0, 0.0, 1.0]) > 0.98


@given(st.integers(1, 40), st.integers(16, 2000), st.integers(16, 2000), st.floats(5, 4000))
def test_camera_views_stand_where_the_cameras_stand(count: int, width: int, height: int, focal: float) -> None:
    generator = np.random.default_rng(count)
    scene = frame()
    positions = scene.centre + 5 * generator.standard_normal((count, 3))
    made = look_at(positions, positions + generator.standard_normal((count, 3)), scene.up, 64, 50)
    Ks = np.tile(np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]], dtype=np.float32), (count, 1, 1))
    views = camera_views(Cameras(made.viewmats, Ks, width, height), scene)
    assert len(views.presets) == min(count, 8)
    expected = 2 * math.degrees(math.atan(min(width, height) / 2 / focal))
    for view in views.presets:
        index = int(np.linalg.norm(positions - view.position, axis=1).argmin())
        assert view.position == pytest.approx(positions[index], abs=1e-4)
        forward = view.target - view.position
        assert np.linalg.norm(forward) >= 0.2 * scene.radius * (1 - 1e-6)
        assert forward / np.linalg.norm(forward) == pytest.approx(made.viewmats[index, 2, :3], abs=1e-4)
        assert view.fov == pytest.approx(min(max(expected, 10), 120), abs=1e-3)


def test_settings_have_every_key_that_the_viewer_wants() -> None:
    made = settings(orbit_views(frame()), "scene.sog")
    assert json.loads(json.dumps(made, allow_nan=False)) == made
    assert set(made) == {
        "version", "tonemapping", "highPrecisionRendering", "background", "postEffectSettings", "animTracks",
        "cameras", "annotations", "startMode", "scene",
    }  # fmt: skip
    assert made["version"] == 2 and made["tonemapping"] == "none"
    assert set(made["postEffectSettings"]) == {"sharpness", "bloom", "grading", "vignette", "fringing"}
    assert not any(effect["enabled"] for effect in made["postEffectSettings"].values())
    assert [note["title"] for note in made["annotations"]][:2] == ["Start", "Front"]
    for pose in [made["cameras"][0], *(note["camera"] for note in made["annotations"])]:
        assert set(pose["initial"]) == {"position", "target", "fov"}


@pytest.mark.parametrize("up", UPS)
def test_the_camera_path_goes_around_at_the_height_of_the_start(up: Up) -> None:
    made = settings(orbit_views(frame(up)), "scene.sog")
    (track,) = made["animTracks"]
    keys = track["keyframes"]
    places = np.array(keys["values"]["position"]).reshape(-1, 3)
    targets = np.array(keys["values"]["target"]).reshape(-1, 3)
    assert len(keys["times"]) == len(places) == len(targets) == len(keys["values"]["fov"])
    assert places[0] == pytest.approx(made["cameras"][0]["initial"]["position"])
    assert np.ptp(places[:, 1]) < 1e-9 and places[0, 1] > targets[0, 1], "y is up for the viewer, and stays"
    assert np.linalg.norm(places - targets, axis=1) == pytest.approx(3.1 * 2.0)
    assert (places - targets)[:, [0, 2]].mean(axis=0) == pytest.approx([0, 0], abs=1e-9)
    assert keys["times"] == sorted(keys["times"]) and keys["times"][-1] < track["duration"]


def test_a_scene_is_seen_from_around_a_room_from_inside_and_given_cameras_come_first() -> None:
    thing = synthetic(400)
    assert views_of(thing).presets[1].name == "Front"
    cameras = look_at(np.array([[9.0, 0, 0]]), np.zeros((1, 3)), axis_of("-y"), 64, 50)
    assert [view.name for view in views_of(thing, cameras).presets] == ["View 1"]
    walls = np.random.default_rng(0).uniform(-1, 1, (30_000, 3)).astype(np.float32)
    side = np.abs(walls).argmax(axis=1)
    walls[np.arange(len(walls)), side] = np.sign(walls[np.arange(len(walls)), side])
    room = synthetic(
        len(walls),
        means=walls,
        log_scales=np.full((len(walls), 3), -4, np.float32),
        logits=np.full(len(walls), 4, "f4"),
    )
    inside = views_of(room)
    assert len(inside.presets) > 1 and all(np.abs(view.position).max() < 1 for view in inside.presets)
    with pytest.raises(ConfigError, match="up"):
        views_of(thing, up="up")  # type: ignore[arg-type]
