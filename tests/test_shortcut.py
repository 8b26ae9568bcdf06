"""`gencompress splat`: what it refuses, what it converts, and what it asks of the recipe."""

from __future__ import annotations

import base64
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from gencompress.cli import run_command
from gencompress.config import Config, LeaveOneOutCriterion, RefineRecover
from gencompress.errors import Interrupted
from gencompress.formats import read_scene, write_scene
from gencompress.run import launch
from tests.formats.synthetic import assert_equal, synthetic


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A scene file of 80 splats in the working folder."""
    monkeypatch.chdir(tmp_path)
    write_scene(tmp_path / "cat.ply", synthetic(80, degree=0))
    return tmp_path / "cat.ply"


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Config, Path]]:
    """Every run that was asked for; its export holds every other splat, its figures are made up."""
    asked: list[tuple[Config, Path]] = []

    def execute(config: Config, path: Path) -> None:
        asked.append((config, path))
        (path / "eval").mkdir(parents=True)
        (path / "export").mkdir()
        whole = read_scene(str(config.scene).removeprefix("sample:"))
        left = whole.take(np.arange(0, len(whole), 2))
        files = []
        for i, kind in enumerate(config.export.formats):
            file = path / "export" / f"cat.{kind}"
            if kind == "html":
                file.write_bytes(b"a page")
            else:
                write_scene(file, left)
            figures = {} if kind == "html" else {"psnr_db": 40.0 - i, "ssim": 0.99, "psnr_close_db": 33.0}
            files.append({"format": kind, "path": f"export/{file.name}"} | figures)
        metrics = {"pruned": {"units": len(left)}, "dense": {"units": len(whole)}, "files": files}
        (path / "eval/metrics.json").write_text(json.dumps(metrics))

    monkeypatch.setattr(launch, "execute", execute)
    return asked


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["cat.ply", "cat.pyl"], "'.pyl' is no format: did you mean 'ply'"),
        (["cat.ply", "cat.ply"], "cat.ply is the input"),
        (["cat.ply", "./cat.ply", "--force"], "is the input"),
        (["cat.ply", "cat.ply", "--keep", "0.5", "--force"], "is the input"),
        (["cat.ply", "old.ply"], "old.ply already exists: name another file, or add --force"),
        (["cat.ply", "new.ply", "old.ply", "--keep", "0.5"], "old.ply already exists"),
        (["cat.ply", "new.ply", "./new.ply"], "given twice"),
        (["cat.ply", "no/folder/new.ply"], "there is no folder no/folder"),
        (["cat.ply", "folder.ply", "--force"], "folder.ply is a folder"),
        (["cat.ply", "full", "--force"], "full already exists"),
        (["dog.ply", "new.ply"], "scene='dog.ply': no such file"),
        (["sample:gitar", "new.ply"], "no bundled scene: did you mean 'guitar'"),
        (["cat.ply", "new.ply", "--views", "9"], "--views: there is no budget"),
        (["cat.ply", "new.ply", "--no-refine", "--seed", "1"], "--seed, --no-refine: there is no budget"),
        (["cat.ply", "new.ply", "--keep", "1.5"], "budget.keep=1.5 is outside (0, 1]"),
        (["cat.ply", "new.ply", "--keep", "much"], "option budget.keep"),
        (["cat.ply", "new.ply", "--count", "0"], "budget.target=0 is outside"),
        (["cat.ply", "new.ply", "--max-mb", "-3"], "budget.max_mb=-3.0 is outside"),
        (["cat.ply", "new.ply", "--min-psnr", "nan"], "budget.min_psnr=nan is outside"),
        (["cat.ply", "new.ply", "--keep", "0.5", "--views", "none"], "option rig.views"),
        (["cat.ply", "new.ply", "--keep", "0.5", "--criterion", "opacty"], "criterion=opacty: did you mean 'opacity'"),
        (["cat.ply", "new.ply", "--keep", "0.5", "--criterion", "ecodiff"], "is not for domain=splats"),
        (["cat.ply", "new.ply", "--keep", "0.5", "--up=upward"], "rig.up='upward'"),
        (["cat.ply", "new.ply", "--keep", "0.5,0.6"], "option budget.keep"),
        (["bad.ply", "new.ply"], "bad.ply"),
    ],
)
def test_mistakes_are_one_message_and_change_nothing(
    scene: Path, arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = scene.parent
    (folder / "old.ply").write_bytes(b"old")
    (folder / "bad.ply").write_bytes(b"ply\nnonsense")
    (folder / "folder.ply").mkdir()
    (folder / "full").mkdir()
    (folder / "full/file").touch()
    before, content = names(folder), scene.read_bytes()
    assert run_command(["splat", *arguments]) == 2
    captured = capsys.readouterr()
    assert words in captured.err and captured.err.startswith("gencompress: ") and captured.out == ""
    assert names(folder) == before and scene.read_bytes() == content and (folder / "old.ply").read_bytes() == b"old"


def test_without_a_budget_it_converts(scene: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = scene.parent
    assert run_command(["splat", "cat.ply", "copy.ply", "cat.spz", "cat.splat"]) == 0
    assert_equal(read_scene(folder / "copy.ply"), read_scene(scene))
    assert len(read_scene(folder / "cat.spz")) == len(read_scene(folder / "cat.splat")) == 80
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["copy.ply", "cat.spz", "cat.splat"]
    assert all(line.endswith("80 splats") for line in lines)


def test_pages_hold_the_sog_that_was_written(scene: Path) -> None:
    folder = scene.parent
    assert run_command(["splat", "cat.ply", "cat.html", "site", "cat.sog", "--up=z"]) == 0
    sog = (folder / "cat.sog").read_bytes()
    assert len(read_scene(folder / "cat.sog")) == 80 and (folder / "site/scene.sog").read_bytes() == sog
    assert base64.b64encode(sog).decode() in (folder / "cat.html").read_text()
    rotation = json.loads((folder / "site/settings.json").read_text())["scene"]["rotation"]
    assert rotation == pytest.approx([-(0.5**0.5), 0, 0, 0.5**0.5]), "from z to y"


def test_force_replaces_a_file(scene: Path) -> None:
    old = scene.parent / "old.ply"
    old.write_bytes(b"old")
    assert run_command(["splat", "cat.ply", "old.ply", "--force"]) == 0
    assert_equal(read_scene(old), read_scene(scene))


def test_splats_that_are_no_numbers_are_left_out_and_counted(scene: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken = synthetic(80, degree=0, logits=np.full(80, 2, dtype=np.float32))
    broken.means[[3, 9], 1] = np.nan
    write_scene(scene.parent / "broken.ply", broken)
    assert run_command(["splat", "broken.ply", "whole.spz"]) == 0
    said = capsys.readouterr().out
    assert "of 80 splats are left out: 2 not finite" in said
    assert np.isfinite(read_scene(scene.parent / "whole.spz").means).all()


def test_options_reach_the_recipe(scene: Path, runs: list[tuple[Config, Path]]) -> None:
    (scene.parent / "it's, cameras.json").write_text("[]")
    options = ["--count", "40", "--views", "7", "--unseen", "prune", "--cameras", "it's, cameras.json", "--up=-z",
               "--no-merge", "--no-refine", "--seed", "5", "--threads", "1"]  # fmt: skip
    assert run_command(["splat", "cat.ply", "out.spz", "out.ply", *options]) == 0
    ((config, path),) = runs
    assert config.scene == "cat.ply" and config.budget.target == 40 and config.budget.keep is None
    assert isinstance(config.criterion, LeaveOneOutCriterion) and config.criterion.unseen == "prune"
    assert (config.rig.views, config.rig.cameras, config.rig.up) == (7, "it's, cameras.json", "-z")
    assert not config.merge.pairs and config.recover.name == "none"
    assert (config.run.seed, config.rig.seed, config.run.threads) == (5, 5, 1)
    assert config.export.formats == ["spz", "ply"]
    assert path == scene.parent / "out.spz.run"


@pytest.mark.parametrize(
    ("flag", "option", "value"),
    [
        ("--keep", "keep", 0.25),
        ("--count", "target", 12),
        ("--max-mb", "max_mb", 1.5),
        ("--min-psnr", "min_psnr", 35.0),
    ],
)
def test_every_budget_has_a_flag(
    scene: Path, runs: list[tuple[Config, Path]], flag: str, option: str, value: float
) -> None:
    assert run_command(["splat", "cat.ply", "out.ply", flag, str(value)]) == 0
    budget = runs[0][0].budget
    ways = ("keep", "target", "max_mb", "min_psnr")
    assert {way: getattr(budget, way) for way in ways} == {way: value if way == option else None for way in ways}
    assert isinstance(runs[0][0].recover, RefineRecover) and runs[0][0].merge.pairs


def test_what_was_exported_is_put_in_place_and_told(
    scene: Path, runs: list[tuple[Config, Path]], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = scene.parent
    assert run_command(["splat", "cat.ply", "out.html", "small.spz", "site", "--keep", "0.5"]) == 0
    assert runs[0][0].export.formats == ["sog", "html", "spz"], "a page is not measured, so what it holds comes first"
    assert (folder / "out.html").read_bytes() == b"a page" and len(read_scene(folder / "small.spz")) == 40
    assert len(read_scene(folder / "site/scene.sog")) == 40
    page, spz, site = capsys.readouterr().out.splitlines()
    assert page.startswith("out.html") and page.endswith("40 of 80 splats") and site.startswith("site")
    assert spz.endswith("40 of 80 splats  PSNR 38.00 dB  SSIM 0.9900  close-ups 33.00 dB")
    assert names(folder) == {"cat.ply", "out.html", "small.spz", "site"}, "the working folder is gone"


def test_a_run_directory_is_kept_when_asked_for(
    scene: Path, runs: list[tuple[Config, Path]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(["splat", "cat.ply", "out.ply", "--keep", "0.5", "--run", "mine"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"report: {scene.parent / 'mine/report/report.html'}"
    assert names(scene.parent) == {"cat.ply", "out.ply", "mine"}


def test_an_interrupted_run_stays_to_be_resumed(scene: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(config: Config, path: Path) -> None:
        path.mkdir()
        raise Interrupted("stopped in stage scores")

    monkeypatch.setattr(launch, "execute", stop)
    assert run_command(["splat", "cat.ply", "out.ply", "--keep", "0.5"]) == 75
    assert names(scene.parent) == {"cat.ply", "out.ply.run"}


def test_the_recipe_does_what_is_asked(scene: Path, capsys: pytest.CaptureFixture[str]) -> None:
    still = synthetic(120, degree=0, logits=np.full(120, 3, np.float32), log_scales=np.full((120, 3), -1, np.float32))
    write_scene(scene.parent / "still.ply", still)
    options = ["--count", "60", "--views", "2", "--no-refine", "--threads", "1"]
    assert run_command(["splat", "still.ply", "out.sog", "out.html", *options]) == 0
    assert len(read_scene(scene.parent / "out.sog")) == 60
    sog, page = capsys.readouterr().out.splitlines()
    assert re.fullmatch(
        r"out\.sog  0\.\d\d MB  60 of 120 splats  PSNR \d\d\.\d\d dB  SSIM 0\.\d{4}  close-ups .* dB", sog
    )
    held = base64.b64encode((scene.parent / "out.sog").read_bytes()).decode()
    assert page.endswith("60 of 120 splats") and held in (scene.parent / "out.html").read_text()
    assert names(scene.parent) == {"cat.ply", "still.ply", "out.sog", "out.html"}


def test_help_imports_nothing_heavy() -> None:
    program = (
        "import sys\nfrom gencompress.cli import run_command\ntry:\n    run_command(['splat', '--help'])\n"
        "except SystemExit:\n    pass\n"
        "heavy = {'torch', 'numpy', 'numba', 'hydra', 'diffusers', 'jinja2'} & set(sys.modules)\n"
        "sys.exit(f'{heavy} were imported' if heavy else 0)"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    for option in ("--keep", "--count", "--max-mb", "--min-psnr", "--force", "--run"):
        assert option in result.stdout
