from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gencompress.errors import ConfigError
from gencompress.run import Run, StageContext
from gencompress.run.atomic import write_json
from tests.run.recipe import Options, Process


class Recorder:
    """Stands in for a tracker's module and writes down what it is asked."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, Any]] = []

    def init(self, **about: Any) -> None:
        self.calls.append(("init", about))

    def log(self, figures: dict[str, float]) -> None:
        self.calls.append(("log", figures))

    def finish(self) -> None:
        self.calls.append(("finish", None))

    def SummaryWriter(self, folder: str) -> SimpleNamespace:
        self.calls.append(("init", folder))
        return SimpleNamespace(
            add_text=lambda *a: None, close=self.finish, add_scalar=lambda *a: self.calls.append(("scalar", a))
        )


@pytest.fixture
def recorder(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Recorder:
    made = Recorder()
    monkeypatch.setitem(sys.modules, request.param, made)
    return made


def recipe(run: Run) -> None:
    def learn(ctx: StageContext) -> None:
        for step in (1, 2):
            ctx.progress(step, 2, loss=1 / step)

    def evaluate(ctx: StageContext) -> None:
        write_json(ctx.dir / "metrics.json", {"quality": {"psnr_db": {"mean": 30.5, "per_image": [1]}}, "model": "a"})

    run.stage("learn", learn)
    run.stage("eval", evaluate)


def options(tracker: str) -> Any:
    return Options(run=Process(tracker=tracker))


@pytest.mark.parametrize(("recorder", "name"), [("trackio", "trackio"), ("wandb", "wandb")], indirect=["recorder"])
def test_progress_and_results_go_to_the_tracker(tmp_path: Path, recorder: Recorder, name: str) -> None:
    with Run.open(tmp_path / "mine", options(name)) as run:
        recipe(run)
    (kind, about), *rest = recorder.calls
    assert kind == "init" and about["project"] == "gencompress" and about["name"] == "mine"
    assert about["config"]["steps"] == 12 and about["config"]["run"]["tracker"] == name
    assert rest == [
        ("log", {"learn/loss": 1.0, "step": 1}),
        ("log", {"learn/loss": 0.5, "step": 2}),
        ("log", {"quality.psnr_db.mean": 30.5}),
        ("finish", None),
    ]


@pytest.mark.parametrize("recorder", ["torch.utils.tensorboard"], indirect=True)
def test_tensorboard_writes_into_the_run(tmp_path: Path, recorder: Recorder) -> None:
    with Run.open(tmp_path / "mine", options("tensorboard")) as run:
        recipe(run)
    assert recorder.calls == [
        ("init", str(tmp_path / "mine" / "tensorboard")),
        ("scalar", ("learn/loss", 1.0, 1)),
        ("scalar", ("learn/loss", 0.5, 2)),
        ("scalar", ("quality.psnr_db.mean", 30.5, 0)),
        ("finish", None),
    ]


@pytest.mark.parametrize("recorder", ["wandb"], indirect=True)
def test_a_run_that_fails_ends_the_tracker_without_results(tmp_path: Path, recorder: Recorder) -> None:
    with pytest.raises(ValueError, match="no"), Run.open(tmp_path / "mine", options("wandb")):
        raise ValueError("no")
    assert [kind for kind, _ in recorder.calls] == ["init", "finish"]


@pytest.mark.parametrize("recorder", ["wandb"], indirect=True)
def test_a_tracker_that_fails_is_left_out_and_the_run_goes_on(
    tmp_path: Path, recorder: Recorder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(figures: dict[str, float]) -> None:
        raise ConnectionError("away")

    monkeypatch.setattr(recorder, "log", fail)
    loud = Options(run=Process(tracker="wandb", quiet=False))
    with Run.open(tmp_path / "mine", loud) as run:  # type: ignore[arg-type]
        recipe(run)
    said = [line for line in capsys.readouterr().err.splitlines() if "run.tracker" in line]
    assert said == ["run.tracker=wandb failed and gets nothing more: ConnectionError('away')"]
    assert (tmp_path / "mine" / "eval" / "metrics.json").exists()


def test_a_tracker_that_is_not_installed_is_refused_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "trackio", None)
    with pytest.raises(
        ConfigError, match=r"run\.tracker=trackio: install it with `pip install gencompress\[trackers\]`"
    ):
        Run.open(tmp_path / "mine", options("trackio"))


def test_without_a_tracker_none_is_imported(tmp_path: Path) -> None:
    with Run.open(tmp_path / "mine", options("none")) as run:
        recipe(run)
    assert not {"trackio", "wandb", "torch.utils.tensorboard"} & set(sys.modules)
