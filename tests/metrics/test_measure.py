from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from gencompress.cli import run_command
from gencompress.errors import ConfigError
from gencompress.metrics.measure import named_extractor


def folder(path, n, shade):
    path.mkdir()
    for i, image in enumerate(np.random.default_rng(shade).integers(0, shade, (n, 24, 24, 3), dtype=np.uint8)):
        Image.fromarray(image).save(path / f"{i}.png")
    return str(path)


def test_two_folders_from_the_command_line(tmp_path, capsys):
    ours, theirs = folder(tmp_path / "ours", 12, 128), folder(tmp_path / "theirs", 14, 255)
    out = tmp_path / "figures.json"
    arguments = ["--reference", theirs, "--extractor", "random", "--metrics", "frechet,kernel,manifold"]
    assert run_command(["measure", ours, *arguments, "--out", str(out)]) == 0
    shown, found = capsys.readouterr().out, json.loads(out.read_text())
    assert f"Fréchet distance {found['frechet']['value']:.6g}" in shown and "12 images against 14" in shown
    assert found["manifold"]["recall"] < 0.5 and "biased upwards" in shown
    assert run_command(["measure", ours, "--reference", ours, "--extractor", "random", "--out", str(out)]) == 0
    assert json.loads(out.read_text())["frechet"]["value"] == pytest.approx(0, abs=1e-8)


def test_unreadable_images_stop_or_are_counted(tmp_path, capsys):
    ours = folder(tmp_path / "ours", 12, 255)
    (tmp_path / "ours/5.png").write_bytes(b"broken")
    arguments = ["measure", ours, "--reference", ours, "--extractor", "random"]
    assert run_command(arguments) == 2
    assert "5.png" in capsys.readouterr().err
    assert run_command([*arguments, "--skip-bad"]) == 0
    assert "2 unreadable images were left out" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ([], "--reference FOLDER, or --prompts FILE"),
        (["--reference", "x", "--metrics", "fid"], "unknown metric 'fid'"),
        (["--reference", "x", "--metrics", "cmmd"], "clip:FOLDER-OR-HUB-ID"),
        (["--reference", "x", "--extractor", "inceptoin"], "did you mean 'inception'"),
    ],
)
def test_wrong_options_are_named(tmp_path, capsys, extra, message):
    ours = folder(tmp_path / "ours", 2, 255)
    assert run_command(["measure", ours, *extra]) == 2
    assert message in capsys.readouterr().err


def test_an_extractor_by_its_folder_is_efficientnet(shared):
    assert "fficient" in named_extractor(str(shared / "features/efficientnet-lite0")).name
    with pytest.raises(ConfigError, match="no name of one"):
        named_extractor("no-such-folder")
