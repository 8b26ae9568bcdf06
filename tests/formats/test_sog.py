"""SOG: what is written is read back within its steps, by this package and by others; old files too."""

from __future__ import annotations

import builtins
import errno
import json
import zipfile
from dataclasses import replace

import numpy as np
import pytest

from gencompress.errors import FormatError, RunError
from gencompress.formats import activations, deviations, quaternions, read_scene, sog_palette, write_scene
from gencompress.formats import sog_encode as encoding
from gencompress.formats.kmeans import kmeans
from gencompress.formats.morton import morton_order
from gencompress.formats.prominence import prominence
from gencompress.formats.scene import SplatScene
from gencompress.formats.sog import write_sog
from tests.formats.synthetic import assert_equal, synthetic
from tests.hostile import corpus_sog

OLD = "data/3d/splat-playcanvas-logo"


def as_written(scene: SplatScene) -> SplatScene:
    """The scene in the order of the file."""
    means = scene.means.astype(np.float64)
    return scene.take(morton_order(np.sign(means) * np.log1p(np.abs(means))))


def round_trip(folder, scene: SplatScene, name: str = "a.sog") -> tuple[SplatScene, SplatScene]:
    write_scene(folder / name, scene)
    return as_written(scene), read_scene(folder / name)


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_attributes_are_kept_within_their_steps(tmp_path, degree):
    before, after = round_trip(tmp_path, synthetic(4000, degree))
    weights = prominence(before)
    lost = deviations(before, after)
    assert after.sh_degree == degree
    assert lost["opacity"].largest < 0.501 / 255
    # half a step in each of three components, and the real part, at least cos(62.8 / 2 degrees), follows from them
    half_step = encoding.TURN / 255 / 2**0.5
    assert lost["rotation"].largest < np.degrees(2 * np.arcsin(3**0.5 * half_step / np.cos(np.radians(31.4))))
    colours = ((after.sh0 - before.sh0) ** 2).mean(1)
    assert np.sqrt(np.average(colours, weights=weights)) < max(encoding.COLOUR * 1.02, 0.006)
    moved = ((after.means - before.means) ** 2).mean(1)
    size = np.exp(np.sort(before.log_scales, axis=1)[:, 1:].sum(1))
    seen = before.opacities / ((before.means - np.median(before.means, 0)) ** 2).sum(1)
    assert np.sqrt((seen * moved).sum() / (seen * size).sum()) < 2 * encoding.POSITION


def test_scales_are_kept_by_what_they_are_seen(tmp_path):
    before, after = round_trip(tmp_path, synthetic(4000, 0))
    lost = deviations(before, after)
    assert lost["scale"].rms < 0.03 and lost["scale"].largest < 0.6


def covariances(scene: SplatScene) -> np.ndarray:
    axes = quaternions.matrices(quaternions.unit(scene.quats)) * scene.scales[:, None].astype(np.float64)
    return axes @ axes.transpose(0, 2, 1)


def test_shapes_are_the_same_though_axes_are_named_anew(tmp_path):
    before, after = round_trip(tmp_path, synthetic(2000, 0))
    first, second = covariances(before), covariances(after)
    size = np.linalg.norm(first, axis=(1, 2))
    error = np.linalg.norm(second - first, axis=(1, 2)) / size
    assert np.median(error) < 0.03 and error.max() < 0.6
    assert np.abs(after.log_scales - before.log_scales).max() > 1  # they are named anew


def test_written_again_it_is_the_same_but_for_one_more_rounding(tmp_path):
    _, first = round_trip(tmp_path, synthetic(3000, 2))
    _, second = round_trip(tmp_path, first, "b.sog")
    lost = deviations(as_written(first), second)
    assert lost["position"].largest < 1e-5 and lost["colour"].largest < 2e-3 and lost["opacity"].largest < 1e-6
    assert lost["rotation"].rms < 0.1 and lost["harmonics"].rms < 0.02


