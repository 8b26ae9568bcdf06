"""What each format loses is bounded by the width of its own fields, derived here from the layout and not from a run."""

from __future__ import annotations

import gzip
import struct

import numpy as np
import pytest

from gencompress.errors import FormatError
from gencompress.formats import deviations, read_scene, write_scene
from gencompress.formats.morton import morton_order
from gencompress.formats.splat import cover_order
from tests.formats.synthetic import synthetic

HALF_BYTE = 0.5 / 255
FLOAT = 1e-6  # of arithmetic in single precision


def round_trip(tmp_path, scene, ending, order, **options):
    scene = scene.take(order(scene)) if order else scene
    write_scene(tmp_path / f"a{ending}", scene, **options)
    return scene, read_scene(tmp_path / f"a{ending}")


def by_morton(scene):
    return morton_order(scene.means)


def rotation_bound(step: float, components: int = 3) -> float:
    """Degrees by which a quaternion can turn when `components` of it are off by half a `step`.

    The largest component follows from the others and is at least 1/2, so it is off by no more than sqrt(3) times as
    much as they are together.
    """
    off = step / 2 * components**0.5
    return np.degrees(2 * np.arcsin((off**2 + 3 * off**2) ** 0.5)) * 1.01


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_compressed_ply(tmp_path, degree):
    scene, back = round_trip(tmp_path, synthetic(1000, degree), ".compressed.ply", by_morton)
    for i in range(0, 1000, 256):
        part = slice(i, i + 256)
        for name, bits in (("means", (11, 10, 11)), ("log_scales", (11, 10, 11)), ("sh0", (8, 8, 8))):
            values, read = getattr(scene, name)[part], getattr(back, name)[part]
            extent = values.max(0) - values.min(0)
            assert (np.abs(read - values) <= extent * 0.5 / (2.0 ** np.array(bits) - 1) + 4e-6).all(), name
    lost = deviations(scene, back)
    assert lost["opacity"].largest <= HALF_BYTE + FLOAT
    assert lost["rotation"].largest <= rotation_bound(2**0.5 / 1023)
    if degree:
        assert lost["harmonics"].largest <= 8 / 512 + FLOAT
    head = (tmp_path / "a.compressed.ply").read_bytes().index(b"end_header\n") + 11
    size = (tmp_path / "a.compressed.ply").stat().st_size - head
    assert size == 4 * 72 + 1000 * (16 + 3 * ((degree + 1) ** 2 - 1))


def test_a_flat_splat_does_not_coarsen_its_chunk(tmp_path):
    scene = synthetic(256, 0)
    scene.log_scales[5] = -80
    scene, back = round_trip(tmp_path, scene, ".compressed.ply", by_morton)
    thick = scene.log_scales[:, 0] > -20
    extent = scene.log_scales[thick].max() + 20
    assert np.abs(back.log_scales - scene.log_scales)[thick].max() <= extent / 2046 + 1e-5


@pytest.mark.parametrize("version", [3, 4])
@pytest.mark.parametrize("degree", range(5))
def test_spz(tmp_path, version, degree):
    scene, back = round_trip(tmp_path, synthetic(1000, degree), ".spz", by_morton, version=version)
    inside = (np.abs(scene.log_scales + 2) <= 8) & (scene.log_scales < 5.9)
    assert np.abs(back.means - scene.means).max() <= 0.5 / 4096 + FLOAT
    assert np.abs(back.log_scales - scene.log_scales)[inside].max() <= 0.5 / 16 + FLOAT
    lost = deviations(scene, back)
    assert lost["opacity"].largest <= HALF_BYTE + FLOAT
    assert np.abs(back.sh0 - scene.sh0)[np.abs(scene.sh0) < 3.3].max() <= 0.5 / (255 * 0.15) + FLOAT
    assert lost["rotation"].largest <= rotation_bound(2**-0.5 / 511)
    first, rest = np.abs(back.sh_rest - scene.sh_rest)[:, :3], np.abs(back.sh_rest - scene.sh_rest)[:, 3:]
    assert first.max(initial=0) <= 4.5 / 128 + FLOAT and rest.max(initial=0) <= 8.5 / 128 + FLOAT


def test_spz_takes_finer_steps_for_a_tiny_scene_and_coarser_ones_for_a_vast_scene(tmp_path):
    for size in (1e-3, 1e5):
        scene = synthetic(500, 0)
        scene.means[:] *= size
        scene.log_scales[:] = np.clip(scene.log_scales + np.log(size), -9.9, 5.9)
        scene, back = round_trip(tmp_path, scene, ".spz", by_morton)
        assert deviations(scene, back)["position"].largest < 1e-4


def test_spz_of_version_2_has_a_real_part_from_three_bytes(tmp_path):
    quats = np.array([[0.5, 0.5, -0.5, 0.5], [-1, 0, 0, 0]], np.float32)
    xyz = np.rint(quats[:, 1:] * [1, -1, -1] * 127.5 + 127.5).astype(np.uint8)  # stored in RUB
    head = struct.pack("<4sIIBBBB", b"NGSP", 2, 2, 0, 12, 0, 0)
    body = bytes(18) + b"\x80\x80" + bytes(12) + xyz.tobytes()
    (tmp_path / "a.spz").write_bytes(gzip.compress(head + body))
    back = read_scene(tmp_path / "a.spz")
    turned = np.degrees(2 * np.arccos(np.minimum(np.abs((back.quats * quats).sum(1, dtype=np.float64)), 1)))
    assert turned.max() <= rotation_bound(1 / 127.5)


