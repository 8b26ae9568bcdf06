"""Photographs with their cameras, from files as users have them."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from PIL import Image

from gencompress.domains.hashgrid import read_views
from gencompress.errors import DataError, FormatError
from tests.domains.hashgrid.ball import RADIUS, ball, write_blender


def test_blender_scenes_are_read_with_the_background_put_in(tmp_path):
    views = read_views(write_blender(tmp_path), (1.0, 1.0, 1.0))
    expected = ball(4, 16)
    assert views.names == tuple(f"./train/r_{i}" for i in range(4))
    torch.testing.assert_close(views.viewmats, torch.stack([*ball(4).viewmats]), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(views.Ks, expected.Ks, rtol=1e-4, atol=1e-3)
    for found, wanted in zip(views.pictures, expected.pictures, strict=True):
        assert int((found.int() - wanted.int()).abs().max()) <= 1
    black = read_views(tmp_path / "transforms_train.json", (0.0, 0.0, 0.0))
    assert black.pictures[0][0, 0].tolist() == [0, 0, 0] and black.background == (0.0, 0.0, 0.0)


def test_nerfstudio_transforms_with_scaled_photographs(tmp_path):
    path = write_blender(tmp_path)
    content = json.loads(path.read_text())
    content |= {"w": 32, "h": 32, "fl_x": 51.2, "fl_y": 51.2, "cx": 16, "cy": 16}
    for frame in content["frames"]:
        frame["file_path"] += ".png"
    shutil.move(tmp_path / "train", tmp_path / "images")
    path.write_text(json.dumps(content).replace("./train/", ""))
    views = read_views(path)
    torch.testing.assert_close(views.Ks, ball(4, 16).Ks, rtol=1e-4, atol=1e-3)
    assert len(views) == 4 and views.camera(2).width == 16


def test_colmap_folders(tmp_path):
    write_blender(tmp_path)
    model = tmp_path / "sparse" / "0"
    model.mkdir(parents=True)
    shutil.move(tmp_path / "train", tmp_path / "images")
    (model / "cameras.txt").write_text("1 PINHOLE 16 16 25.6 25.6 8 8\n")
    (model / "images.txt").write_text("1 1 0 0 0 0 0 3 1 r_2.png\n\n")
    views = read_views(model)
    assert views.names == ("r_2.png",) and float(views.viewmats[0, 2, 3]) == 3
    torch.testing.assert_close(views.Ks[0], ball(1, 16).Ks[0])


def test_drawn_rays_see_the_colours_of_their_pixels():
    views = ball(6, 40)
    origins, directions, colors = views.draw(500, torch.Generator().manual_seed(0))
    b = (origins * directions).sum(1)
    inner = b**2 - origins.square().sum(1) + RADIUS**2
    at = origins + (-b - inner.clamp(min=0).sqrt())[:, None] * directions
    expected = torch.where(inner[:, None] > 0, 0.5 + 0.45 * at / RADIUS, 1.0)
    torch.testing.assert_close(colors, expected, rtol=0, atol=2 / 255)
    assert 0.1 < float((inner > 0).float().mean()) < 0.9


def test_views_of_several_sizes_are_drawn_from():
    small, large = ball(1, 8), ball(1, 24)
    views = type(small)(
        ("a", "b"), torch.cat([small.viewmats] * 2), torch.cat([small.Ks, large.Ks]),
        small.pictures + large.pictures, small.background,
    )  # fmt: skip
    _, directions, _ = views.draw(300, torch.Generator().manual_seed(0))
    assert len(directions.unique(dim=0)) > 64 + 100


@pytest.mark.parametrize(
    "spoil, error, message",
    [
        (lambda f: (f / "train/r_1.png").unlink(), DataError, r"no photograph './train/r_1'"),
        (lambda f: (f / "train/r_1.png").write_bytes(b"\x89PNG broken"), DataError, "r_1.png: not a readable picture"),
        (lambda f: Image.new("RGB", (16, 20)).save(f / "train/r_1.png"), DataError, "16x20 has not the shape"),
        (lambda f: (f / "transforms_train.json").write_text("{}"), FormatError, "has no list 'frames'"),
        (
            lambda f: (f / "transforms_train.json").write_text(
                (f / "transforms_train.json").read_text().replace("camera_angle_x", "angle")
            ),
            FormatError,
            "camera_angle_x is 'None', not a number",
        ),
        (
            lambda f: (f / "transforms_train.json").write_text(
                json.dumps({"camera_angle_x": 0.7, "frames": [{"transform_matrix": [[float("nan")] * 4] * 4}]})
            ),
            FormatError,
            r"frames\[0\]: the pose is not a finite rotation",
        ),
    ],
    ids=["missing", "unreadable", "shape", "frames", "intrinsics", "pose"],
)
def test_bad_input_is_refused(tmp_path, spoil, error, message):
    path = write_blender(tmp_path)
    spoil(tmp_path)
    with pytest.raises(error, match=message):
        read_views(path)
