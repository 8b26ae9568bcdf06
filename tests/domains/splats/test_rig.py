"""Rigs are deterministic, see the scene, judge from other places than they score from, and fail clearly."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from gencompress.domains.splats.frame import Frame
from gencompress.domains.splats.poses import look_at
from gencompress.domains.splats.rig import protocol_rig, require_visible, rig_from_cameras, rig_of
from gencompress.errors import ConfigError, DataError
from gencompress.formats.cameras import Cameras
from gencompress.kernels.splats import Splats
from tests.splat_scenes import ball, ring, room, scene_of


def parts(rig):
    return {"scoring": rig.scoring, "test": rig.test, "close": rig.close}


def equal(one, other):
    return np.array_equal(one.viewmats, other.viewmats) and np.array_equal(one.Ks, other.Ks)


@pytest.mark.parametrize(("scene", "kind"), [(ball(), "orbit"), (room(), "room")], ids=["ball", "room"])
def test_rigs_are_deterministic_and_see_the_scene(scene, kind):
    rig, again = rig_of(scene, views=12, size=64), rig_of(scene, views=12, size=64)
    other = rig_of(scene, views=12, size=64, seed=1)
    assert rig.kind == kind
    for name, cameras in parts(rig).items():
        assert len(cameras) == {"scoring": 12, "test": 12, "close": 8}[name]
        assert (cameras.width, cameras.height) == (64, 64)
        assert equal(cameras, parts(again)[name]) and not equal(cameras, parts(other)[name])
        rotations = cameras.viewmats[:, :3, :3].astype(np.float64)
        assert np.allclose(rotations @ rotations.transpose(0, 2, 1), np.eye(3), atol=1e-5)
        assert np.allclose(np.linalg.det(rotations), 1, atol=1e-5)
        alpha = Splats.of(scene).render(cameras).alpha
        assert bool((alpha.amax((1, 2)) > 0.5).all()), f"a {name} view is empty"


@pytest.mark.parametrize("scene", [ball(), room()], ids=["ball", "room"])
def test_judging_views_are_no_scoring_views(scene):
    rig = rig_of(scene, views=24)
    scored = rig.scoring.viewmats.reshape(24, -1)
    for cameras in (rig.test, rig.close):
        flat = cameras.viewmats.reshape(len(cameras), -1)
        gaps = np.abs(flat[:, None] - scored[None]).max(axis=2)
        assert gaps.min() > 0.01


def test_an_orbit_scores_from_several_distances():
    scene = ball()
    rig, frame = rig_of(scene, kind="orbit"), Frame.of(scene)
    distances = np.linalg.norm(rig.scoring.positions - frame.centre, axis=1) / frame.radius
    assert distances.min() < 0.7 * distances.max()
    close = np.linalg.norm(rig.close.positions - frame.centre, axis=1) / frame.radius
    test = np.linalg.norm(rig.test.positions - frame.centre, axis=1) / frame.radius
    assert close.max() < 0.6 * test.min()


def test_up_is_up_in_the_image():
    rng = np.random.default_rng(0)
    means = np.concatenate([rng.normal(size=(300, 3)) * 0.3, rng.normal(size=(60, 3)) * 0.05 + [0, 0, 1.5]])
    scene = scene_of(means, np.full(means.shape, 0.08), rng)
    scene.logits[:] = 3
    cameras = rig_of(scene, kind="orbit", up="z").test
    homogeneous = np.append(np.array([0, 0, 1.5]), 1).astype(np.float32)
    tip, centre = (cameras.viewmats @ p for p in (homogeneous, np.append(Frame.of(scene).centre, 1)))
    assert (tip[:, 1] < centre[:, 1]).all()  # y points down


def test_a_room_is_seen_from_inside():
    scene = room()
    rig = rig_of(scene)
    for cameras in parts(rig).values():
        assert (np.abs(cameras.positions) < 2).all()
    assert float(np.linalg.norm(rig.scoring.positions - rig.scoring.positions[0], axis=1).max()) > 1


def test_the_protocol_rig_is_that_of_the_tables():
    scene = ball()
    rig, frame = protocol_rig(scene), Frame.of(scene)
    assert (len(rig.scoring), len(rig.test), len(rig.close)) == (24, 12, 8)
    assert (rig.scoring.width, rig.scoring.height) == (400, 400)
    assert np.allclose(rig.scoring.Ks[:, 0, 0], 200 / np.tan(np.radians(22.5)))

    def pose(cameras):
        offsets = cameras.positions - frame.centre
        distances = np.linalg.norm(offsets, axis=1)
        return np.degrees(np.arcsin(offsets @ frame.up / distances)), distances / frame.radius

    elevations, distances = pose(rig.scoring)
    assert np.allclose(distances, distances[0], rtol=1e-4)
    for middle, ring_of in zip((2, 25, 52), np.split(elevations, 3), strict=True):
        assert np.abs(ring_of - middle).max() <= 4 + 1e-3
    elevations, nearness = pose(rig.test)
    assert np.abs(elevations - np.repeat([12, 38], 6)).max() <= 6 + 1e-3
    assert 0.85 - 1e-4 <= nearness.min() / distances[0] and nearness.max() / distances[0] <= 1.10 + 1e-4
    assert np.allclose(pose(rig.close)[1], 0.45 * distances[0], rtol=1e-4)


def test_strays_do_not_move_the_frame():
    scene = ball(2000)
    astray = dataclasses.replace(scene, means=scene.means.copy())
    astray.means[:8] += 1000
    assert np.allclose(Frame.of(astray).centre, Frame.of(scene).centre, atol=0.05)
    assert abs(Frame.of(astray).radius / Frame.of(scene).radius - 1) < 0.05


def test_a_single_splat_can_be_framed():
    rig = rig_of(ball(1), views=4, size=32)
    assert np.isfinite(rig.scoring.viewmats).all()
    require_visible(ball(1), rig.scoring)


def test_given_cameras_are_thinned_and_some_are_held_out():
    many = ring(40, size=100)
    wide = Cameras(many.viewmats[:5], many.Ks[:5] * np.float32(4), 640, 480)
    wide.Ks[:, 2, 2] = 1
    rig = rig_from_cameras([many, wide], views=10, most_pixels=50 * 50)
    assert rig.kind == "given" and (rig.scoring.width, rig.scoring.height) == (50, 50)
    assert len(rig.scoring) == 10 and 4 <= len(rig.test) <= 12
    scored = {v.tobytes() for v in rig.scoring.viewmats}
    assert not scored & {v.tobytes() for v in rig.test.viewmats}
    assert np.allclose(rig.scoring.Ks[0, 0, 0], many.Ks[0, 0, 0] / 2)
    assert np.allclose(rig.close.Ks[:, 0, 0], 2 * rig.test.Ks[:, 0, 0])


def test_two_given_cameras_are_enough_and_one_is_not():
    rig = rig_from_cameras([ring(2)])
    assert len(rig.scoring) == len(rig.test) == 1
    with pytest.raises(DataError, match="at least 2"):
        rig_from_cameras([ring(1)])


def test_cameras_that_see_nothing_are_named():
    scene = ball()
    good = ring(3)
    away = look_at(np.array([[0.0, 0, -5]]), np.array([[0.0, 0, -9]]), np.array([0.0, -1, 0]), 48, 45.0)
    mixed = Cameras(np.concatenate([good.viewmats, away.viewmats]), np.concatenate([good.Ks, away.Ks]), 48, 48)
    require_visible(scene, good)
    with pytest.raises(DataError, match=r"1 of 4 cameras see no splat \(number 3\)"):
        require_visible(scene, mixed)


def test_a_room_without_free_space_is_an_error():
    rng = np.random.default_rng(0)
    solid = scene_of(rng.uniform(-1, 1, (40_000, 3)), np.full((40_000, 3), 0.05), rng)
    with pytest.raises(DataError, match="no free space"):
        rig_of(solid, kind="room")


@pytest.mark.parametrize("option", [{"kind": "orbiter"}, {"up": "w"}])
def test_unknown_options_say_what_is_right(option):
    with pytest.raises(ConfigError, match=f"rig.{next(iter(option))}"):
        rig_of(ball(), **option)
