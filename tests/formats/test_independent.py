"""Programs written by others read what is written here, and the other way round: gsply and gaussforge."""

from __future__ import annotations

import numpy as np
import pytest

from gencompress.formats import deviations, frames, read_scene, write_scene
from gencompress.formats.morton import morton_order
from gencompress.formats.scene import SplatScene
from gencompress.formats.splat import cover_order
from tests.formats.synthetic import FIELDS, synthetic

gsply = pytest.importorskip("gsply", reason="gsply has no wheel for this platform")
gaussforge = pytest.importorskip("gaussforge", reason="gaussforge has no wheel for this platform")
FORGE = gaussforge.GaussForge()
RUB = frames.from_axes("RUB")


def of_gsply(data) -> SplatScene:
    data = data.make_contiguous()
    rest = np.empty((len(data.means), 0, 3), np.float32) if data.shN is None else data.shN
    return SplatScene(data.means, data.quats, data.scales, np.asarray(data.opacities).reshape(-1), data.sh0, rest)


def of_gaussforge(path, kind) -> SplatScene:
    """Its reading of a file, by way of the .ply it turns that into (its arrays fail where there are no harmonics)."""
    answer = FORGE.convert(path.read_bytes(), kind, "ply")
    assert "error" not in answer, answer
    plain = path.with_name("by_gaussforge.ply")
    plain.write_bytes(answer["data"])
    return of_gsply(gsply.plyread(plain))


def assert_same(ours: SplatScene, theirs: SplatScene, opacity: float = 1e-6) -> None:
    lost = deviations(ours, theirs)
    assert lost["position"].largest < 1e-6 and lost["rotation"].largest < 0.02
    assert lost["scale"].largest < 1e-4 and lost["opacity"].largest < opacity and lost["colour"].largest < 1e-5
    assert theirs.sh_degree == ours.sh_degree
    if ours.sh_degree:
        assert lost["harmonics"].largest < 1e-6


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
@pytest.mark.parametrize("kind", ["ply", "compressed.ply"])
def test_ply_by_both(tmp_path, kind, degree):
    path = tmp_path / f"a.{kind}"
    write_scene(path, synthetic(700, degree))
    ours = read_scene(path)
    assert_same(ours, of_gsply(gsply.plyread(path)), opacity=1.1e-3)  # which reads a byte of 255 as something else
    assert_same(ours, of_gaussforge(path, kind), opacity=1.1e-3)


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
@pytest.mark.parametrize("version", [3, 4])
def test_spz_by_both(tmp_path, version, degree):
    """They hand over the stored frame; the format's is right, up, back."""
    path = tmp_path / "a.spz"
    write_scene(path, synthetic(700, degree), version=version)
    stored = frames.turn(read_scene(path), RUB.T)
    assert_same(stored, of_gsply(gsply.read_spz(path)), opacity=1.1e-3)
    assert_same(stored, of_gaussforge(path, "spz"), opacity=1.1e-3)


@pytest.mark.parametrize("version", [2, 3, 4])
def test_spz_of_gaussforge_is_read(tmp_path, version):
    scene = synthetic(500, 3)
    write_scene(tmp_path / "a.ply", frames.turn(scene, RUB.T))
    written = FORGE.convert((tmp_path / "a.ply").read_bytes(), "ply", "spz", spz_version=version)
    (tmp_path / "b.spz").write_bytes(written["data"])
    back = read_scene(tmp_path / "b.spz")
    stored = frames.turn(back, RUB.T)
    assert_same(stored, of_gaussforge(tmp_path / "b.spz", "spz"), opacity=1.1e-3)
    assert deviations(scene, back)["position"].largest < 1e-4


def test_spz_of_gsply_is_read(tmp_path):
    scene = synthetic(500, 3)
    stored = frames.turn(scene, RUB.T)
    data = gsply.GSData(means=stored.means, scales=stored.log_scales, quats=stored.quats, opacities=stored.logits,
                        sh0=stored.sh0, shN=stored.sh_rest)  # fmt: skip
    gsply.write_spz(tmp_path / "a.spz", data)
    stored = of_gsply(gsply.read_spz(tmp_path / "a.spz"))
    assert_same(frames.turn(read_scene(tmp_path / "a.spz"), RUB.T), stored, opacity=1.1e-3)


def test_ply_of_gsply_is_read_bit_by_bit(tmp_path):
    scene = synthetic(500, 3)
    data = gsply.GSData(means=scene.means, scales=scene.log_scales, quats=scene.quats, opacities=scene.logits,
                        sh0=scene.sh0, shN=scene.sh_rest)  # fmt: skip
    gsply.plywrite(tmp_path / "a.ply", data)
    back = read_scene(tmp_path / "a.ply")
    for name in FIELDS:
        np.testing.assert_array_equal(getattr(back, name), getattr(scene, name), err_msg=name)


def test_compressed_ply_of_gsply_is_read(tmp_path):
    scene = synthetic(500, 2)
    data = gsply.GSData(means=scene.means, scales=scene.log_scales, quats=scene.quats, opacities=scene.logits,
                        sh0=scene.sh0, shN=scene.sh_rest)  # fmt: skip
    gsply.plywrite(tmp_path / "a.compressed.ply", data, compressed=True)
    (path,) = tmp_path.iterdir()
    assert_same(read_scene(path), of_gsply(gsply.plyread(path)), opacity=1.1e-3)


def test_splat_by_gaussforge(tmp_path):
    write_scene(tmp_path / "a.splat", synthetic(700, 0))
    assert_same(read_scene(tmp_path / "a.splat"), of_gaussforge(tmp_path / "a.splat", "splat"), opacity=1.1e-3)


def test_splat_of_gaussforge_has_the_same_bytes_but_for_rounding(tmp_path):
    scene = synthetic(500, 0)
    scene = scene.take(cover_order(scene))
    write_scene(tmp_path / "a.ply", scene)
    write_scene(tmp_path / "a.splat", scene)
    ours = np.frombuffer((tmp_path / "a.splat").read_bytes(), np.uint8).reshape(-1, 32)
    written = FORGE.convert((tmp_path / "a.ply").read_bytes(), "ply", "splat")["data"]
    theirs = np.frombuffer(written, np.uint8).reshape(-1, 32)
    np.testing.assert_array_equal(ours[:, :12], theirs[:, :12])
    np.testing.assert_allclose(ours[:, 12:24].copy().view("<f4"), theirs[:, 12:24].copy().view("<f4"), rtol=1e-5)
    assert np.abs(ours[:, 24:].astype(int) - theirs[:, 24:].astype(int)).max() <= 1


def test_morton_order_of_both_writers_covers_every_splat(tmp_path):
    scene = synthetic(600, 0)
    write_scene(tmp_path / "a.compressed.ply", scene)
    back = of_gsply(gsply.plyread(tmp_path / "a.compressed.ply"))
    assert deviations(scene.take(morton_order(scene.means)), back)["position"].largest < 0.01
