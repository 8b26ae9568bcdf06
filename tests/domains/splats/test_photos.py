"""A scene judged by photographs: made here by rendering it, so that the right figures are known."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
import torch
from PIL import Image

from gencompress.cli import run_command
from gencompress.domains.splats.photos import Request, judge
from gencompress.errors import DataError, RunError
from gencompress.formats import write_scene
from gencompress.formats.cameras import Cameras
from gencompress.formats.scene import SplatScene
from gencompress.kernels.splats import Splats

WIDTH, HEIGHT, COUNT = 48, 40, 10


def scene() -> SplatScene:
    generator = np.random.default_rng(0)
    n = 60
    return SplatScene(
        means=generator.normal(size=(n, 3)).astype(np.float32) * 0.4,
        quats=np.tile(np.float32([1, 0, 0, 0]), (n, 1)),
        log_scales=generator.uniform(-2.5, -1.5, (n, 3)).astype(np.float32),
        logits=generator.uniform(0, 3, n).astype(np.float32),
        sh0=generator.normal(size=(n, 3)).astype(np.float32),
        sh_rest=np.zeros((n, 0, 3), np.float32),
    )


def poses() -> list[np.ndarray]:
    """Camera to world in OpenGL's axes, on a circle, looking at the origin."""
    found = []
    for angle in np.linspace(0, 2 * np.pi, COUNT, endpoint=False):
        back = np.array([np.cos(angle), 0, np.sin(angle)])
        right = np.cross([0, 1, 0], back)
        pose = np.eye(4)
        pose[:3, 0], pose[:3, 1], pose[:3, 2], pose[:3, 3] = right, np.cross(back, right), back, 4 * back
        found.append(pose)
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """photos/NNN.png, transforms.json beside them, the scene that they show, and one with 0.1 dimmer splats."""
    path = tmp_path_factory.mktemp("photos")
    (path / "photos").mkdir()
    whole, focal = scene(), 60.0
    frames = []
    for i, pose in enumerate(poses()):
        viewmat = np.linalg.inv(pose @ np.diag([1.0, -1, -1, 1]))
        K = np.array([[focal, 0, WIDTH / 2], [0, focal, HEIGHT / 2], [0, 0, 1]])
        camera = Cameras(viewmat[None].astype(np.float32), K[None].astype(np.float32), WIDTH, HEIGHT)
        with torch.inference_mode():
            found = Splats.of(whole).render(camera)
        pixels = torch.cat([found.image[0], found.alpha[0][..., None]], dim=-1).numpy()
        pixels[..., :3] /= np.maximum(pixels[..., 3:], 1e-6)  # straight alpha, as .png has it
        Image.fromarray((pixels * 255).round().clip(0, 255).astype(np.uint8)).save(path / f"photos/{i:03d}.png")
        frames.append({"file_path": f"./photos/{i:03d}", "transform_matrix": pose.tolist()})
    content = {"fl_x": focal, "fl_y": focal, "w": WIDTH, "h": HEIGHT, "frames": frames}
    (path / "transforms.json").write_text(json.dumps(content))
    write_scene(path / "scene.ply", whole)
    write_scene(path / "half.ply", whole.take(np.arange(len(whole)) % 2 == 0))
    return path


@pytest.mark.parametrize("background", ["black", "white"])
def test_the_scene_that_was_photographed_scores_what_eight_bits_allow(folder, tmp_path, background):
    out = tmp_path / "out"
    result = judge(Request(folder / "scene.ply", folder / "photos", out, background=background))
    assert result["metrics"]["psnr"] > 45 and result["metrics"]["ssim"] > 0.99
    names = sorted(p.name for p in (out / "predictions/color").iterdir())
    assert names == ["0000_000.png", "0001_008.png"]
    assert result["compression"]["bytes_total"] == (folder / "scene.ply").stat().st_size
    with (out / "survey.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert float(row["PSNR"]) == pytest.approx(result["metrics"]["psnr"], abs=1e-4)
    assert (row["#Gaussians"], row["LPIPS"]) == ("60", "")


def test_half_of_the_splats_score_worse_and_all_views_can_be_judged(folder, tmp_path, capsys):
    whole = judge(Request(folder / "scene.ply", folder / "photos", tmp_path / "whole"))
    arguments = ["photos", str(folder / "half.ply"), str(folder / "photos"), "--every", "--out", str(tmp_path / "half")]
    assert run_command(arguments) == 0
    shown = capsys.readouterr().out
    half = json.loads((tmp_path / "half/result.json").read_text())
    assert half["metrics"]["psnr"] < whole["metrics"]["psnr"] - 10
    assert len(list((tmp_path / "half/predictions/color").iterdir())) == COUNT
    assert f"psnr {half['metrics']['psnr']}" in shown


def test_photographs_may_be_scaled_but_not_of_another_shape(folder, tmp_path):
    scaled = tmp_path / "scaled"
    scaled.mkdir()
    for file in (folder / "photos").iterdir():
        Image.open(file).resize((WIDTH // 2, HEIGHT // 2)).save(scaled / file.name)
    cameras = folder / "transforms.json"
    result = judge(Request(folder / "scene.ply", scaled, tmp_path / "out", cameras))
    assert result["metrics"]["psnr"] > 25
    for file in scaled.iterdir():
        Image.new("RGB", (WIDTH, WIDTH)).save(file)
    with pytest.raises(DataError, match="not the shape of its camera, 48x40"):
        judge(Request(folder / "scene.ply", scaled, tmp_path / "out2", cameras))


def test_what_is_missing_is_named_and_nothing_is_overwritten(folder, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no cameras beside"):
        scene_alone = tmp_path / "scene.ply"
        scene_alone.write_bytes((folder / "scene.ply").read_bytes())
        judge(Request(scene_alone, tmp_path / "empty", tmp_path / "out"))
    with pytest.raises(DataError, match="none of its 0 pictures"):
        judge(Request(folder / "scene.ply", tmp_path / "empty", tmp_path / "out", folder / "transforms.json"))
    (tmp_path / "full").mkdir()
    (tmp_path / "full/note.txt").write_text("mine")
    with pytest.raises(RunError, match="already exists"):
        judge(Request(folder / "scene.ply", folder / "photos", tmp_path / "full"))
