from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from gencompress.errors import FormatError
from gencompress.formats import SplatScene, ply, read_scene, write_scene
from gencompress.formats.ply_header import read_header
from tests.formats.synthetic import assert_equal, synthetic

NAMES = ["x", "y", "z", "f_dc_0", "f_dc_1", "f_dc_2", "opacity", *(f"scale_{i}" for i in range(3)),
         *(f"rot_{i}" for i in range(4))]  # fmt: skip


def foreign_ply(path, columns, order="<", kind="binary_little_endian", before=b""):
    """A .ply of named columns (name, PLY type, values) in this order, as another program might write it."""
    codes = {"float": "f4", "double": "f8", "uchar": "u1", "short": "i2", "int": "i4"}
    rows = np.empty(len(columns[0][2]), [(name, order + codes[kind_]) for name, kind_, _ in columns])
    for name, _, values in columns:
        rows[name] = values
    lines = ["ply", f"format {kind} 1.0", "comment by a test", f"element vertex {len(rows)}"]
    lines += [f"property {kind_} {name}" for name, kind_, _ in columns]
    body = rows.tobytes()
    if kind == "ascii":
        body = "\n".join(" ".join(repr(float(value)) for value in row) for row in rows.tolist()).encode() + b"\n"
    path.write_bytes(("\n".join(lines) + "\nend_header\n").encode() + before + body)


def columns_of(scene: SplatScene, kind: str = "float") -> list:
    parts = [scene.means, scene.sh0, scene.logits[:, None], scene.log_scales, scene.quats]
    return [(name, kind, column) for name, column in zip(NAMES, np.concatenate(parts, axis=1).T, strict=True)]


@pytest.mark.parametrize("degree", range(5))
def test_what_is_written_is_read_bit_by_bit(tmp_path, degree):
    scene = synthetic(n=ply.CHUNK + 77, degree=degree)  # more than one chunk, and a rest
    write_scene(tmp_path / "a.ply", scene)
    back = read_scene(tmp_path / "a.ply")
    assert_equal(scene, back)
    assert back.sh_degree == degree


def test_the_harmonics_stand_in_the_file_channel_by_channel(tmp_path):
    scene = synthetic(n=5, degree=2)
    write_scene(tmp_path / "a.ply", scene)
    header = read_header(tmp_path / "a.ply")
    row = np.dtype([(name, "<" + code) for name, code in header.elements[0].columns])
    rows = np.frombuffer((tmp_path / "a.ply").read_bytes()[header.size :], row)
    for channel in range(3):
        for coefficient in range(8):
            stored = rows[f"f_rest_{8 * channel + coefficient}"]
            np.testing.assert_array_equal(stored, scene.sh_rest[:, coefficient, channel])


def test_any_order_type_and_unknown_columns(tmp_path):
    scene = synthetic(n=100, degree=0)
    columns = columns_of(scene, "double")[::-1]
    columns.insert(3, ("label", "short", np.arange(100) - 50))
    columns.append(("nx", "float", np.ones(100)))
    foreign_ply(tmp_path / "a.ply", columns)
    back = read_scene(tmp_path / "a.ply")
    np.testing.assert_array_equal(back.means, scene.means)
    np.testing.assert_array_equal(back.quats, scene.quats)
    assert sorted(back.extra) == ["label", "nx"] and back.extra["label"].dtype == np.int16
    write_scene(tmp_path / "b.ply", back)
    assert_equal(back, read_scene(tmp_path / "b.ply"))


def test_unknown_columns_follow_the_chosen_splats(tmp_path):
    scene = synthetic(n=50, extra={"label": np.arange(50, dtype=np.uint8)})
    write_scene(tmp_path / "a.ply", scene.take(np.arange(0, 50, 7)))
    assert read_scene(tmp_path / "a.ply").extra["label"].tolist() == list(range(0, 50, 7))


def test_normals_of_zero_are_left_out(tmp_path):
    columns = columns_of(synthetic(n=20, degree=0)) + [(name, "float", np.zeros(20)) for name in ("nx", "ny", "nz")]
    foreign_ply(tmp_path / "a.ply", columns)
    assert read_scene(tmp_path / "a.ply").extra == {}


