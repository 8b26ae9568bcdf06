"""The stages of a splat run, in the order in which the recipe calls them. Each writes a folder of the run directory."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from gencompress import config as options
from gencompress.core.plan import Plan
from gencompress.domains.splats import groups, road
from gencompress.domains.splats.domain import Dense, Views, place
from gencompress.domains.splats.fit import fitted, trimmed
from gencompress.domains.splats.merge import Merges
from gencompress.domains.splats.reduce import Reduced, recorded
from gencompress.domains.splats.rig import Rig
from gencompress.domains.splats.scores import one_shot_scores
from gencompress.formats import Cameras, SplatScene, read_scene, write_scene
from gencompress.run import StageContext
from gencompress.run.atomic import write_json, write_text

_CAMERAS, _SCENE, _LOSSES = "cameras.safetensors", "scene.ply", "losses.safetensors"
_SCORES, _ROUNDS, _MERGES = "scores.safetensors", "rounds.safetensors", "merges.safetensors"
_ROUND_FIGURES = "rounds.json"
_PARTS = ("scoring", "test", "close", "practice")


def place_cameras(ctx: StageContext, dense: Dense, config: options.Config) -> None:
    """Cameras for scores, refinement and judgement: cameras.safetensors."""
    rig = place(dense, config, config.rig.views, config.rig.seed)
    practice = rig.scoring
    if isinstance(config.recover, options.RefineRecover):
        practice = place(dense, config, config.recover.views, config.rig.seed + 1).scoring
    tensors, sizes = {}, {}
    for name, cameras in zip(_PARTS, (rig.scoring, rig.test, rig.close, practice), strict=True):
        sizes[name] = [cameras.width, cameras.height]
        for key in ("viewmats", "Ks"):
            tensors[f"{name}.{key}"] = torch.tensor(getattr(cameras, key))
    save_file(tensors, ctx.dir / _CAMERAS, {"kind": rig.kind, "sizes": json.dumps(sizes)})


def read_views(folder: Path) -> Views:
    """The cameras of `place_cameras`."""
    with safe_open(folder / _CAMERAS, framework="numpy") as file:
        kind, sizes = file.metadata()["kind"], json.loads(file.metadata()["sizes"])
        found = [
            Cameras(file.get_tensor(f"{name}.viewmats"), file.get_tensor(f"{name}.Ks"), *sizes[name]) for name in _PARTS
        ]
    return Views(Rig(found[0], found[1], found[2], kind), found[3])


def fit_budget(ctx: StageContext, dense: Dense, views: Views, config: options.Config) -> None:
    """How many splats may stay: budget.json, and the rounds that lead there if searching took some."""
    budget, state = fitted(dense, views, config, ctx)
    write_json(ctx.dir / "budget.json", budget)
    if state is not None:
        _save_rounds(ctx.dir, state)


def read_budget(folder: Path) -> dict[str, Any]:
    """The budget of `fit_budget`."""
    budget: dict[str, Any] = json.loads((folder / "budget.json").read_text(encoding="utf-8"))
    return budget


def score(ctx: StageContext, dense: Dense, views: Views, budget: Path, config: options.Config) -> None:
    """Rounds of deleting and merging down to the budget's count, or one score per splat, by the criterion of `config`.

    Rounds that `fit_budget` has left are not made again.
    """
    if (budget / _ROUNDS).exists():
        for name in (_ROUNDS, _ROUND_FIGURES):
            shutil.copyfile(budget / name, ctx.dir / name)
    elif isinstance(config.criterion, options.LeaveOneOutCriterion):
        _save_rounds(ctx.dir, road.rounds(dense, views, read_budget(budget)["units"], config, ctx))
    else:
        save_file(one_shot_scores(dense, views.rig.scoring, config.criterion, ctx), ctx.dir / _SCORES)


def _save_rounds(folder: Path, state: Reduced) -> None:
    save_file(recorded(state), folder / _ROUNDS)
    write_json(folder / _ROUND_FIGURES, list(state.rounds))


def make_plan(ctx: StageContext, dense: Dense, scores: Path, budget: Path, config: options.Config) -> None:
    """The splats that are not deleted, plan.json; and the merges among them, merges.safetensors."""
    asked = read_budget(budget)
    if (scores / _ROUNDS).exists():
        found = load_file(scores / _ROUNDS)
        merges = Merges(*(found[name].numpy() for name in ("first", "second", "opacities", "rounds")))
        removal = road.Removal.of(found["gone"].numpy(), merges)
    else:
        removal = road.highest(load_file(scores / _SCORES), asked["units"])
    kept = torch.from_numpy(removal.kept)
    write_text(ctx.dir / "plan.json", groups.plan_of(dense.scene, kept, asked, vars(config.criterion)).to_json())
    save_file({name: torch.tensor(array) for name, array in vars(removal.merges).items()}, ctx.dir / _MERGES)


def read_plan(folder: Path) -> tuple[Plan, Merges]:
    """The plan of `make_plan`, and its merges."""
    merges = load_file(folder / _MERGES)
    return Plan.load(folder / "plan.json"), Merges(**{name: tensor.numpy() for name, tensor in merges.items()})


def prune(ctx: StageContext, dense: Dense, plan: Plan) -> None:
    """Deletion: scene.ply."""
    plan.check_source(dense.source)
    write_scene(ctx.dir / _SCENE, groups.prune(dense.scene, plan))


def merge(ctx: StageContext, pruned: SplatScene, merges: Merges) -> None:
    """One splat in place of two, as often as planned: scene.ply."""
    write_scene(ctx.dir / _SCENE, road.merge(pruned, merges))


def recover(ctx: StageContext, left: SplatScene, dense: Dense, views: Views, config: options.Config) -> None:
    """Training on the input's renders, and the last fit to a budget of bytes: scene.ply, and the losses."""
    scene, losses = road.repair(left, dense, views, config, ctx)
    write_scene(ctx.dir / _SCENE, trimmed(scene, dense, views, config, ctx))
    save_file({"loss": torch.tensor(losses)}, ctx.dir / _LOSSES)


def read_left(folder: Path) -> SplatScene:
    """The scene of `prune`, `merge` or `recover`."""
    return read_scene(folder / _SCENE)


def read_losses(folder: Path) -> list[float]:
    """The loss of every step of `recover`; empty where it was not asked for."""
    path = folder / _LOSSES
    return load_file(path)["loss"].tolist() if path.exists() else []
