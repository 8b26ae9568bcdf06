"""Trained scenes as other programs wrote them; the same scene in two formats is the same scene."""

from __future__ import annotations

import numpy as np
import pytest

from gencompress.formats import deviations, read_scene, write_scene
from gencompress.formats.morton import morton_order

FOLDER = "data/3d/splat-playcanvas"


@pytest.mark.parametrize(("name", "count"), [("biker", 152_746), ("guitar", 90_854)])
def test_compressed_ply_of_supersplat(shared, name, count):
    scene = read_scene(shared / FOLDER / f"{name}.compressed.ply")
    assert (len(scene), scene.sh_degree) == (count, 0)
    np.testing.assert_allclose(np.linalg.norm(scene.quats, axis=1), 1, atol=1e-6)
    assert all(np.isfinite(getattr(scene, field)).all() for field in ("means", "log_scales", "logits", "sh0"))
    assert 2 < np.ptp(scene.means[:, 1]) < 5 and -20 < scene.log_scales.min() and scene.log_scales.max() < 0


def test_the_biker_is_the_same_in_both_formats(shared):
    """Two quantisations of one scene, in two frames: they differ by no more than the steps of both."""
    ply = read_scene(shared / FOLDER / "biker.compressed.ply")
    spz = read_scene(shared / FOLDER / "biker.spz")
    assert np.abs(ply.means - spz.means).max() < 0.51 / 4096
    assert np.abs(ply.opacities - spz.opacities).max() < 1e-6
    lost = deviations(ply, spz)
    assert lost["rotation"].largest < 0.2 and lost["colour"].largest < 0.004
    above = ply.log_scales > -10  # below it .spz has no steps
    assert np.abs(ply.log_scales - spz.log_scales)[above].max() < 0.51 / 16


@pytest.mark.parametrize("ending", [".ply", ".compressed.ply", ".spz", ".glb"])
def test_round_trips_of_the_guitar(shared, tmp_path, ending):
    scene = read_scene(shared / FOLDER / "guitar.compressed.ply")
    scene = scene.take(morton_order(scene.means))
    write_scene(tmp_path / f"a{ending}", scene)
    lost = deviations(scene, read_scene(tmp_path / f"a{ending}"))
    assert lost["position"].largest < 2e-4 and lost["rotation"].largest < 0.2
    assert lost["opacity"].largest < 0.51 / 255 and lost["colour"].rms < 0.01