@pytest.mark.parametrize(("kind", "order"), [("binary_big_endian", ">"), ("ascii", "<")])
def test_big_endian_and_text(tmp_path, kind, order):
    scene = synthetic(n=40, degree=0)
    foreign_ply(tmp_path / "a.ply", columns_of(scene), order, kind)
    assert_equal(scene, read_scene(tmp_path / "a.ply"))


def test_an_element_before_the_splats_is_passed_over(tmp_path):
    scene = synthetic(n=10, degree=0)
    foreign_ply(tmp_path / "a.ply", columns_of(scene), before=bytes(3 * 12))
    text = (tmp_path / "a.ply").read_bytes()
    extra = b"element camera 3\nproperty float a\nproperty double b\nelement vertex"
    (tmp_path / "a.ply").write_bytes(text.replace(b"element vertex", extra, 1))
    assert_equal(scene, read_scene(tmp_path / "a.ply"))


def test_the_antialiased_tag_is_kept(tmp_path):
    write_scene(tmp_path / "a.ply", synthetic(n=3, antialiased=True))
    assert b"comment SplatRenderMode: mip\n" in (tmp_path / "a.ply").read_bytes()
    assert read_scene(tmp_path / "a.ply").antialiased


def test_infinite_logits_and_flat_splats_become_finite(tmp_path):
    """Converters write an opacity of 1 as infinity; the most solid splats of a scene must not be filtered for it."""
    scene = synthetic(n=4, degree=0)
    scene.logits[:] = [np.inf, -np.inf, 1.5, np.nan]
    scene.log_scales[0, 1] = -np.inf
    write_scene(tmp_path / "a.ply", scene)
    back = read_scene(tmp_path / "a.ply")
    assert back.opacities[:3].tolist() == pytest.approx([1, 0, scene.opacities[2]], abs=1e-7)
    assert np.isfinite(back.logits[:3]).all() and np.isnan(back.logits[3])
    assert back.log_scales[0, 1] == -80 and back.scales[0, 1] < 1e-30


def test_harmonics_of_a_large_file_stay_in_the_file(tmp_path, monkeypatch):
    scene = synthetic(n=2 * ply.CHUNK + 5, degree=3)
    write_scene(tmp_path / "a.ply", scene)
    monkeypatch.setattr(ply, "MAPPED_SH", 1 << 16)
    tracemalloc.start()
    back = read_scene(tmp_path / "a.ply")
    read_peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.reset_peak()
    write_scene(tmp_path / "b.ply", back)
    resident, write_peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    chunk = ply.CHUNK * 59 * 4
    assert read_peak < len(scene) * 14 * 4 + 4 * chunk  # without the 45 harmonics, but for a chunk
    assert write_peak < resident + 4 * chunk
    assert not back.sh_rest.flags.owndata
    assert_equal(scene, back)
    assert (tmp_path / "a.ply").read_bytes() == (tmp_path / "b.ply").read_bytes()
    picked = back.take(np.array([7, 3, len(scene) - 1]))
    np.testing.assert_array_equal(picked.sh_rest, scene.sh_rest[[7, 3, -1]])
    mask = np.arange(len(scene)) % 3 == 0
    np.testing.assert_array_equal(back.take(mask).sh_rest, scene.sh_rest[mask])


def test_a_mapped_scene_can_replace_its_own_file(tmp_path, monkeypatch):
    scene = synthetic(n=2000)
    write_scene(tmp_path / "a.ply", scene)
    monkeypatch.setattr(ply, "MAPPED_SH", 0)
    write_scene(tmp_path / "a.ply", read_scene(tmp_path / "a.ply").take(slice(0, 1000)))
    assert_equal(scene.take(slice(0, 1000)), read_scene(tmp_path / "a.ply"))


@pytest.mark.parametrize("extra", [{"x": np.zeros(3, np.float32)}, {"id": np.zeros(3, np.int64)}])
def test_a_further_column_that_a_ply_cannot_hold(tmp_path, extra):
    with pytest.raises(FormatError, match=f"column '{next(iter(extra))}'"):
        write_scene(tmp_path / "a.ply", synthetic(n=3, extra=extra))


def test_a_point_cloud_is_named_as_such(tmp_path):
    foreign_ply(tmp_path / "a.ply", [(name, "float", np.zeros(4)) for name in "xyz"])
    with pytest.raises(FormatError, match=r"no property f_dc_0, f_dc_1, f_dc_2, opacity"):
        read_scene(tmp_path / "a.ply")
