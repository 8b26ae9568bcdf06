"""A .glb as the extension prescribes it, decoded here by hand; and files that others may write."""

from __future__ import annotations

import json
import struct

import numpy as np
import pytest

from gencompress.errors import FormatError
from gencompress.formats import deviations, frames, quaternions, read_scene, write_scene
from gencompress.formats.frames import turn
from tests.formats.synthetic import synthetic

KHR = "KHR_gaussian_splatting"
LUF = np.array([-1, -1, 1])


def parts(path):
    """The JSON and the binary chunk of a .glb."""
    data = path.read_bytes()
    magic, version, length = struct.unpack_from("<4sII", data)
    assert (magic, version, length) == (b"glTF", 2, len(data))
    size, kind = struct.unpack_from("<I4s", data, 12)
    assert kind == b"JSON" and size % 4 == 0
    rest, kind = struct.unpack_from("<I4s", data, 20 + size)
    assert kind == b"BIN\0" and rest == len(data) - 28 - size
    return json.loads(data[20 : 20 + size]), data[28 + size :]


def join(path, content, body):
    text = json.dumps(content).encode()
    text += b" " * (-len(text) % 4)
    chunks = struct.pack("<I4s", len(text), b"JSON") + text + struct.pack("<I4s", len(body), b"BIN\0") + body
    path.write_bytes(struct.pack("<4sII", b"glTF", 2, 12 + len(chunks)) + chunks)


def attributes(path):
    content, body = parts(path)
    (primitive,) = content["meshes"][0]["primitives"]
    found = {}
    for name, index in primitive["attributes"].items():
        accessor = content["accessors"][index]
        view = content["bufferViews"][accessor["bufferView"]]
        kind = {5126: "<f4", 5121: "u1"}[accessor["componentType"]]
        values = np.frombuffer(body[view["byteOffset"] : view["byteOffset"] + view["byteLength"]], kind)
        found[name.removeprefix(f"{KHR}:")] = values.reshape(accessor["count"], -1)
    return content, primitive, found


def test_the_attributes_are_those_of_the_extension(tmp_path):
    scene = synthetic(n=40, degree=3)
    write_scene(tmp_path / "a.glb", scene)
    content, primitive, found = attributes(tmp_path / "a.glb")
    assert content["extensionsUsed"] == [KHR] and primitive["mode"] == 0
    assert primitive["extensions"][KHR] == {"kernel": "ellipse", "colorSpace": "srgb_rec709_display"}
    np.testing.assert_array_equal(found["POSITION"], scene.means * LUF)
    np.testing.assert_allclose(found["SCALE"], np.exp(scene.log_scales), rtol=1e-6)
    np.testing.assert_allclose(found["OPACITY"][:, 0], scene.opacities, atol=1e-6)
    np.testing.assert_array_equal(found["SH_DEGREE_0_COEF_0"], scene.sh0)
    stored = quaternions.matrices(quaternions.wxyz(found["ROTATION"]))
    covariance = stored * found["SCALE"][:, None, :] ** 2 @ stored.transpose(0, 2, 1)
    own = quaternions.matrices(scene.quats)
    expected = (own * scene.scales[:, None, :].astype(float) ** 2 @ own.transpose(0, 2, 1)) * np.outer(LUF, LUF)
    np.testing.assert_allclose(covariance, expected, rtol=1e-4, atol=1e-9)
    coefficients = [name for name in found if name.startswith("SH_DEGREE") and not name.startswith("SH_DEGREE_0")]
    assert len(coefficients) == 15
    degree_1 = [found[f"SH_DEGREE_1_COEF_{i}"] for i in range(3)]  # which go with y, z and x
    for stored_1, own_1, sign in zip(degree_1, scene.sh_rest.transpose(1, 0, 2), (-1, 1, -1), strict=False):
        np.testing.assert_array_equal(stored_1, sign * own_1)
    accessor = content["accessors"][primitive["attributes"]["POSITION"]]
    np.testing.assert_array_equal(accessor["min"], found["POSITION"].min(0))
    np.testing.assert_array_equal(accessor["max"], found["POSITION"].max(0))


def test_nodes_place_their_splats(tmp_path):
    scene = synthetic(n=30, degree=2)
    write_scene(tmp_path / "a.glb", scene)
    content, body = parts(tmp_path / "a.glb")
    x, y, z, w = np.array([0.1, -0.7, 0.3, 0.5]) / np.linalg.norm([0.1, -0.7, 0.3, 0.5])
    rotation = quaternions.matrices(np.array([[w, x, y, z]]))[0]
    outer = {"children": [1], "translation": [1, 2, 3], "scale": [2, 2, 2]}
    inner = {"mesh": 0, "rotation": [x, y, z, w]}
    content["nodes"] = [outer, inner]
    join(tmp_path / "b.glb", content, body)
    flip = np.diag(LUF).astype(float)
    expected = turn(scene, flip @ rotation @ flip, 2.0, LUF * [1, 2, 3])
    lost = deviations(expected, read_scene(tmp_path / "b.glb"))
    assert lost["position"].largest < 1e-6 and lost["scale"].largest < 1e-5 and lost["harmonics"].largest < 1e-6
    found, wanted = (quaternions.matrices(s.quats) * s.scales[:, None, :].astype(float) for s in
                     (read_scene(tmp_path / "b.glb"), expected))  # fmt: skip
    np.testing.assert_allclose(
        found @ found.transpose(0, 2, 1), wanted @ wanted.transpose(0, 2, 1), rtol=1e-4, atol=1e-8
    )
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = rotation * 2, [1, 2, 3]
    content["nodes"] = [{"mesh": 0, "matrix": matrix.T.ravel().tolist()}]
    join(tmp_path / "c.glb", content, body)
    assert deviations(read_scene(tmp_path / "b.glb"), read_scene(tmp_path / "c.glb"))["position"].largest < 1e-6


