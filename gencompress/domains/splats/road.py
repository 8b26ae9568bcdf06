"""From a scene to fewer splats in memory: what is removed, what is merged, and the repair."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gencompress import config as options
from gencompress.core.subject import Progress
from gencompress.domains.splats import groups
from gencompress.domains.splats.domain import Dense, Views, renders, scene_of
from gencompress.domains.splats.merge import Merges
from gencompress.domains.splats.reduce import STAYS, Reduced, reduce
from gencompress.domains.splats.refine import refine
from gencompress.domains.splats.scores import one_shot_scores
from gencompress.formats import SplatScene
from gencompress.kernels.splats import Splats


@dataclass(frozen=True, eq=False)
class Removal:
    """What becomes of N source splats.

    Args:
        kept: those that are not deleted, ascending, int64 [K].
        merges: in the numbers of the kept ones.
    """

    kept: NDArray[np.int64]
    merges: Merges

    @classmethod
    def of(cls, gone: NDArray[np.int32], merges: Merges) -> Removal:
        """From the record of the rounds (`gencompress.domains.splats.reduce.Reduced`)."""
        kept = merges.members(gone == STAYS)
        return cls(kept.astype(np.int64), merges.among(kept))


def merge(pruned: SplatScene, merges: Merges) -> SplatScene:
    """The scene after `merges`; splats that take no part stay bit for bit, further columns are the first member's."""
    survivors = np.ones(len(pruned), bool)
    survivors[merges.second] = False
    grown = np.zeros(len(pruned), bool)
    grown[merges.first] = True
    left, grown = pruned.take(np.flatnonzero(survivors)), grown[survivors]
    made = merges.apply(Splats.of(pruned)).take(torch.from_numpy(np.flatnonzero(survivors)[grown]))
    changed = scene_of(made, left.take(np.flatnonzero(grown)))
    for name in ("means", "quats", "log_scales", "logits", "sh0", "sh_rest"):
        getattr(left, name)[grown] = getattr(changed, name)
    return left


def rounds(
    dense: Dense,
    views: Views,
    count: int,
    config: options.Config,
    ctx: Progress,
    start: Reduced | None = None,
    targets: Tensor | None = None,
) -> Reduced:
    """Rounds of deleting and merging by exact leave-one-out error, until `count` splats are left.

    `start` is a state of another count, and `targets` the dense scene in the scoring views, if they are at hand.
    """
    criterion = config.criterion
    assert isinstance(criterion, options.LeaveOneOutCriterion)
    cameras = views.rig.scoring
    return reduce(
        dense.splats,
        cameras,
        renders(dense.splats, cameras) if targets is None else targets,
        count,
        ctx,
        ratio=criterion.ratio,
        neighbours=config.merge.neighbours if config.merge.pairs else 0,
        graph=criterion.graph,
        unseen=criterion.unseen,
        start=start,
    )


def highest(scores: Mapping[str, Tensor], count: int) -> Removal:
    """The `count` splats of the highest scores stay; among equal ones the lower index."""
    order = scores[groups.SPLATS].double().argsort(descending=True, stable=True)
    return Removal(order[:count].sort().values.numpy(), Merges.none())


def repair(
    left: SplatScene,
    dense: Dense,
    views: Views,
    config: options.Config,
    ctx: Progress,
    targets: Tensor | None = None,
) -> tuple[SplatScene, list[float]]:
    """What is left, refined on renders of the dense scene, and the losses; as it is if no refinement is asked for.

    `targets` are those renders (`practised`), if they are at hand.
    """
    if not isinstance(config.recover, options.RefineRecover):
        return left, []
    if targets is None:
        targets = practised(dense, views)
    splats, losses = refine(
        Splats.of(left, dense.device), views.practice, targets, config.recover, ctx, seed=config.run.seed
    )
    return scene_of(splats, left), losses


def practised(dense: Dense, views: Views) -> Tensor:
    """The dense scene in the views that refinement trains on, fp16 [C, H, W, 3]."""
    return renders(dense.splats, views.practice, torch.float16)


class Trials:
    """Scenes of any number of splats, made along the road of `config`, each from the nearest that is there."""

    def __init__(self, dense: Dense, views: Views, config: options.Config, ctx: Progress) -> None:
        self._dense, self._views, self._config, self._ctx = dense, views, config, ctx
        self._state: Reduced | None = None
        self._scores: dict[str, Tensor] | None = None

    def scene(self, count: int) -> SplatScene:
        """`count` splats, not refined."""
        removal = self._removal(count)
        return merge(self._dense.scene.take(removal.kept), removal.merges)

    def state(self, count: int) -> Reduced | None:
        """The rounds that lead to `count` splats; None where the criterion scores once."""
        if not isinstance(self._config.criterion, options.LeaveOneOutCriterion):
            return None
        given = (self._dense, self._views, count, self._config, Quiet(self._ctx))
        self._state = rounds(*given, self._state, self._scored)
        return self._state

    @cached_property
    def _scored(self) -> Tensor:
        return renders(self._dense.splats, self._views.rig.scoring)

    @cached_property
    def _practised(self) -> Tensor:
        return practised(self._dense, self._views)

    def _removal(self, count: int) -> Removal:
        if (state := self.state(count)) is not None:
            return Removal.of(state.gone, state.merges)
        if self._scores is None:
            cameras = self._views.rig.scoring
            self._scores = one_shot_scores(self._dense, cameras, self._config.criterion, Quiet(self._ctx))
        return highest(self._scores, count)

    def refined(self, count: int) -> SplatScene:
        """`count` splats as the run will leave them."""
        targets = self._practised if isinstance(self._config.recover, options.RefineRecover) else None
        return repair(self.scene(count), self._dense, self._views, self._config, Quiet(self._ctx), targets)[0]


class Quiet:
    """The stop signal of a stage without its checkpoints and its progress, which belong to something else."""

    def __init__(self, ctx: Progress) -> None:
        self._ctx = ctx

    @property
    def stop_requested(self) -> bool:
        """As the stage says."""
        return self._ctx.stop_requested

    def stop_if_requested(self) -> None:
        """As the stage does."""
        self._ctx.stop_if_requested()

    def progress(self, step: int, total: int, **figures: float) -> None:
        """Nothing."""

    def save_checkpoint(self, step: int, tensors: Mapping[str, Tensor], meta: Mapping[str, Any] | None = None) -> None:
        """Nothing."""

    def load_checkpoint(self) -> None:
        """Nothing."""
