"""Whole runs on tiny pipelines: from a stock folder to a smaller stock folder, with everything in between."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from gencompress.core.budget import Budget, solve
from gencompress.core.cost import CostModel
from gencompress.core.plan import Plan
from gencompress.criteria.random import random_scores
from gencompress.domains.diffusion.domain import Diffusion
from gencompress.domains.diffusion.stages import LEARNED
from gencompress.run import launch, read_manifest
from tests.domains.diffusion.tiny import PROMPTS
from tests.e2e.pipes import MASKS, RECOVERY, execute, metrics, overrides, prompts_file, save, stages, stages_run

STAGES = {"ddpm": stages("recover"), "sd": stages("choose"), "dit": stages()}
CALLS = {
    "ddpm": {"batch_size": 3},
    "sd": {"prompt": [PROMPTS[n % 2] for n in range(3)], "guidance_scale": 3.0},
    "dit": {"class_labels": [0, 1, 2], "guidance_scale": 4.0},
}
OPTIONS = {
    "ddpm": ["criterion.warm_start=gauss_newton", "budget.keep=0.7"],
    "sd": ["denoise.guidance_scale=3", "budget.metric=macs", "budget.keep=0.75", *RECOVERY, "recover.lora_rank=2"],
    "dit": ["criterion.warm_start=fisher", "budget.keep=0.6", *RECOVERY],
}


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    return tmp_path_factory.mktemp("e2e")


@pytest.fixture(scope="module")
def runs(work):
    """A finished run of the mask recipe for every pipeline: its folder and its options."""
    made = {}
    for name in CALLS:
        options = [*MASKS, *OPTIONS[name], *([prompts_file(work)] if name == "sd" else [])]
        made[name] = (execute(save(name, work / name), work / f"run-{name}", *options), options)
    return made


@pytest.fixture(params=list(CALLS))
def run(request, runs):
    return request.param, *runs[request.param]


@pytest.fixture(scope="module")
def reloaded(work, runs):
    """Images of all exported folders, made by one new Python process with stock diffusers and `import gencompress`."""
    script = """
import sys, json, gencompress, numpy as np, torch
from diffusers import DiffusionPipeline
torch.set_num_threads(1)
for name, call in json.loads(sys.argv[2]).items():
    pipe = DiffusionPipeline.from_pretrained(f"{sys.argv[1]}/run-{name}/export")
    pipe.set_progress_bar_config(disable=True)
    generators = [torch.Generator().manual_seed(n) for n in range(3)]
    images = pipe(**call, generator=generators, num_inference_steps=2, output_type="np").images
    np.save(f"{sys.argv[1]}/{name}.npy", images)
    part = getattr(pipe, "unet", None) or pipe.transformer
    print(name, type(part).__name__, sum(p.numel() for p in part.parameters()))
