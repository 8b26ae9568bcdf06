"""Rays of cameras by hand, and renders of fields whose light can be written down."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from gencompress.domains.hashgrid import HashField, Scene, render_image, render_rays
from gencompress.domains.hashgrid.render import camera_rays
from gencompress.errors import ConfigError, NumericsError
from gencompress.formats.cameras import Cameras
from gencompress.kernels.occupancy import OccGridEstimator
from tests.domains.hashgrid.ball import SMALL, ball

BACK = (0.2, 0.4, 0.6)


class Fog(HashField):
    """The same density and colour everywhere."""

    def density(self, points):
        return torch.full((len(points),), 0.7), points.new_zeros(len(points), 15)

    def color(self, features, harmonics):
        return torch.tensor([[0.9, 0.5, 0.1]]).expand(len(features), 3)


def scene_of(field: HashField, samples: int = 200) -> Scene:
    grid = OccGridEstimator(field.aabb, 4)
    grid.binaries.fill_(True)
    grid.occs.fill_(1.0)
    return Scene(field, grid, samples, BACK)


def test_rays_go_through_the_middle_of_pixels():
    K = np.array([[[10, 0, 2], [0, 20, 1], [0, 0, 1]]], np.float32)
    viewmat = np.eye(4, dtype=np.float32)[None]
    viewmat[0, :3, 3] = (1, 2, 3)
    origins, directions = camera_rays(Cameras(viewmat, K, 4, 2), 0)
    assert torch.equal(origins, torch.tensor([[-1.0, -2, -3]]).expand(8, 3))
    expected = torch.tensor([[-0.15, -0.025, 1], [-0.05, -0.025, 1], [0.05, -0.025, 1], [0.15, -0.025, 1]])
    torch.testing.assert_close(directions[:4], torch.nn.functional.normalize(expected, dim=1))
    assert float(directions[4, 1]) > 0


def test_cameras_see_points_where_their_rays_go():
    views = ball(5)
    for i in range(5):
        camera = views.camera(i)
        origins, directions = camera_rays(camera, 0)
        at = origins + 2.5 * directions
        seen = at @ views.viewmats[i, :3, :3].T + views.viewmats[i, :3, 3]
        pixels = (seen / seen[:, 2:]) @ views.Ks[i].T
        torch.testing.assert_close(pixels[25, :2], torch.tensor([1.5, 1.5]), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(origins[0].numpy(), camera.positions[0], rtol=1e-5, atol=1e-5)


def test_fog_fades_with_the_way_through_the_box():
    scene = scene_of(Fog(SMALL), samples=1000)
    origins = torch.tensor([[-3.0, 0.1, 0.2], [0.0, 0.0, 0.0], [-3.0, 3.0, 0.0]])
    found = render_rays(scene, origins, torch.tensor([[1.0, 0, 0]]).expand(3, 3))
    ways = (2.0, 1.0, 0.0)
    for i, way in enumerate(ways):
        opacity = 1 - math.exp(-0.7 * way)
        assert float(found.opacity[i]) == pytest.approx(opacity, abs=2e-3)
        color = [opacity * c + (1 - opacity) * b for c, b in zip((0.9, 0.5, 0.1), BACK, strict=True)]
        assert found.color[i].tolist() == pytest.approx(color, abs=2e-3)
    assert 2 < float(found.depth[0] / found.opacity[0]) < 3


def test_rays_that_meet_nothing_see_the_background_and_train_nothing():
    field = HashField(SMALL)
    directions = torch.tensor([[0.0, 0, 1]]).expand(4, 3)
    for origins in (torch.full((4, 3), 7.0), torch.zeros(4, 3)):
        scene = scene_of(field)
        if not origins.any():
            scene.grid.binaries.fill_(False)
        found = render_rays(scene, origins, directions)
        assert found.samples == 0 and not found.opacity.any()
        assert torch.equal(found.color, torch.tensor(BACK).expand(4, 3))
        found.color.sum().backward()
        assert not field.table.grad.any()
    assert render_rays(scene_of(field), torch.zeros(0, 3), torch.zeros(0, 3)).color.shape == (0, 3)


def test_the_gradient_is_the_slope_of_the_loss():
    field = HashField(SMALL)
    with torch.no_grad():
        field.table.mul_(1000)
        field.alpha.fill_(5.0)  # neither open nor closed
    scene = scene_of(field, samples=40)
    origins, directions = (t[::7] for t in camera_rays(ball(1).camera(0), 0))

    def loss() -> torch.Tensor:
        found = render_rays(scene, origins, directions)
        return found.color.double().square().sum() + found.depth.double().sum()

    loss().backward()
    for parameter in (field.table, field.logits, field.color_net[0].weight):
        direction = parameter.grad.clone()
        step = 0.01 / float(direction.norm())
        values = []
        with torch.no_grad():
            for sign in (1, -1):
                parameter.add_(sign * step * direction)
                values.append(float(loss()))
                parameter.sub_(sign * step * direction)
        assert (values[0] - values[1]) / (2 * step) == pytest.approx(float(direction.square().sum()), rel=3e-2)


def test_images_are_rays_row_by_row():
    scene, camera = scene_of(HashField(SMALL), samples=40), ball(1, 80).camera(0)
    image = render_image(scene, camera, 0)
    origins, directions = camera_rays(camera, 0)
    assert image.shape == (80, 80, 3)
    torch.testing.assert_close(image[5, 7], render_rays(scene, origins[407:408], directions[407:408]).color[0])


def test_bad_scenes_and_rays_are_refused():
    scene = scene_of(HashField(SMALL))
    with pytest.raises(ConfigError, match="samples=0 must be"):
        replace(scene, samples=0)
    with pytest.raises(ConfigError, match="background="):
        replace(scene, background=(0.0, 0.0, 2.0))
    with pytest.raises(NumericsError, match="rays_o holds NaN or infinity"):
        render_rays(scene, torch.full((2, 3), math.nan), torch.ones(2, 3))
