"""The .gcnerf file: what was written comes back bit for bit, and renders the same."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from gencompress.domains.hashgrid import FieldSettings, HashField, Scene, load_scene, render_image, save_scene
from gencompress.errors import FormatError, RunError
from gencompress.formats.gcnerf import read_gcnerf, write_gcnerf
from gencompress.kernels.occupancy import OccGridEstimator
from tests.domains.hashgrid.ball import SMALL, ball

BACK = (0.25, 0.5, 1.0)


def scene_of(settings: FieldSettings = SMALL) -> Scene:
    """Random weights, far from those of a new field, and a random grid."""
    dice = torch.Generator().manual_seed(3)
    field = HashField(settings, seed=5)
    with torch.no_grad():
        for parameter in field.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=dice))
        field.alpha.fill_(1234.5)
    grid = OccGridEstimator(field.aabb, 9)
    grid.binaries.copy_(torch.rand(grid.binaries.shape, generator=dice) < 0.6)
    grid.occs.copy_(grid.binaries.flatten() * 0.7)
    return Scene(field, grid, 50, BACK)


@pytest.mark.parametrize("saliency", [16, 0])
def test_a_scene_comes_back_bit_for_bit_and_renders_the_same(tmp_path, saliency):
    scene = scene_of(replace(SMALL, saliency=saliency))
    sizes = save_scene(tmp_path / "a.gcnerf", scene)
    assert sum(sizes.values()) == (tmp_path / "a.gcnerf").stat().st_size
    found = load_scene(tmp_path / "a.gcnerf")
    for name, value in scene.field.state_dict().items():
        assert torch.equal(found.field.state_dict()[name], value), name
    assert torch.equal(found.grid.binaries, scene.grid.binaries)
    assert (found.samples, found.background, found.field.settings) == (50, BACK, scene.field.settings)
    camera = ball(1).camera(0)
    assert torch.equal(render_image(found, camera, 0), render_image(scene, camera, 0))
    assert found.step == scene.step


def test_writing_what_was_read_gives_the_same_bytes(tmp_path):
    save_scene(tmp_path / "a.gcnerf", scene_of())
    write_gcnerf(tmp_path / "b.gcnerf", read_gcnerf(tmp_path / "a.gcnerf"))
    assert (tmp_path / "a.gcnerf").read_bytes() == (tmp_path / "b.gcnerf").read_bytes()


def test_levels_are_those_of_the_file_not_of_a_formula(tmp_path):
    """Resolutions that another machine's rounding might have given."""
    save_scene(tmp_path / "a.gcnerf", scene_of())
    file = read_gcnerf(tmp_path / "a.gcnerf")
    layout = replace(file.layout, resolutions=(4, 7, 11, 19, 32))
    assert layout.entries > file.layout.entries
    write_gcnerf(tmp_path / "b.gcnerf", replace(file, layout=layout, table=np.resize(file.table, (layout.entries, 2))))
    found = load_scene(tmp_path / "b.gcnerf")
    assert found.field.layout == layout and render_image(found, ball(1).camera(0), 0).isfinite().all()


@pytest.mark.parametrize("name", ["table", "logits", "density_net.0.weight"])
def test_scenes_with_nan_are_not_written(tmp_path, name):
    scene = scene_of()
    with torch.no_grad():
        dict(scene.field.named_parameters())[name].view(-1)[3] = float("nan")
    with pytest.raises(FormatError, match="holds NaN or infinity"):
        save_scene(tmp_path / "a.gcnerf", scene)
    assert not list(tmp_path.iterdir())


def test_an_old_file_stays_until_the_new_one_is_whole(tmp_path, monkeypatch):
    path = tmp_path / "a.gcnerf"
    save_scene(path, scene_of())
    before = path.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("gencompress.run.atomic._fsync", full)
    with pytest.raises(RunError, match="the disk is full"):
        save_scene(path, scene_of(replace(SMALL, saliency=0)))
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["a.gcnerf"]


def test_networks_that_the_field_has_not_are_refused(tmp_path):
    save_scene(tmp_path / "a.gcnerf", scene_of())
    file = read_gcnerf(tmp_path / "a.gcnerf")
    thin = (file.density_net[0][:32], file.density_net[1][:, :32])
    write_gcnerf(tmp_path / "b.gcnerf", replace(file, density_net=thin))
    with pytest.raises(FormatError, match=r"density_net has weights \[\(32, 10\), \(16, 32\)\]"):
        load_scene(tmp_path / "b.gcnerf")