"""
    command = [sys.executable, "-W", "ignore", "-c", script, str(work), json.dumps(CALLS)]
    ended = subprocess.run(command, capture_output=True, text=True, cwd=work)
    assert ended.returncode == 0, ended.stderr
    said = {line.split()[0]: line.split()[1:] for line in ended.stdout.splitlines()}
    return {name: (np.load(work / f"{name}.npy"), *said[name]) for name in CALLS}


def test_every_stage_leaves_its_artefacts(run):
    name, path, _ = run
    assert list(read_manifest(path).stages) == STAGES[name] == stages_run(path)
    scores, curve = load_file(path / "scores" / "scores.safetensors"), load_file(path / "scores" / "curve.safetensors")
    plan = Plan.load(path / "plan" / "plan.json")
    assert {n: len(s) for n, s in scores.items()} == plan.sizes
    assert curve["curve"].shape == (4, 2)
    assert (path / "warm_start" / "scores.safetensors").exists() == (name != "sd")
    for stage in ("prune", "compensate"):
        assert {p.name for p in (path / stage).iterdir()} == {"config.json", "diffusion_pytorch_model.safetensors"}
    made = [s for s in ("prune", "compensate", "recover") if s in STAGES[name]]
    weights = [load_file(path / s / "diffusion_pytorch_model.safetensors") for s in made]
    for one, other in itertools.pairwise(weights):
        assert {n: t.shape for n, t in one.items()} == {n: t.shape for n, t in other.items()}
        assert any(not torch.equal(one[n], other[n]) for n in one), "every stage changed something"
    exported = path / "export"
    assert {"model_index.json", "plan.json", "README.md"} <= {p.name for p in exported.iterdir()}
    assert (exported / "plan.json").read_text() == (path / "plan" / "plan.json").read_text()
    assert (path / "report" / "report.html").read_text().startswith("<!doctype html>")
    assert not [p for p in path.rglob("*") if ".tmp-" in p.name or p.suffix in (".bin", ".pt", ".pkl")]


def test_metrics_have_every_field(run):
    name, path, _ = run
    found = metrics(path)
    plan = Plan.load(path / "plan" / "plan.json")
    chosen = (
        json.loads((path / "choose" / "choice.json").read_text())["chosen"] if (path / "choose").exists() else LEARNED
    )
    assert found["schema"] == 1 and found["model"].endswith(f"/{name}")
    assert found["method"] == ("ecodiff" if chosen == LEARNED else chosen)
    assert found["budget"] == plan.budget
    assert (found["seeds"], found["steps"], found["threads"]) == (3, 2, 1)
    assert found["scheduler"] == "DDIMScheduler" and found["hardware"] and len(found["date"]) == 10
    for model in ("dense", "pruned"):
        part = found[model]
        assert all(part[key] > 0 for key in ("params", "macs", "bytes"))
        assert part["bytes"] == 4 * part["params"]
        assert 0 < part["latency_s"]["p10"] <= part["latency_s"]["median"] <= part["latency_s"]["p90"]
        assert part["latency_s"]["runs"] == 1 and "peak_memory_bytes" in part
        assert (part["energy_j"] is None) == part["energy_method"].startswith("not measured")
    metric = found["budget"]["metric"]
    assert found["pruned"][metric] == found["budget"]["reached"] <= found["budget"]["asked"]
    assert found["dense"][metric] == found["budget"]["dense"]
    quality = found["quality"]
    for key in ("psnr_db", "ssim"):
        assert len(quality[key]["per_image"]) == 3
        assert quality[key]["mean"] == pytest.approx(np.mean(quality[key]["per_image"]))
        assert quality[key]["se"] > 0
    assert "lpips" in quality or quality["lpips_note"]
    kept = {g["name"]: (g["size"], g["kept"]) for g in found["groups"]}
    assert kept == {n: (plan.sizes[n], count) for n, count in plan.counts.items()}
    assert {g["kind"] for g in found["groups"]} >= {"head"}
    assert found["curve"]["step"] == [1, 2, 3, 4] and len(found["curve"]["loss"]) == len(found["curve"]["keep"]) == 4
    for sheet in ("dense", "pruned"):
        assert len(found["images"][sheet]) == 3
        assert len({Image.open(path / picture).size for picture in found["images"][sheet]}) == 1
    prompts = {"sd": CALLS["sd"].get("prompt"), "dit": ["0", "1", "2"]}
    assert found["images"].get("prompts") == prompts.get(name)


def test_the_recorded_command_composes_to_the_same_run(run):
    import shlex

    _, path, _ = run
    words = shlex.split(metrics(path)["command"])
    assert words[:2] == ["gencompress", "run"]
    again, _ = launch.compose(words[2:])
    with launch.reopen(path) as opened:
        first = opened.config
    again.run.dir = first.run.dir
    assert again == first


def test_the_budget_is_reached_within_one_step(run):
    _, path, _ = run
    with launch.reopen(path) as opened:
        dense = Diffusion.load(opened.config)
    plan = Plan.load(path / "plan" / "plan.json")
    cost: CostModel = dense.cost(plan.budget["metric"])
    assert cost.total(plan.counts) == plan.budget["reached"] <= plan.budget["asked"]
    for group in dense.groups:
        kept = plan.counts[group.name]
        if kept < group.size:
            wider = cost.total({**plan.counts, group.name: min(group.size, kept + group.round_to)})
            assert wider > plan.budget["asked"], f"{group.name} could keep one step more"
    assert plan.source == dense.source


def test_stock_diffusers_reproduces_the_images_in_a_new_process(run, reloaded):
    name, path, _ = run
    images, kind, parameters = reloaded[name]
    assert kind.startswith("Pruned") and int(parameters) == metrics(path)["pruned"]["params"]

    result = "compensate" if name == "ddpm" else "recover"
    with launch.reopen(path) as opened:
        before = Diffusion.load(opened.config).load_denoiser(path / result).pipe
    before.set_progress_bar_config(disable=True)
    generators = [torch.Generator().manual_seed(n) for n in range(3)]
    call = dict(CALLS[name])
    expected = before(**call, generator=generators, num_inference_steps=2, output_type="np").images
    assert np.abs(images - expected).max() <= 1e-5
    for n, picture in enumerate(metrics(path)["images"]["pruned"]):
        shown = np.asarray(Image.open(path / picture)).astype(float)
        assert np.abs(shown - images[n] * 255).max() <= 0.51, "the report shows what the exported pipeline makes"


def test_a_finished_run_is_resumed_without_work(run):
    name, path, options = run

    def made():
        return {p: p.stat().st_mtime_ns for stage in STAGES[name] for p in (path / stage).rglob("*")}

    before = made()
    execute(path.parent / name, path, *options)
    assert stages_run(path) == STAGES[name]
    assert made() == before


CHEAP = {
    "random": ["budget.keep=0.5"],
    "magnitude": ["criterion.normalise=mean", "budget.metric=macs", "budget.keep=0.8"],
    "taylor": ["criterion.samples=16", "budget.keep=null", "budget.target=4500"],
    "fisher": ["criterion.samples=16", "criterion.per_cost=true", "budget.metric=macs", "budget.uniform=true"],
    "gauss_newton": ["criterion.trajectories=8", "budget.keep=0.7", "budget.scope=total", "compensate.trajectories=0"],
}


@pytest.fixture(scope="module")
def smallest(work):
    return save("smallest", work / "smallest")


@pytest.mark.parametrize("criterion", list(CHEAP))
def test_every_criterion_runs_on_either_budget(criterion, smallest, tmp_path):
    import shlex

    path = execute(smallest, tmp_path / "run", "recipe=one_shot", f"criterion={criterion}", *CHEAP[criterion])
    found = metrics(path)
    assert found["method"] == criterion and "curve" not in found
    budget = found["budget"]
    assert found["pruned"][budget["metric"]] == budget["reached"] <= budget["asked"] < budget["dense"]
    without = "compensate" if criterion == "gauss_newton" else ""
    assert list(read_manifest(path).stages) == stages(f"warm_start choose recover {without}")
    assert launch.compose(shlex.split(found["command"])[2:])[0].budget.target == budget_target(CHEAP[criterion])


def budget_target(options):
    return next((int(o.partition("=")[2]) for o in options if o.startswith("budget.target")), None)


def test_the_same_command_gives_the_same_plan_and_images(smallest, tmp_path):
    paths = [execute(smallest, tmp_path / n, *MASKS, "budget.keep=0.6") for n in ("one", "two")]
    plans = [(p / "plan" / "plan.json").read_bytes() for p in paths]
    weights = [(p / "compensate" / "diffusion_pytorch_model.safetensors").read_bytes() for p in paths]
    assert plans[0] == plans[1] and weights[0] == weights[1]
    assert metrics(paths[0])["quality"] == metrics(paths[1])["quality"]


def test_keeping_everything_changes_nothing(smallest, tmp_path):
    found = metrics(execute(smallest, tmp_path / "run", *MASKS, "budget.keep=1.0"))
    assert found["pruned"]["params"] == found["dense"]["params"]
    assert found["quality"]["psnr_db"]["mean"] == 100 and found["quality"]["ssim"]["mean"] == pytest.approx(1)


def test_removing_everything_that_can_go_still_ends(smallest, tmp_path):
    options = ["recipe=one_shot", "criterion=random", "budget.keep=1e-6", "budget.min_keep=0"]
    found = metrics(execute(smallest, tmp_path / "run", *options))
    assert all(g["kept"] == 0 for g in found["groups"])
    assert found["pruned"]["params"] == found["budget"]["dense"] - found["budget"]["prunable"]


def test_whole_blocks_go_and_those_behind_them_are_repaired(tmp_path):
    """Layers behind a removed block have another name in the pruned model."""
    model = save("deep_dit", tmp_path / "model")
    fixed = ["domain.depth=true", "recipe=one_shot", "criterion=random", "budget.keep=0.5"]
    dense = Diffusion.load(launch.compose(overrides(model, tmp_path / "run", *fixed))[0])
    cost, ff = dense.cost("params"), dense.groups.by_name["transformer_blocks.2.ff"]
    for seed in range(100):  # until chance removes the middle block and some hidden units of the last one
        counts = solve(dense.groups, random_scores(dense.groups, seed), Budget(keep=0.5), cost).counts
        if (counts["transformer_blocks.1"], counts["transformer_blocks.2"]) == (0, 1) and 0 < counts[ff.name] < ff.size:
            break
    path = execute(model, tmp_path / "run", *fixed, f"criterion.seed={seed}")
    assert metrics(path)["pruned"]["params"] == metrics(path)["budget"]["reached"]
    one, other = (load_file(path / s / "diffusion_pytorch_model.safetensors") for s in ("prune", "compensate"))
    weight = "transformer_blocks.1.ff.net.2.weight"  # of the block that was the last one before
    assert not any(name.startswith("transformer_blocks.2.") for name in one)
    assert one[weight].shape[1] == counts[ff.name] and not torch.equal(one[weight], other[weight])


def test_models_in_bf16_run(smallest, tmp_path):
    path = execute(smallest, tmp_path / "run", *MASKS, "model.dtype=bf16", "budget.keep=0.7")
    weights = load_file(path / "compensate" / "diffusion_pytorch_model.safetensors")
    assert {t.dtype for t in weights.values()} == {torch.bfloat16}
    assert metrics(path)["dense"]["bytes"] == 2 * metrics(path)["dense"]["params"]


def test_one_image_is_enough(smallest, tmp_path):
    path = execute(smallest, tmp_path / "run", "recipe=one_shot", "criterion=magnitude", "metrics.images=1")
    assert metrics(path)["quality"]["psnr_db"]["se"] is None and (path / "report" / "report.html").exists()
