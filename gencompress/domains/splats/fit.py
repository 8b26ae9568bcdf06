"""How many splats a budget allows, in files and renders that are really made; and the last correction of the bytes."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gencompress import config as options
from gencompress.core.subject import Progress
from gencompress.domains.splats.budget import (
    BYTE_BAND,
    MEGABYTE,
    MOST_MEASUREMENTS,
    Fit,
    SceneBudget,
    fit_bytes,
    fit_quality,
    record,
)
from gencompress.domains.splats.domain import Dense, Views, renders, scene_of
from gencompress.domains.splats.judge import Judge
from gencompress.domains.splats.reduce import Reduced, reduce
from gencompress.domains.splats.road import Quiet, Trials
from gencompress.formats import SplatScene, read_scene, write_scene
from gencompress.kernels.splats import Splats

_GAIN_DB = 3.0  # what refinement adds, roughly: the first guess at a count has it before it is measured
_FIRST_AIM = BYTE_BAND / 8  # how far below the limit the first cut after refinement aims
_SAMPLE = 20_000  # splats that tell about how many bytes each takes


def budget_of(config: options.Config) -> SceneBudget:
    """The budget that the options ask for. Raises BudgetError."""
    budget = config.budget
    return SceneBudget(budget.keep, budget.target, budget.max_mb, budget.min_psnr)


def fitted(dense: Dense, views: Views, config: options.Config, ctx: Progress) -> tuple[dict[str, Any], Reduced | None]:
    """What is asked and how many splats meet it, plain JSON (`gencompress.domains.splats.budget.record`).

    Where that took rounds of deleting and merging, those that lead to this count are given, too.

    Raises:
        BudgetError: it cannot be met; says what can be.
    """
    budget, units = budget_of(config), dense.units
    count = budget.count(units)
    if count is not None:
        return record(budget, units, Fit(count, count)), None
    trials, kind = Trials(dense, views, config, ctx), config.export.formats[0]
    if budget.max_mb is not None:
        # refinement changes how well a file packs: a little too much is cut back afterwards (`trimmed`)
        spare = BYTE_BAND / 2 if config.recover.name != "none" else 0.0
        limit = int(budget.max_mb * MEGABYTE * (1 + spare))
        sizes = _remembered(lambda n: float(size_of(trials.scene(n), kind)), ctx)
        found = fit_bytes(lambda n: int(sizes(n)), units, limit, _bytes_per_splat(dense.scene, kind))
    else:
        assert budget.min_psnr is not None
        judge = Judge(dense, views)
        guess = _guess(lambda n: judge.psnr(trials.scene(n)), units, budget.min_psnr - _gain(config))
        measure = _remembered(lambda n: judge.psnr(decoded(trials.refined(n), kind)), ctx)
        found = fit_quality(measure, units, budget.min_psnr, guess)
    return record(budget, units, found), trials.state(found.count)


def trimmed(left: SplatScene, dense: Dense, views: Views, config: options.Config, ctx: Progress) -> SplatScene:
    """`left` with as many more of its cheapest splats merged or deleted as its first file is too large.

    A file of fewer splats is not always smaller: every further cut aims twice as far below the limit as the one before.
    """
    if config.budget.max_mb is None:
        return left
    limit, kind, cameras = config.budget.max_mb * MEGABYTE, config.export.formats[0], views.rig.scoring
    targets: Tensor | None = None
    aim = _FIRST_AIM
    while (size := size_of(left, kind)) > limit and len(left) > 1:
        if targets is None:
            targets = renders(dense.splats, cameras)
        count = max(1, int(len(left) * limit * (1 - aim) / size))
        neighbours = config.merge.neighbours if config.merge.pairs else 0
        splats = Splats.of(left, dense.device)
        state = reduce(splats, cameras, targets, count, Quiet(ctx), ratio=0, neighbours=neighbours)
        left = scene_of(state.splats, left.take(state.ids))
        aim = min(2 * aim, 0.5)
    return left


def size_of(scene: SplatScene, kind: str) -> int:
    """Bytes of `scene` written as the kind of file that the ending `kind` names."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"scene.{kind}")
        write_scene(path, scene)
        return path.stat().st_size


def decoded(scene: SplatScene, kind: str) -> SplatScene:
    """`scene` after writing it as the kind of file that the ending `kind` names, and reading it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"scene.{kind}")
        write_scene(path, scene)
        return read_scene(path)


def _remembered(measure: Callable[[int], float], ctx: Progress) -> Callable[[int], float]:
    """`measure`, whose results a killed run finds again."""
    saved = ctx.load_checkpoint()
    known: dict[str, float] = dict(saved.meta["measured"]) if saved is not None else {}

    def remembering(count: int) -> float:
        if str(count) not in known:
            known[str(count)] = measure(count)
            ctx.save_checkpoint(len(known), {"trials": torch.tensor(len(known))}, {"measured": known})
            ctx.stop_if_requested()
        ctx.progress(len(known), MOST_MEASUREMENTS, splats=count, measured=known[str(count)])
        return known[str(count)]

    return remembering


def _bytes_per_splat(scene: SplatScene, kind: str) -> float:
    """From a part of the scene."""
    part = scene.take(np.arange(0, len(scene), max(1, len(scene) // _SAMPLE)))
    return size_of(part, kind) / len(part)


def _guess(psnr_of: Callable[[int], float], units: int, asked_db: float) -> int:
    """Count at which scenes that are not refined have about `asked_db`, by halving the splats until they have less."""
    above, count = (units, math.inf), units
    while count > 1:
        count //= 2
        psnr = psnr_of(count)
        if psnr < asked_db:
            part = (asked_db - psnr) / (above[1] - psnr) if math.isfinite(above[1]) else 0.5
            return round(count * (above[0] / count) ** part)
        above = (count, psnr)
    return 1


def _gain(config: options.Config) -> float:
    return _GAIN_DB if config.recover.name != "none" else 0.0
