"""Whole runs on small scenes: from a file to smaller files, with everything in between."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file

from gencompress.cli import run_command
from gencompress.config import CRITERIA
from gencompress.core.plan import Plan
from gencompress.domains.splats.domain import Dense
from gencompress.domains.splats.fit import size_of
from gencompress.domains.splats.judge import Judge
from gencompress.domains.splats.stages import read_views
from gencompress.errors import BudgetError, ConfigError, DataError, FormatError, PlanError
from gencompress.formats import read_scene, write_scene
from gencompress.run import launch, read_journal, read_manifest
from gencompress.scenes import path as sample
from tests.e2e.pipes import metrics, quoted, stages_run
from tests.formats.synthetic import assert_equal
from tests.run.recipe import in_child, wait
from tests.splat_scenes import ball, room

FORMATS = ("ply", "compressed.ply", "splat", "spz", "sog", "glb", "html")
FEW = ["rig.views=6", "rig.size=48", "metrics.latency_runs=1", "run.threads=1", "run.quiet=true"]
REFINED = ["recover.steps=24", "recover.views=10"]
STAGES = "rig budget scores plan prune merge recover export eval report".split()
COUNT = 500


def overrides(scene: Path, run: Path, *more: str) -> list[str]:
    return ["+experiment=splat_prune", f"scene={quoted(scene)}", f"run.dir={quoted(run)}", *FEW, *more]


def execute(scene: Path, run: Path, *more: str) -> Path:
    launch.execute(*launch.compose(overrides(scene, run, *more)))
    return run


@pytest.fixture(scope="module")
def scene(tmp_path_factory) -> Path:
    """A ball with a column of its own, a splat that is not finite, and one that has flown away."""
    path = tmp_path_factory.mktemp("scene") / "ball.ply"
    made = ball(COUNT + 2, sh_degree=1, scale=0.09)
    made.sh0[COUNT, 1] = np.nan
    made.means[COUNT + 1] = 1e5
    made.extra["label"] = np.arange(COUNT + 2, dtype=np.int32)  # type: ignore[index]
    write_scene(path, made)
    return path


@pytest.fixture(scope="module")
def run(scene, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    return execute(scene, folder / "run", "budget.keep=0.3", *REFINED, f"export.formats=[{','.join(FORMATS)}]")


def test_every_stage_leaves_its_artefacts(run):
    assert list(read_manifest(run).stages) == STAGES == stages_run(run)
    plan, merges = Plan.load(run / "plan" / "plan.json"), load_file(run / "plan" / "merges.safetensors")
    pruned, merged, refined = (read_scene(run / stage / "scene.ply") for stage in ("prune", "merge", "recover"))
    assert len(pruned) == plan.counts["splats"] > len(merged) == len(refined) == 150
    assert len(pruned) - len(merged) == len(merges["first"])
    rounds = json.loads((run / "scores" / "rounds.json").read_text())
    assert rounds[-1]["splats"] == 150
    assert sum(r["deleted"] + r["merged"] for r in rounds) == COUNT - 150
    assert {p.name for p in (run / "export").iterdir()} == {f"ball.{kind}" for kind in FORMATS}
    assert not [p for p in run.rglob("*") if ".tmp-" in p.name]


def test_deletion_and_merging_leave_other_splats_as_they_were(scene, run):
    source, plan = read_scene(scene), Plan.load(run / "plan" / "plan.json")
    kept = plan.keep["splats"].numpy()
    assert_equal(read_scene(run / "prune" / "scene.ply"), source.take(kept))
    merged, merges = read_scene(run / "merge" / "scene.ply"), load_file(run / "plan" / "merges.safetensors")
    apart = np.setdiff1d(np.arange(len(kept)), np.concatenate([merges["first"], merges["second"]]))
    labels = source.extra["label"][kept[apart]]
    untouched = np.isin(merged.extra["label"], labels)
    assert_equal(merged.take(untouched), source.take(kept[apart]))
    for stage in ("merge", "recover"):
        assert set(read_scene(run / stage / "scene.ply").extra["label"]) <= set(source.extra["label"])


def test_metrics_have_every_field(run):
    found = metrics(run)
    assert (found["schema"], found["domain"], found["method"]) == (1, "splats", "leave_one_out")
    invisible = found["filter"]["invisible"]
    assert found["filter"] == {"not finite": 1, "degenerate": 0, "invisible": invisible, "flyaway": 1}
    dense = COUNT - invisible
    assert found["dense"]["units"] == dense == found["budget"]["dense"]
    assert found["pruned"]["units"] == found["budget"]["reached"] == found["budget"]["asked"]
    assert found["removal"]["deleted"] + found["removal"]["merged"] == dense - found["pruned"]["units"]
    assert found["pruned"]["bytes"] == (run / "export" / "ball.ply").stat().st_size
    for part in ("dense", "pruned"):
        assert found[part]["params"] == found[part]["units"] * 23 and found[part]["sh_degree"] == 1
        assert found[part]["latency_s"]["median"] > 0
    assert found["views"] | {"width": 0, "height": 0} == {
        "score": 6, "refine": 10, "test": 12, "close": 8, "width": 0, "height": 0, "source": "orbit",
    }  # fmt: skip
    assert [f["format"] for f in found["files"]] == list(FORMATS)
    assert found["files"][0]["psnr_db"] == found["quality"]["psnr_db"]["mean"]
    assert found["files"][0]["psnr_close_db"] == found["quality_close"]["psnr_db"]["mean"]
    assert "psnr_db" not in found["files"][-1], "a page is no scene"
    assert found["curve"]["step"] == list(range(1, 25)) and len(found["curve"]["loss"]) == 24
    assert list(found["stages"]) == ["prune", "merge", "recover"] and found["peak_memory_bytes"] > 1e8
    images = found["images"]
    assert images["names"][0] == "test 0" and images["names"][-1] == "close 7" and len(images["names"]) == 20
    assert images["psnr_db"][:12] == pytest.approx(found["quality"]["psnr_db"]["per_image"], abs=1e-3)
    for kind in ("dense", "pruned", "error", "crops"):
        assert len({Image.open(run / path).size for path in images[kind]}) == 1 and len(images[kind]) == 20
    dense_view, pruned_view, error = (np.asarray(Image.open(run / images[k][3])).astype(int) for k in list(images)[:3])
    assert np.abs(np.minimum(np.abs(dense_view - pruned_view) * 8, 255) - error).max() <= 12, "of rounded pictures"


def test_refinement_brings_the_renders_closer(run):
    quality = {name: stage["psnr_db"] for name, stage in metrics(run)["stages"].items()}
    assert quality["merge"] + 0.3 < quality["recover"]


def test_figures_are_those_of_the_files_read_back(run):
    with launch.reopen(run) as opened:
        judge = Judge(Dense.load(opened.config), read_views(run / "rig"))
    for file in metrics(run)["files"][:-1]:
        found = judge.quality(read_scene(run / file["path"]))
        assert (found.psnr_db.mean, found.ssim.mean) == pytest.approx((file["psnr_db"], file["ssim"]))
        assert file["bytes"] == (run / file["path"]).stat().st_size
    psnr = {f["format"]: f.get("psnr_db") for f in metrics(run)["files"]}
    assert psnr["ply"] >= max(psnr[k] for k in FORMATS[1:-1]) - 0.5, "coarser files are not closer"


def test_the_recorded_command_makes_the_same_run_again(scene, run, tmp_path):
    words = shlex.split(metrics(run)["command"])
    config, _ = launch.compose([*words[2:], f"run.dir={quoted(tmp_path / 'again')}", "run.quiet=true"])
    launch.execute(config, tmp_path / "again")
    for name in ("plan/plan.json", "plan/merges.safetensors", "recover/scene.ply", "export/ball.sog"):
        assert (run / name).read_bytes() == (tmp_path / "again" / name).read_bytes(), name
    assert metrics(run)["quality"] == metrics(tmp_path / "again")["quality"]


def test_a_finished_run_is_resumed_without_work(scene, run):
    before = stages_run(run)
    execute(scene, run, "budget.keep=0.3", *REFINED, f"export.formats=[{','.join(FORMATS)}]")
    assert stages_run(run) == before


def test_eval_report_and_export_on_a_finished_run(run, tmp_path, capsys):
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    assert run_command(["eval", str(copy)]) == 0 and run_command(["report", str(copy)]) == 0
    assert stages_run(copy) == [*STAGES, "eval", "report", "report"]
    assert metrics(copy)["quality"] == metrics(run)["quality"]
    assert run_command(["export", str(copy), "--out", str(tmp_path / "out")]) == 0
    for kind in FORMATS:
        assert (tmp_path / "out" / f"ball.{kind}").read_bytes() == (run / "export" / f"ball.{kind}").read_bytes(), kind
    assert run_command(["export", str(copy), "--out", str(tmp_path / "out")]) == 2
    assert "already exists" in capsys.readouterr().err


CHEAP = [name for name, kind in CRITERIA.items() if "splats" in kind.domains and name != "leave_one_out"]


@pytest.mark.parametrize("criterion", [*CHEAP, "leave_one_out"])
def test_every_criterion_runs_without_merging_and_refinement(criterion, scene, tmp_path):
    more = ["merge.pairs=false"] if criterion == "leave_one_out" else []
    options = [f"criterion={criterion}", "budget.target=200", "recover=none", "export.formats=[splat]"]
    found = metrics(execute(scene, tmp_path / "run", *options, *more))
    assert list(read_manifest(tmp_path / "run").stages) == [s for s in STAGES if s not in ("merge", "recover")]
    assert found["method"] == criterion and found["pruned"]["units"] == 200 and found["removal"]["merged"] == 0
    assert "curve" not in found and found["files"][0]["bytes"] == 200 * 32


@pytest.mark.parametrize("kind", ["ply", "spz"])
def test_bytes_are_met_within_two_percent(kind, scene, tmp_path):
    limit = {"ply": 0.02, "spz": 0.004}[kind]
    found = metrics(execute(scene, tmp_path / "run", f"budget.max_mb={limit}", *REFINED, f"export.formats=[{kind}]"))
    assert found["budget"]["metric"] == "bytes" and found["budget"]["asked"] == limit * 1e6
    size = (tmp_path / "run" / "export" / f"ball.{kind}").stat().st_size
    assert size == found["budget"]["reached"] == found["pruned"]["bytes"]
    assert 0.98 * limit * 1e6 <= size <= limit * 1e6


SMALL = {
    "ball": lambda: ball(2000, sh_degree=2, scale=0.06),
    "room": lambda: room(3000),
    "guitar": lambda: read_scene(sample("guitar")).take(slice(None, None, 30)),
}


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("budget", ["max_mb", "min_psnr"])
def test_budgets_are_met_on_scenes_of_any_kind(budget, name, tmp_path):
    path = tmp_path / f"{name}.ply"
    write_scene(path, SMALL[name]())
    asked = round(0.3 * size_of(read_scene(path), "sog") / 1e6, 5) if budget == "max_mb" else 32
    options = [f"budget.{budget}={asked}", *REFINED, "export.formats=[sog]"]
    run = execute(path, tmp_path / "run", *options)
    found = metrics(run)
    if budget == "max_mb":
        assert 0.98 * asked * 1e6 <= (run / "export" / f"{name}.sog").stat().st_size <= asked * 1e6
    else:
        assert asked <= found["files"][0]["psnr_db"] <= asked + 0.5
    assert found["pruned"]["units"] < found["dense"]["units"]


@pytest.mark.parametrize("criterion", ["leave_one_out", "blend_sum"])
def test_quality_is_met_and_not_exceeded_by_much(criterion, scene, tmp_path):
    options = [f"criterion={criterion}", "budget.min_psnr=30", *REFINED, "export.formats=[spz]"]
    found = metrics(execute(scene, tmp_path / "run", *options))
    assert found["budget"]["metric"] == "psnr" and found["budget"]["asked"] == 30
    reached = found["quality"]["psnr_db"]["mean"]
    assert reached == pytest.approx(found["budget"]["reached"]) and 30 <= reached <= 30.5
    assert 10 < found["pruned"]["units"] < COUNT


@pytest.mark.parametrize("asked", ["budget.max_mb=0.02", "budget.min_psnr=27"])
def test_rounds_of_the_search_are_those_of_its_count(asked, scene, tmp_path):
    options = ["recover=none", "export.formats=[ply]"]
    search = execute(scene, tmp_path / "search", asked, *options)
    units = json.loads((search / "budget" / "budget.json").read_text())["units"]
    execute(scene, tmp_path / "count", f"budget.target={units}", *options)
    for name in ("rounds.safetensors", "rounds.json"):
        first, other = (tmp_path / run / "scores" / name for run in ("search", "count"))
        assert first.read_bytes() == other.read_bytes(), name
    assert not (tmp_path / "count" / "budget" / "rounds.safetensors").exists(), "a count needs no search"


@pytest.mark.parametrize("options", [["budget.max_mb=0.0000001"], ["budget.min_psnr=99"]])
def test_budgets_out_of_reach_say_what_is_reached(options, scene, tmp_path):
    with pytest.raises(BudgetError, match=r"cannot be met"):
        execute(scene, tmp_path / "run", *options, *REFINED, "export.formats=[splat]")


def test_keeping_everything_changes_nothing(scene, tmp_path):
    found = metrics(execute(scene, tmp_path / "run", "budget.keep=1.0", "recover=none", "export.formats=[ply]"))
    assert found["quality"]["psnr_db"]["mean"] == 100 and found["removal"] == {"deleted": 0, "merged": 0}
    assert "merge" not in read_manifest(tmp_path / "run").stages


def test_given_cameras_are_taken(scene, tmp_path):
    """cameras.json beside the scene; every eighth view judges."""
    from tests.splat_scenes import ring

    shutil.copy(scene, tmp_path / "ball.ply")
    cameras, entries = ring(16, 48), []
    for i in range(16):
        rotation = np.linalg.inv(cameras.viewmats[i].astype(float))
        entries.append({
            "id": i, "img_name": f"{i:03d}", "width": 48, "height": 48,
            "position": rotation[:3, 3].tolist(), "rotation": rotation[:3, :3].tolist(),
            "fx": float(cameras.Ks[i, 0, 0]), "fy": float(cameras.Ks[i, 1, 1]),
        })  # fmt: skip
    (tmp_path / "cameras.json").write_text(json.dumps(entries))
    options = ["budget.keep=0.5", "recover=none", "export.formats=[ply]"]
    found = metrics(execute(tmp_path / "ball.ply", tmp_path / "run", *options))
    assert found["views"]["source"] == "given" and (found["views"]["score"], found["views"]["test"]) == (6, 2)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (["budget.keep=0.0001"], BudgetError, r"budget.keep=0.0001 leaves none of \d+ splats"),
        (["budget.keep=0.5", "rig.cameras=nowhere.json"], FormatError, "nowhere.json"),
        (["budget.keep=0.5", "criterion=opacity", "merge.neighbours=3"], ConfigError, "merge.neighbours=3"),
        (["budget.keep=0.5", "merge.pairs=false", "merge.neighbours=3"], ConfigError, "merge.neighbours=3"),
    ],
)
def test_options_that_cannot_be_met_are_one_typed_error(options, error, message, scene, tmp_path):
    with pytest.raises(error, match=message):
        execute(scene, tmp_path / "run", *options, *REFINED)


def test_bad_scenes_are_one_typed_error(tmp_path):
    with pytest.raises(DataError, match=r"scene='.*missing.ply': no such file"):
        execute(tmp_path / "missing.ply", tmp_path / "run", "budget.keep=0.5")
    (tmp_path / "torn.ply").write_bytes(b"ply\nformat binary_little_endian 1.0\nelement vertex 5\n")
    with pytest.raises(FormatError, match=r"torn\.ply"):
        execute(tmp_path / "torn.ply", tmp_path / "run", "budget.keep=0.5")


def test_an_input_that_changed_under_a_run_is_refused(scene, tmp_path):
    mine = tmp_path / "ball.ply"
    shutil.copy(scene, mine)
    options = ["budget.keep=0.5", "recover=none", "export.formats=[ply]"]
    execute(mine, tmp_path / "run", *options)
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    manifest["stages"] = {name: manifest["stages"][name] for name in STAGES[:4]}
    (tmp_path / "run" / "manifest.json").write_text(json.dumps(manifest))
    changed = read_scene(mine)
    changed.sh0[0] += 1
    write_scene(mine, changed)
    with pytest.raises(PlanError, match="the plan is for a model with other weights"):
        execute(mine, tmp_path / "run", *options)


@pytest.mark.parametrize("stage", ["scores", "recover", "eval"])
def test_a_killed_run_ends_as_an_undisturbed_one(stage, scene, run, tmp_path):
    options = ["budget.keep=0.3", *REFINED, f"export.formats=[{','.join(FORMATS)}]"]
    child = in_child(lambda: execute(scene, tmp_path / "run", *options))
    until = time.monotonic() + 300
    while time.monotonic() < until:
        events = read_journal(tmp_path / "run") if (tmp_path / "run").is_dir() else []
        if any(e["event"] == "progress" and e["stage"] == stage for e in events):
            break
        time.sleep(0.002)
    os.kill(child, signal.SIGKILL)
    assert wait(child) == -signal.SIGKILL
    assert stage not in read_manifest(tmp_path / "run").stages
    execute(scene, tmp_path / "run", *options)
    for name in ("plan/plan.json", "recover/scene.ply", "export/ball.ply"):
        assert (run / name).read_bytes() == (tmp_path / "run" / name).read_bytes(), name
    assert metrics(run)["quality"] == metrics(tmp_path / "run")["quality"]