def test_several_primitives_become_one_scene(tmp_path):
    scene = synthetic(n=30, degree=1)
    write_scene(tmp_path / "a.glb", scene)
    content, body = parts(tmp_path / "a.glb")
    plain = json.loads(json.dumps(content["meshes"][0]["primitives"][0]))
    for index in range(3):
        plain["attributes"].pop(f"{KHR}:SH_DEGREE_1_COEF_{index}")
    content["meshes"][0]["primitives"] += [plain, {"mode": 4, "attributes": {"POSITION": 0}}]  # and a triangle mesh
    join(tmp_path / "b.glb", content, body)
    back = read_scene(tmp_path / "b.glb")
    assert len(back) == 60 and back.sh_degree == 1
    np.testing.assert_array_equal(back.means, np.concatenate([scene.means] * 2))
    np.testing.assert_array_equal(back.sh_rest, np.concatenate([scene.sh_rest, np.zeros_like(scene.sh_rest)]))


def test_quantised_and_interleaved_attributes(tmp_path):
    quats = np.array([[32767, 0, 0, 0], [-16384, 16384, 16384, 16384]], "<i2")  # xyzw
    row = np.dtype([("mean", "<f4", 3), ("quat", "<i2", 4), ("scale", "<f4", 3), ("opacity", "u1"), ("pad", "V3"),
                    ("sh0", "<f4", 3)])  # fmt: skip
    rows = np.zeros(2, row)
    rows["mean"], rows["quat"], rows["scale"] = [[1, 2, 3], [4, 5, 6]], quats, 0.25
    rows["opacity"], rows["sh0"] = [51, 204], 0.5
    kinds = {"POSITION": ("mean", 5126, "VEC3"), f"{KHR}:ROTATION": ("quat", 5122, "VEC4"),
             f"{KHR}:SCALE": ("scale", 5126, "VEC3"), f"{KHR}:OPACITY": ("opacity", 5121, "SCALAR"),
             f"{KHR}:SH_DEGREE_0_COEF_0": ("sh0", 5126, "VEC3")}  # fmt: skip
    accessors = [
        {"bufferView": 0, "byteOffset": row.fields[field][1], "componentType": code, "count": 2, "type": kind,
         "normalized": code != 5126} for field, code, kind in kinds.values()
    ]  # fmt: skip
    primitive = {"mode": 0, "attributes": {name: i for i, name in enumerate(kinds)}, "extensions": {KHR: {}}}
    view = {"buffer": 0, "byteLength": rows.nbytes, "byteStride": row.itemsize}
    content = {"asset": {"version": "2.0"}, "nodes": [{"mesh": 0}], "meshes": [{"primitives": [primitive]}],
               "buffers": [{"byteLength": rows.nbytes}], "bufferViews": [view], "accessors": accessors}  # fmt: skip
    join(tmp_path / "a.glb", content, rows.tobytes())
    back = read_scene(tmp_path / "a.glb")
    np.testing.assert_array_equal(back.means, rows["mean"] * LUF)
    np.testing.assert_allclose(back.scales, 0.25)
    np.testing.assert_allclose(back.opacities, [0.2, 0.8], atol=1e-6)
    stored = quaternions.matrices(quaternions.wxyz(quats))
    signs = frames.from_axes("LUF")
    np.testing.assert_allclose(quaternions.matrices(back.quats), signs @ stored @ signs, atol=1e-3)


def test_logarithmic_scales_of_early_writers_are_recognised(tmp_path):
    scene = synthetic(n=20, degree=0)
    write_scene(tmp_path / "a.glb", scene)
    content, body = parts(tmp_path / "a.glb")
    index = content["meshes"][0]["primitives"][0]["attributes"][f"{KHR}:SCALE"]
    at = content["bufferViews"][content["accessors"][index]["bufferView"]]["byteOffset"]
    logs = scene.log_scales.tobytes()
    join(tmp_path / "b.glb", content, body[:at] + logs + body[at + len(logs) :])
    np.testing.assert_array_equal(read_scene(tmp_path / "b.glb").log_scales, scene.log_scales)


def test_a_scene_longer_than_the_container_is_refused_before_writing(tmp_path, monkeypatch):
    monkeypatch.setattr("gencompress.formats.glb.MAX_LENGTH", 5000)
    with pytest.raises(FormatError, match=r"a \.glb holds 5,000"):
        write_scene(tmp_path / "a.glb", synthetic(n=100))
    assert not any(tmp_path.iterdir())
