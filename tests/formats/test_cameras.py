"""The same two cameras in every file format, and where files of cameras are looked for."""

from __future__ import annotations

import json
import struct

import numpy as np
import pytest

from gencompress.errors import FormatError
from gencompress.formats import find_cameras, quaternions, read_cameras

QUATS = np.array([[0.9, 0.1, -0.3, 0.2], [0.5, 0.5, 0.5, 0.5]])
SHIFTS = np.array([[0.5, -1.0, 4.0], [2.0, 0.0, 1.0]])
FX, FY, CX, CY, WIDTH, HEIGHT = 500.0, 510.0, 321.0, 239.0, 640, 480


def views():
    mats = np.tile(np.eye(4), (2, 1, 1))
    mats[:, :3, :3], mats[:, :3, 3] = quaternions.matrices(QUATS), SHIFTS
    return mats


def intrinsics(cx=CX, cy=CY, fy=FY):
    return np.array([[FX, 0, cx], [0, fy, cy], [0, 0, 1]])


def check(found, K=None, width=WIDTH, height=HEIGHT):
    (cameras,) = found
    assert (len(cameras), cameras.width, cameras.height) == (2, width, height)
    np.testing.assert_allclose(cameras.viewmats, views(), atol=1e-6)
    np.testing.assert_allclose(cameras.Ks, np.tile(intrinsics() if K is None else K, (2, 1, 1)), rtol=1e-6)


def write_inria(path):
    entries = []
    for index, view in enumerate(views()):
        pose = np.linalg.inv(view)
        entries.append(
            {"id": index, "img_name": f"{index}", "width": WIDTH, "height": HEIGHT, "fx": FX, "fy": FY,
             "position": pose[:3, 3].tolist(), "rotation": pose[:3, :3].tolist()}
        )  # fmt: skip
    path.write_text(json.dumps(entries))


def test_cameras_json(tmp_path):
    write_inria(tmp_path / "cameras.json")
    check(read_cameras(tmp_path / "cameras.json"), intrinsics(WIDTH / 2, HEIGHT / 2))


def binary_model(folder, model=1, parameters=(FX, FY, CX, CY), points=3):
    folder.mkdir(parents=True, exist_ok=True)
    camera = struct.pack("<QIiQQ", 1, 7, model, WIDTH, HEIGHT) + struct.pack(f"<{len(parameters)}d", *parameters)
    (folder / "cameras.bin").write_bytes(camera)
    images = struct.pack("<Q", 2)
    for index, (quat, shift) in enumerate(zip(QUATS, SHIFTS, strict=True)):
        images += struct.pack("<I7dI", index + 1, *quat, *shift, 7) + f"image {index}.png".encode() + b"\0"
        images += struct.pack("<Q", points) + bytes(24 * points)
    (folder / "images.bin").write_bytes(images)


def text_model(folder, line=f"7 PINHOLE {WIDTH} {HEIGHT} {FX} {FY} {CX} {CY}"):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "cameras.txt").write_text(f"# Camera list\n{line}\n")
    images = "# Image list\n"
    for index, (quat, shift) in enumerate(zip(QUATS, SHIFTS, strict=True)):
        numbers = " ".join(map(repr, [*map(float, quat), *map(float, shift)]))
        points = "" if index == 0 else "1.0 2.0 -1 3.0 4.0 5"
        images += f"{index + 1} {numbers} 7 image {index}.png\n{points}\n"
    (folder / "images.txt").write_text(images)


@pytest.mark.parametrize("write", [binary_model, text_model])
def test_colmap(tmp_path, write):
    write(tmp_path)
    check(read_cameras(tmp_path))


@pytest.mark.parametrize(
    ("number", "name", "extra", "one"),
    [
        (0, "SIMPLE_PINHOLE", 0, True),
        (2, "SIMPLE_RADIAL", 1, True),
        (3, "RADIAL", 2, True),
        (4, "OPENCV", 4, False),
        (5, "OPENCV_FISHEYE", 4, False),
        (6, "FULL_OPENCV", 8, False),
        (7, "FOV", 1, False),
        (8, "SIMPLE_RADIAL_FISHEYE", 1, True),
        (9, "RADIAL_FISHEYE", 2, True),
        (10, "THIN_PRISM_FISHEYE", 8, False),
    ],
)
def test_every_camera_model_of_colmap_gives_its_pinhole(tmp_path, number, name, extra, one):
    parameters = (FX, CX, CY) if one else (FX, FY, CX, CY)
    parameters = (*parameters, *[0.01] * extra)
    binary_model(tmp_path / "bin", number, parameters)
    text_model(tmp_path / "txt", f"7 {name} {WIDTH} {HEIGHT} {' '.join(map(str, parameters))}")
    for folder in ("bin", "txt"):
        check(read_cameras(tmp_path / folder), intrinsics(fy=FX if one else FY))