@pytest.mark.parametrize("count", [1, 2, 15, 16, 17, 1023])
def test_every_splat_has_its_own_harmonics(tmp_path, count):
    before, after = round_trip(tmp_path, synthetic(count, 3))
    assert len(after) == count
    lost = deviations(before, after)
    assert lost["harmonics"].rms < 1.02 * sog_palette.HARMONIC and lost["harmonics"].largest < 0.1
    assert lost["scale"].rms < 0.02


def test_more_splats_than_a_palette_has_entries_share_them(tmp_path, monkeypatch):
    """What they lose is what clusters of that number must lose, and the coding of the palette adds little."""
    monkeypatch.setattr(sog_palette, "MAX_PALETTE", 1024)
    before, after = round_trip(tmp_path, synthetic(4000, 1))
    assert len(np.unique(after.sh_rest.reshape(-1, 9), axis=0)) <= 1024
    points = before.sh_rest.reshape(-1, 9)
    clusters = kmeans(points, 1024)
    least = np.sqrt(np.mean((points - clusters.centroids[clusters.labels]) ** 2))
    assert deviations(before, after)["harmonics"].rms < 1.1 * np.hypot(least, sog_palette.HARMONIC)


def test_labels_of_two_bytes(tmp_path):
    scene = synthetic(1, 1).take(np.zeros(66_000, int))
    own = np.arange(66_000) % 65_536
    sh_rest = np.zeros((66_000, 3, 3), np.float32)
    sh_rest[:, 0] = np.stack([own % 64, own // 64 % 64, own // 4096], 1) / 16
    before, after = round_trip(tmp_path, replace(scene, sh_rest=sh_rest))
    assert deviations(before, after)["harmonics"].largest < 0.06


def test_the_same_scene_gives_the_same_bytes(tmp_path):
    scene = synthetic(3000, 1)
    for name in ("a.sog", "b.sog"):
        write_scene(tmp_path / name, scene)
    assert (tmp_path / "a.sog").read_bytes() == (tmp_path / "b.sog").read_bytes()


@pytest.mark.parametrize("target", ["folder/meta.json", "folder"])
def test_a_folder_holds_what_a_bundle_does(tmp_path, target):
    scene = synthetic(2000, 1)
    write_scene(tmp_path / "a.sog", scene)
    write_sog(tmp_path / target, scene)
    with zipfile.ZipFile(tmp_path / "a.sog") as bundle:
        assert {info.compress_type for info in bundle.infolist()} == {zipfile.ZIP_STORED}
        members = {name: bundle.read(name) for name in bundle.namelist()}
    assert members == {path.name: path.read_bytes() for path in (tmp_path / "folder").iterdir()}
    for path in (tmp_path / "folder", tmp_path / "folder" / "meta.json"):
        assert_equal(read_scene(path), read_scene(tmp_path / "a.sog"))


def test_a_deflated_bundle_is_read(tmp_path):
    (tmp_path / "a.sog").write_bytes(corpus_sog.bundle(corpus_sog.files()))
    (tmp_path / "b.sog").write_bytes(corpus_sog.bundle(corpus_sog.files(), zipfile.ZIP_DEFLATED))
    assert_equal(read_scene(tmp_path / "a.sog"), read_scene(tmp_path / "b.sog"))


def test_a_folder_that_is_not_empty_stays_as_it_is(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(RunError, match="already exists"):
        write_sog(tmp_path / "meta.json", synthetic(5, 0))
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize("name", ["a.sog", "folder/meta.json"])
def test_a_full_disk_leaves_what_was_there(tmp_path, monkeypatch, name):
    scene = synthetic(50, 1)
    if name == "a.sog":
        write_scene(tmp_path / name, scene)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    opened = builtins.open

    def full(file, mode="r", *args, **kwargs):
        if "w" in mode and "tmp" in str(file):
            raise OSError(errno.ENOSPC, "No space left on device")
        return opened(file, mode, *args, **kwargs)

    monkeypatch.setattr(builtins, "open", full)
    monkeypatch.setattr("io.open", full)
    with pytest.raises(RunError, match="disk is full"):
        write_scene(tmp_path / name, scene)
    monkeypatch.undo()
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_degree_4_is_left_out_or_refused(tmp_path):
    scene = synthetic(20, 4)
    write_scene(tmp_path / "a.sog", scene)
    assert read_scene(tmp_path / "a.sog").sh_degree == 3
    with pytest.raises(FormatError, match="up to degree 3"):
        write_sog(tmp_path / "b.sog", scene)


def test_the_rasterizer_it_was_trained_for_is_kept(tmp_path):
    for antialiased in (False, True):
        _, after = round_trip(tmp_path, replace(synthetic(20, 0), antialiased=antialiased))
        assert after.antialiased is antialiased


DEGENERATE = {
    "one place": {"means": np.ones((40, 3), np.float32)},
    "a plane": {"means": np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32) * [1, 0, 1]},
    "far away": {"means": np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32) * 1e15},
    "equal scales": {"log_scales": np.full((40, 3), -4, np.float32)},
    "flat": {"log_scales": np.full((40, 3), -4, np.float32) - np.float32([0, 0, 76])},
    "no rotation": {"quats": np.zeros((40, 4), np.float32)},
    "grey": {"sh0": np.zeros((40, 3), np.float32)},
    "invisible": {"logits": np.full(40, -40, np.float32)},
    "opaque": {"logits": np.full(40, 40, np.float32)},
    "no harmonics but zeros": {"sh_rest": np.zeros((40, 8, 3), np.float32)},
}


@pytest.mark.parametrize("name", DEGENERATE)
def test_degenerate_scenes(tmp_path, name):
    changes = {key: np.asarray(value, np.float32) for key, value in DEGENERATE[name].items()}
    before, after = round_trip(tmp_path, synthetic(40, 2, **changes))
    for field in ("means", "quats", "log_scales", "logits", "sh0", "sh_rest"):
        assert np.isfinite(getattr(after, field)).all()
    lost = deviations(before, after)
    assert lost["position"].largest < 1e-3 and lost["opacity"].largest < 0.501 / 255 and lost["scale"].largest < 0.1


def test_a_splat_far_away_costs_the_others_nothing(tmp_path):
    """Positions are steps of a logarithm, and the order is that of the logarithms."""
    scene = synthetic(3000, 0)
    means = scene.means.copy()
    means[0] = 1e6
    before, after = round_trip(tmp_path, replace(scene, means=means))
    near = np.abs(before.means).max(1) < 50
    assert np.abs(after.means - before.means)[near].max() < 0.02
    with zipfile.ZipFile(tmp_path / "a.sog") as bundle:
        alone = sum(info.file_size for info in bundle.infolist())
    write_scene(tmp_path / "b.sog", scene)
    assert alone < 1.1 * (tmp_path / "b.sog").stat().st_size


def test_tables_of_version_1(tmp_path):
    """Every byte divides its range evenly; opacity is stored before the logistic function."""
    pixels = {"scales": (0, 51, 255, 255), "sh0": (0, 255, 51, 204), "quats": (255, 0, 128, 253)}
    images = {name: corpus_sog.webp(4, 4, colour) for name, colour in pixels.items()}
    (tmp_path / "a.sog").write_bytes(corpus_sog.sog(None, corpus_sog.META1, **images))
    scene = read_scene(tmp_path / "a.sog")
    np.testing.assert_allclose(scene.log_scales[0], [-9, -7.2, 0], rtol=1e-6)
    np.testing.assert_allclose(scene.sh0[0], [-1, 1, -0.6], rtol=1e-6)
    np.testing.assert_allclose(scene.logits[0], 3, rtol=1e-6)
    np.testing.assert_allclose(scene.quats[0], [2**-0.5, 0, -(2**-0.5), 0.0028], atol=3e-3)
    np.testing.assert_allclose(scene.sh_rest[0], np.full((3, 3), -1))
    np.testing.assert_allclose(scene.means[0], np.full(3, 1 - np.e), rtol=1e-6)


def test_pixels_of_version_2(tmp_path):
    """A label is two bytes, the low one first; a position two images; the palette has 64 entries in a row."""
    change = corpus_sog.setting("shN", "count", value=128)
    palette = np.zeros((2, 192, 4), np.uint8) + 255
    palette[1, 3 * 3 : 3 * 3 + 3, :3] = np.arange(9).reshape(3, 3)  # entry 67
    images = {
        "shN_centroids": corpus_sog.webp_of(palette),
        "shN_labels": corpus_sog.webp(4, 4, (67, 0, 9, 255)),
        "means_l": corpus_sog.webp(4, 4, (0, 255, 1, 255)),
        "means_u": corpus_sog.webp(4, 4, (0, 255, 0, 255)),
        "sh0": corpus_sog.webp(4, 4, (0, 100, 200, 0)),
    }
    (tmp_path / "a.sog").write_bytes(corpus_sog.sog(change, **images))
    scene = read_scene(tmp_path / "a.sog")
    np.testing.assert_allclose(scene.sh_rest[0], np.float32(corpus_sog.LEVELS)[np.arange(9).reshape(3, 3)])
    low = -1 + 2 / 65535
    np.testing.assert_allclose(scene.means[0], [1 - np.e, np.e - 1, -np.expm1(-low)], rtol=1e-6)
    np.testing.assert_allclose(scene.sh0[0], [-1, 0, 1], atol=1e-7)
    assert activations.to_byte(scene.opacities)[0] == 0


def test_a_codebook_that_begins_with_null_is_continued(tmp_path):
    """An early writer wrote it so; viewers extrapolate."""
    change = corpus_sog.setting("scales", "codebook", value=[None, *corpus_sog.LEVELS[1:]])
    (tmp_path / "a.sog").write_bytes(corpus_sog.sog(change))
    expected = corpus_sog.LEVELS[1] + (corpus_sog.LEVELS[1] - corpus_sog.LEVELS[255]) / 255
    np.testing.assert_allclose(read_scene(tmp_path / "a.sog").log_scales, np.full((2, 3), expected), rtol=1e-6)


def test_version_1_of_playcanvas(shared, tmp_path):
    scene = read_scene(shared / OLD)
    assert (len(scene), scene.sh_degree) == (307_128, 0)
    meta = json.loads((shared / OLD / "meta.json").read_text())
    for axis in range(3):
        low, high = (np.sign(v) * np.expm1(abs(v)) for v in (meta["means"][key][axis] for key in ("mins", "maxs")))
        np.testing.assert_allclose([scene.means[:, axis].min(), scene.means[:, axis].max()], [low, high], atol=1e-4)
        assert meta["scales"]["mins"][axis] <= scene.log_scales[:, axis].min()
    np.testing.assert_allclose(np.linalg.norm(scene.quats, axis=1), 1, atol=1e-2)
    assert 0.5 < scene.opacities.mean() < 0.9
    small = scene.take(slice(0, 60_000))
    before, after = round_trip(tmp_path, small)
    lost = deviations(before, after)
    assert lost["position"].largest < 2e-4 and lost["rotation"].largest < 1.4 and lost["colour"].rms < 0.006
    assert lost["scale"].rms < 0.03 and lost["opacity"].largest < 0.501 / 255


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_gaussforge_reads_it_the_same(tmp_path, degree):
    gaussforge = pytest.importorskip("gaussforge", reason="gaussforge has no wheel for this platform")
    _, ours = round_trip(tmp_path, synthetic(2500, degree))
    answer = gaussforge.GaussForge().convert((tmp_path / "a.sog").read_bytes(), "sog", "ply")
    assert "error" not in answer, answer
    (tmp_path / "a.ply").write_bytes(answer["data"])
    lost = deviations(ours, read_scene(tmp_path / "a.ply"))
    assert lost["position"].largest < 1e-6 and lost["rotation"].largest < 1e-3 and lost["scale"].largest == 0
    assert lost["opacity"].largest < 1e-3 and lost["colour"].largest == 0  # 0 and 1 become finite logits elsewhere
    if degree:
        assert lost["harmonics"].largest == 0
