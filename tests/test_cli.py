from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from gencompress.cli import run_command
from gencompress.config import Config
from gencompress.run import read_journal
from tests.run import tiny

Cli = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    """Run `python -m gencompress` with the tiny recipe in a folder of its own, which holds a folder `model`."""
    (tmp_path / "site").mkdir()
    (tmp_path / "model").mkdir()
    environment = tiny.install(tmp_path / "site")

    def run(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "gencompress", *arguments]
        return subprocess.run(
            command, cwd=tmp_path, env={**environment, **variables}, capture_output=True, text=True, timeout=120
        )

    return run


TINY = ("run", "model.path=model", "recipe.name=tiny")


def last_line(result: subprocess.CompletedProcess[str]) -> str:
    assert "Traceback" not in result.stderr
    return result.stderr.strip().splitlines()[-1]


def test_help_needs_neither_torch_nor_hydra(capsys: pytest.CaptureFixture[str]) -> None:
    program = (
        "import sys, gencompress; from gencompress.cli import run_command; code = run_command(['--help']);"
        "heavy = {'torch', 'diffusers', 'transformers', 'numpy', 'hydra'} & set(sys.modules);"
        "sys.exit(f'{heavy} were imported' if heavy else code)"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    for command in ("run", "eval", "export", "report", "splat", "view", "demo"):
        assert f"\n  {command} " in result.stdout
    assert run_command([]) == 0 and capsys.readouterr().out == result.stdout


def test_composing_options_imports_no_torch() -> None:
    program = (
        "import sys; from gencompress.cli import run_command; code = run_command(['run', '--cfg', 'job']);"
        "heavy = {'torch', 'diffusers', 'transformers'} & set(sys.modules);"
        "sys.exit(f'{heavy} were imported' if heavy else code)"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert yaml.safe_load(result.stdout)["criterion"]["name"] == "ecodiff"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["rnu"], "unknown command 'rnu': did you mean 'run'"),
        (["run", "criterion=ecodif"], "criterion=ecodif: did you mean 'ecodiff'"),
        (["run", "+experiment=ecodiff_smaple"], "experiment=ecodiff_smaple: did you mean 'ecodiff_sample'"),
        (["run", "experiment=ecodiff_sample"], "write +experiment=ecodiff_sample"),
        (["run", "budget.kep=0.7"], "unknown option 'budget.kep': did you mean 'budget.keep'"),
        (["run", "+budget.kep=0.7"], "did you mean 'keep'"),
        (["run", "criteron=ecodiff"], "unknown option 'criteron': did you mean 'criterion'"),
        (["run", "model.path=sample:emoji32_ddmp"], "did you mean 'emoji32_ddpm'"),
        (["run", "model.path=emoji32_ddmp"], "did you mean 'sample:emoji32_ddpm'"),
        (["run", "model.path=org/model", "recipe.name=ecodif"], "recipe.name='ecodif': did you mean 'ecodiff'"),
        (["run", "model.path=org/model", "model.dtype=f16"], "model.dtype='f16': did you mean 'fp16'"),
        (["run"], "option model.path is missing"),
        (["run", "model.path=org/model", "budget.keep=1.5"], "budget.keep=1.5 is outside (0, 1]"),
        (["run", "model.path=org/model", "budget.keep=0"], "outside (0, 1]"),
        (["run", "model.path=org/model", "budget.keep=nan"], "outside (0, 1]"),
        (["run", "model.path=org/model", "budget.keep=much"], "option budget.keep: Value 'much'"),
        (["run", "model.path=org/model", "budget.target=9"], "give one of budget.keep"),
        (["run", "model.path=org/model", "criterion=taylor", "criterion.updates=3"], "has no option 'updates'"),
        (["run", "model.path=org/model", "budget.keep=0.5,0.7"], "--multirun"),
        (["run", "-m", "model.path=org/model", "budget.keep=0.5,7"], "budget.keep=7.0 is outside (0, 1]"),
        (["run", "-m", "model.path=org/model", "criterion=ecodiff,taylr"], "criterion=taylr: did you mean 'taylor'"),
        (["run", "nonsense"], "cannot read 'nonsense': write option=value"),
        (["run", "model.path=org/model", "+model._target_=os.system"], "`_target_` is refused"),
        (["run", "model.path=org/model", "hydra.launcher._target_=os.system"], "`_target_` is refused"),
        (["run", "--experimental-rerun", "config.pickle"], "it unpickles"),
        (["run", "--config-path", "/tmp"], "--config-dir"),
        (["eval", "/nonexistent/run"], "/nonexistent/run is not a run directory"),
        (["view", "/nonexistent/scene.ply"], "/nonexistent/scene.ply"),
        (["view", "/nonexistent/scene.pyl"], "'.pyl' is no kind of scene file"),
        (["view", "/nonexistent/page.html"], "open it in a browser"),
    ],
)
def test_mistakes_are_one_message_and_exit_code_2(
    arguments: list[str],
    words: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_command(arguments) == 2
    captured = capsys.readouterr()
    assert words in captured.err and captured.err.startswith("gencompress: ")
    assert captured.out == ""
    assert list(tmp_path.iterdir()) == [], "a mistake in the options leaves nothing behind"


@pytest.mark.parametrize("where", ["model", "hydra/launcher", "hydra/callbacks"])
def test_yaml_of_others_cannot_name_code(tmp_path: Path, where: str, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "made"
    code = {"_target_": "pathlib.Path.touch", "self": str(target)}
    bad = {"model": {"path": "org/model", "extra": code}} if where == "model" else {"hydra": {where[6:]: {"x": code}}}
    folder = tmp_path / "conf" / "experiment"
    folder.mkdir(parents=True)
    (folder / "bad.yaml").write_text("# @package _global_\n" + yaml.safe_dump({"model": {"path": "org/model"}, **bad}))
    for sweep in ([], ["-m"]):
        assert run_command(["run", *sweep, "--config-dir", str(tmp_path / "conf"), "+experiment=bad"]) == 2
        message = capsys.readouterr().err
        assert "refused" in message or "ConfigKeyError" in message
    assert not target.exists()


def test_run_resume_and_refusal(cli: Cli, tmp_path: Path) -> None:
    first = cli(*TINY, "criterion.updates=2", "budget.keep=0.7")
    assert first.returncode == 0, first.stderr
    (path,) = (tmp_path / "runs").iterdir()
    assert path.name == "budget.keep-0.7_criterion.updates-2_model.path-model_recipe.name-tiny"
    assert last_line(first) == f"finished: {path}"
    assert json.loads((path / "report" / "report.html").read_text()) == {"updates": 2, "keep": 0.7}
    assert yaml.safe_load((path / "config.yaml").read_text())["criterion"]["updates"] == 2

    again = cli(*TINY, "criterion.updates=2", "budget.keep=0.7")
    assert again.returncode == 0 and "scores: finished before" in again.stderr

    other = cli(*TINY, "criterion.updates=3", "budget.keep=0.7", f"run.dir={path}")
    assert other.returncode == 2
    assert "criterion.updates: 2 in the folder, 3 asked" in other.stderr
    assert {p.name for p in tmp_path.iterdir()} == {"site", "model", "runs"}, "no stray folders"


def test_actions_on_a_finished_run(cli: Cli, tmp_path: Path) -> None:
    assert cli(*TINY, "criterion.updates=2", "run.dir=mine").returncode == 0
    assert cli("eval", "mine").returncode == 0
    assert [e["stage"] for e in read_journal(tmp_path / "mine") if e["event"] == "stage_started"][2:] == ["report"]
    exported = cli("export", "mine", "--out", "out.json", "--portable")
    assert exported.returncode == 0 and exported.stdout == "out.json\n"
    assert json.loads((tmp_path / "out.json").read_text())["portable"] is True
    reported = cli("report", "mine")
    assert reported.stdout == f"{tmp_path / 'mine' / 'report' / 'report.html'}\n"


def test_a_typed_error_of_the_recipe(cli: Cli) -> None:
    result = cli(*TINY, "model.dtype=fp16")
    assert result.returncode == 2 and last_line(result) == "gencompress: the model holds NaN"


def test_a_sweep_makes_one_folder_per_value(cli: Cli, tmp_path: Path) -> None:
    result = cli(*TINY, "-m", "criterion.updates=1", "budget.keep=0.5,0.7", "run.dir=sweep")
    assert result.returncode == 0, result.stderr
    folders = sorted(p for p in (tmp_path / "sweep").iterdir() if p.is_dir())
    assert [p.name.split("_")[0] for p in folders] == ["budget.keep-0.5", "budget.keep-0.7"]
    assert [json.loads((p / "scores" / "scores.json").read_text())["keep"] for p in folders] == [0.5, 0.7]
    assert not (tmp_path / "multirun").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_finishes_the_step_and_exits_75(tmp_path: Path, number: int) -> None:
    (tmp_path / "site").mkdir()
    (tmp_path / "model").mkdir()
    command = [sys.executable, "-m", "gencompress", *TINY, "criterion.updates=5000", "run.dir=mine"]
    process = subprocess.Popen(
        command, cwd=tmp_path, env=tiny.install(tmp_path / "site"), stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("scores: running"):
            break
    os.kill(process.pid, number)
    rest = process.communicate(timeout=60)[1]
    assert process.returncode == 75
    assert "stopped in stage scores after step" in rest and "Traceback" not in rest
    assert read_journal(tmp_path / "mine")[-1]["error"] == "Interrupted"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("gencompress r", "run eval export report"),
        ("gencompress run criterion=t", "criterion=taylor"),
        ("gencompress run criterion=ecodiff criterion.warm", "criterion.warm_start="),
        ("gencompress run +experiment=", "+experiment=ecodiff_sample"),
        ("gencompress eval ru", ""),
    ],
)
def test_tab_completion(
    line: str, expected: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COMP_LINE", line)
    assert run_command(["-sc", "query=bash"]) == 0
    assert expected in capsys.readouterr().out.strip()


def test_help_of_run_lists_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    from gencompress.config import TABLES, option_names

    assert run_command(["run", "--help"]) == 0
    shown = capsys.readouterr().out
    hidden = [n for n in option_names() if f"  {n}=" not in shown and n not in {f"{group}.name" for group in TABLES}]
    assert hidden == []
    assert "did you mean" not in shown and "criterion=  blend_max  blend_sum  disturbed_taylor  ecodiff" in shown


def test_demo_prunes_a_model_twice_and_a_scene_and_names_the_pages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import gencompress.report
    from gencompress.run import launch

    made: dict[Path, float | None] = {}

    def execute(config: Config, path: Path) -> None:
        made[path] = config.budget.keep
        if config.domain.name == "splats":
            (path / "export").mkdir(parents=True)
            (path / "export/guitar.html").touch()

    def write_report(runs: list[Path], out: Path) -> Path:
        assert runs == list(made)[:2]
        return out

    monkeypatch.setattr(launch, "execute", execute)
    monkeypatch.setattr(gencompress.report, "write_report", write_report)
    out = tmp_path / "my 'runs', here"
    assert run_command(["demo", "--out", str(out)]) == 0
    assert made == {out / "demo-keep-0.8": 0.8, out / "demo-keep-0.67": 0.67, out / "demo-guitar": 0.25}
    named = [line.strip() for line in capsys.readouterr().out.splitlines()[1:]]
    scene = out / "demo-guitar"
    assert named == [str(p) for p in (out / "demo.html", scene / "report/report.html", scene / "export/guitar.html")]