def opengl_frames():
    poses = np.linalg.inv(views()) @ np.diag([1.0, -1, -1, 1])
    return [{"file_path": f"{i}.png", "transform_matrix": pose.tolist()} for i, pose in enumerate(poses)]


def test_transforms_json(tmp_path):
    content = {"fl_x": FX, "fl_y": FY, "cx": CX, "cy": CY, "w": WIDTH, "h": HEIGHT, "frames": opengl_frames()}
    (tmp_path / "transforms.json").write_text(json.dumps(content))
    check(read_cameras(tmp_path / "transforms.json"))


def test_transforms_json_with_intrinsics_per_frame(tmp_path):
    frames = [{**frame, "fl_x": FX, "cx": CX, "cy": CY, "w": WIDTH, "h": HEIGHT} for frame in opengl_frames()]
    frames[1]["w"] = 320
    (tmp_path / "transforms.json").write_text(json.dumps({"frames": frames}))
    first, second = read_cameras(tmp_path / "transforms.json")
    assert (first.width, second.width, len(first), len(second)) == (640, 320, 1, 1)
    np.testing.assert_allclose(np.concatenate([first.viewmats, second.viewmats]), views(), atol=1e-6)


def test_blender_names_an_angle_and_no_size(tmp_path):
    angle = 2 * np.arctan(400 / 900)
    content = {"camera_angle_x": angle, "frames": opengl_frames()}
    (tmp_path / "transforms_train.json").write_text(json.dumps(content))
    K = np.array([[900, 0, 400], [0, 900, 400], [0, 0, 1]])
    check(read_cameras(tmp_path / "transforms_train.json"), K, 800, 800)


def test_cameras_of_nerfstudio_follow_the_world_it_trained_in(tmp_path):
    content = {"fl_x": FX, "w": WIDTH, "h": HEIGHT, "frames": opengl_frames()}
    (tmp_path / "transforms.json").write_text(json.dumps(content))
    turn = quaternions.matrices(np.array([[0.3, 0.8, -0.1, 0.5]]))[0]
    shift, scale = np.array([1.0, -2.0, 0.5]), 0.25
    world = {"transform": np.column_stack([turn, shift]).tolist(), "scale": scale}
    (tmp_path / "dataparser_transforms.json").write_text(json.dumps(world))
    (cameras,) = read_cameras(tmp_path / "transforms.json")
    point = np.array([0.3, 0.2, -0.7])
    moved = scale * (turn @ point + shift)
    before = views()[:, :3, :3] @ point + views()[:, :3, 3]
    after = cameras.viewmats[:, :3, :3] @ moved + cameras.viewmats[:, :3, 3]
    np.testing.assert_allclose(after, scale * before, atol=1e-5)  # the same ray, in the new unit


def test_positions_are_where_the_file_says(tmp_path):
    write_inria(tmp_path / "cameras.json")
    (cameras,) = read_cameras(tmp_path / "cameras.json")
    np.testing.assert_allclose(cameras.positions, np.linalg.inv(views())[:, :3, 3], atol=1e-5)


def test_cameras_are_found_beside_a_scene(tmp_path):
    scene = tmp_path / "point_cloud" / "iteration_30000" / "point_cloud.ply"
    scene.parent.mkdir(parents=True)
    assert find_cameras(scene) is None
    binary_model(tmp_path / "sparse" / "0")
    assert find_cameras(scene) == tmp_path / "sparse" / "0"
    write_inria(tmp_path / "cameras.json")
    assert find_cameras(scene) == tmp_path / "cameras.json"
    assert find_cameras(tmp_path / "other" / "scene.ply") is None
    assert find_cameras(tmp_path / "scene.ply") == tmp_path / "cameras.json"
    (tmp_path / "transforms.json").write_text("{}")
    (tmp_path / "cameras.json").unlink()
    assert find_cameras(tmp_path / "scene.ply") == tmp_path / "transforms.json"
    for found in (tmp_path / "sparse" / "0", tmp_path / "sparse" / "0" / "cameras.bin"):
        check(read_cameras(found))


def test_an_image_that_names_no_camera(tmp_path):
    text_model(tmp_path, f"8 PINHOLE {WIDTH} {HEIGHT} {FX} {FY} {CX} {CY}")
    with pytest.raises(FormatError, match="names camera 7"):
        read_cameras(tmp_path)
