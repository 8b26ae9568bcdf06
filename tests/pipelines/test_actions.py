"""`gencompress eval`, `export` and `report` on a finished run, through the command line's own function."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from gencompress.cli import run_command
from gencompress.config import CRITERIA, DOMAINS
from gencompress.errors import ConfigError
from gencompress.pipelines import ACTIONS, RECIPES
from gencompress.run import launch, read_manifest
from tests.e2e.pipes import MASKS, RECOVERY, execute, metrics, save, stages, stages_run

STAGES = stages("choose")


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return save("smallest", tmp_path_factory.mktemp("model") / "smallest")


@pytest.fixture(scope="module")
def original(model, tmp_path_factory) -> Path:
    return execute(model, tmp_path_factory.mktemp("run") / "run", *MASKS, *RECOVERY, "budget.keep=0.7")


@pytest.fixture
def finished(original, tmp_path) -> Path:
    """A copy of a finished run to work on."""
    shutil.copytree(original, tmp_path / "run")
    return tmp_path / "run"


def test_every_recipe_and_action_can_be_imported():
    assert set(RECIPES) == set(ACTIONS) == set(DOMAINS)
    for table in (*RECIPES.values(), *ACTIONS.values()):
        assert all(callable(launch.load(where)) for where in table.values())
    assert all(set(table) == {"eval", "export", "report"} for table in ACTIONS.values())


def test_eval_measures_again_and_renews_what_shows_the_figures(finished, capsys):
    before = metrics(finished)
    plan = (finished / "plan" / "plan.json").read_bytes()
    assert run_command(["eval", str(finished)]) == 0
    assert stages_run(finished) == [*STAGES, "eval", "export", "report"]
    assert list(read_manifest(finished).stages) == STAGES, "nothing of the run is forgotten"
    assert metrics(finished)["quality"] == before["quality"]
    assert (finished / "plan" / "plan.json").read_bytes() == plan


def test_report_writes_the_report_alone_and_says_where(finished, capsys):
    (finished / "report" / "report.html").stat()
    assert run_command(["report", str(finished)]) == 0
    assert capsys.readouterr().out.strip() == str(finished / "report" / "report.html")
    assert stages_run(finished) == [*STAGES, "report"] and list(read_manifest(finished).stages) == STAGES


@pytest.mark.parametrize("portable", [False, True])
def test_export_writes_elsewhere_and_leaves_the_run_alone(finished, tmp_path, portable, capsys):
    before = (finished / "manifest.json").read_bytes()
    out = tmp_path / "out"
    assert run_command(["export", str(finished), "--out", str(out), *["--portable"] * portable]) == 0
    assert capsys.readouterr().out.strip() == str(out)
    assert stages_run(finished) == STAGES and (finished / "manifest.json").read_bytes() == before
    index = json.loads((out / "model_index.json").read_text())
    code = list(out.rglob("*.py"))
    assert bool(code) == portable and (index["unet"][0] == "gencompress.diffusers") != portable
    ours, theirs = (f / "unet" / "diffusion_pytorch_model.safetensors" for f in (out, finished / "export"))
    assert ours.read_bytes() == theirs.read_bytes()
    assert "trust_remote_code" in (out / "README.md").read_text() or not portable


def test_export_overwrites_nothing(finished, tmp_path, capsys):
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").write_text("mine")
    assert run_command(["export", str(finished), "--out", str(out)]) == 2
    assert f"{out} already exists" in capsys.readouterr().err
    assert [p.name for p in out.iterdir()] == ["mine.txt"]


@pytest.mark.parametrize("words", [["eval"], ["report"], ["export", "--out", "OUT"]])
def test_an_unfinished_run_is_refused_and_not_run(finished, tmp_path, words, capsys):
    """`gencompress report` must not start hours of mask learning."""
    manifest = json.loads((finished / "manifest.json").read_text())
    manifest["stages"] = {"warm_start": manifest["stages"]["warm_start"]}
    (finished / "manifest.json").write_text(json.dumps(manifest))
    for stage in STAGES[1:]:
        shutil.rmtree(finished / stage)
    out = tmp_path / "out"
    assert run_command([words[0], str(finished), *[str(out) if w == "OUT" else w for w in words[1:]]]) == 2
    assert "finish the run first with `gencompress run`" in capsys.readouterr().err
    assert stages_run(finished) == STAGES and not out.exists()
    assert sorted(p.name for p in finished.iterdir() if p.is_dir() and p.name in STAGES) == ["warm_start"]


@pytest.mark.parametrize("words", [["eval"], ["report"], ["export", "--out", "OUT"]])
def test_a_folder_that_is_no_run_is_refused(tmp_path, words, capsys):
    (tmp_path / "thesis.txt").write_text("mine")
    out = tmp_path / "out"
    assert run_command([words[0], str(tmp_path), *[str(out) if w == "OUT" else w for w in words[1:]]]) == 2
    assert "is not a run directory" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize("criterion", sorted(n for n, kind in CRITERIA.items() if "diffusion" in kind.domains))
def test_a_criterion_in_the_wrong_recipe_is_one_typed_error(model, tmp_path, criterion):
    recipe, advice = ("one_shot", "recipe=ecodiff") if criterion == "ecodiff" else ("ecodiff", "recipe=one_shot")
    with pytest.raises(ConfigError, match=advice):
        execute(model, tmp_path / "run", f"recipe={recipe}", f"criterion={criterion}")
    assert not read_manifest(tmp_path / "run").stages