@pytest.mark.parametrize("axes", ["RUB", "RDF", "LUF", "RFU", "LBD"])
def test_spz_in_other_axes_is_brought_to_those_of_the_ply(tmp_path, axes):
    _, plain = round_trip(tmp_path, synthetic(200, 0), ".spz", by_morton, version=4)
    names = "LDB RDB LUB RUB LDF RDF LUF RUF LFD RFD LFU RFU LBD RBD LBU RBU".split()
    record = struct.pack("<III", 0xADBE0003, 4, 1 + names.index(axes))
    other = struct.pack("<II8x", 0xADBE0002, 8)
    data = (tmp_path / "a.spz").read_bytes()
    head = bytearray(data[:32])
    head[14] |= 2
    head[16:20] = struct.pack("<I", 32 + len(other) + len(record))
    (tmp_path / "b.spz").write_bytes(bytes(head) + other + record + data[32:])
    turned = read_scene(tmp_path / "b.spz")
    stored = plain.means * [1, -1, -1]  # RUB, as written
    letter = {"R": (0, 1), "L": (0, -1), "D": (1, 1), "U": (1, -1), "F": (2, 1), "B": (2, -1)}
    expected = np.empty_like(stored)
    for column, (axis, sign) in enumerate(letter[a] for a in axes):
        expected[:, axis] = sign * stored[:, column]
    np.testing.assert_allclose(turned.means, expected, atol=1e-6)


def test_splat(tmp_path):
    scene, back = round_trip(tmp_path, synthetic(1000, 2), ".splat", cover_order)
    np.testing.assert_array_equal(back.means, scene.means)
    lost = deviations(scene, back)
    assert lost["scale"].largest <= 1e-5
    assert lost["opacity"].largest <= HALF_BYTE + FLOAT
    shown = np.abs(scene.sh0 * 0.28209479) <= 0.5
    assert np.abs(back.sh0 - scene.sh0)[shown].max() * 0.28209479 <= HALF_BYTE + FLOAT
    assert lost["rotation"].largest <= rotation_bound(1 / 128, 4) + np.degrees(2 / 128)  # and 1 is stored as 127/128
    assert back.sh_degree == 0 and lost["harmonics"].largest == np.abs(scene.sh_rest).max()
    solid = scene.opacities > 0.1
    cover = (back.log_scales.sum(1) + np.log(back.opacities))[solid]
    assert (np.diff(cover) < np.log((0.1 + HALF_BYTE) / (0.1 - HALF_BYTE))).all()  # the greatest come first


@pytest.mark.parametrize("degree", range(4))
def test_glb_keeps_everything_to_rounding(tmp_path, degree):
    scene, back = round_trip(tmp_path, synthetic(1000, degree, antialiased=True), ".glb", None)
    np.testing.assert_array_equal(back.means, scene.means)
    np.testing.assert_array_equal(back.sh_rest, scene.sh_rest)
    np.testing.assert_array_equal(back.sh0, scene.sh0)
    lost = deviations(scene, back)
    assert lost["scale"].largest < 1e-5 and lost["rotation"].largest < 1e-3 and lost["opacity"].largest < 1e-6
    assert back.antialiased


@pytest.mark.parametrize("ending", [".compressed.ply", ".spz", ".splat", ".glb"])
def test_writing_again_what_was_read_changes_little_or_nothing(tmp_path, ending):
    """Values that lie on the grid of the format stay there, so that repeated conversions do not drift."""
    write_scene(tmp_path / f"a{ending}", synthetic(600, 1))
    once = read_scene(tmp_path / f"a{ending}")
    write_scene(tmp_path / f"b{ending}", once)
    twice = read_scene(tmp_path / f"b{ending}")
    for name in ("logits", "log_scales", "sh0"):
        a, b = np.sort(getattr(once, name), axis=0), np.sort(getattr(twice, name), axis=0)
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=2e-3, err_msg=name)


@pytest.mark.parametrize("ending", [".compressed.ply", ".spz", ".splat", ".glb"])
@pytest.mark.parametrize("field", ["means", "quats", "log_scales", "logits", "sh0"])
def test_what_is_not_finite_is_refused_where_there_are_no_bits_for_it(tmp_path, ending, field):
    scene = synthetic(10, 0)
    getattr(scene, field)[3] = np.nan
    with pytest.raises(FormatError, match=r"1 splats are not finite.*only \.ply"):
        write_scene(tmp_path / f"a{ending}", scene)
    assert not any(tmp_path.iterdir())


def test_degrees_above_those_of_a_format_are_left_out(tmp_path):
    for ending, degree in ((".compressed.ply", 3), (".glb", 3), (".splat", 0)):
        write_scene(tmp_path / f"a{ending}", synthetic(20, 4))
        assert read_scene(tmp_path / f"a{ending}").sh_degree == degree


@pytest.mark.parametrize("ending", [".ply", ".compressed.ply", ".spz", ".splat", ".glb"])
def test_one_splat_is_a_scene(tmp_path, ending):
    scene, back = round_trip(tmp_path, synthetic(1, 1), ending, None)
    assert len(back) == 1
    np.testing.assert_allclose(back.means, scene.means, atol=2e-4)
