"""The one group of a scene: its splats, which go together from every tensor that holds them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gencompress.core.group import Group, Groups, Slice
from gencompress.core.plan import Plan, fingerprint
from gencompress.formats.scene import SplatScene

SPLATS = "splats"


def tensors_of(scene: SplatScene) -> dict[str, Tensor]:
    """Every tensor of `scene` by name, sharing its memory where possible; further columns are ``extra.NAME``."""
    names = ("means", "quats", "log_scales", "logits", "sh0", "sh_rest")
    arrays = {name: getattr(scene, name) for name in names}
    arrays |= {f"extra.{name}": column for name, column in scene.extra.items()}
    return {name: torch.as_tensor(np.ascontiguousarray(array)) for name, array in arrays.items()}


def groups_of(scene: SplatScene) -> Groups:
    """One group of kind ``splat`` whose units are the splats; at least one stays."""
    slices = tuple(Slice(name, 0) for name in tensors_of(scene))
    return Groups((Group(SPLATS, "splat", len(scene), slices),))


def plan_of(scene: SplatScene, kept: Tensor, budget: Mapping[str, Any], method: Mapping[str, Any]) -> Plan:
    """The plan that keeps `kept` [K] of the splats of `scene`.

    Args:
        scene: what was scored.
        kept: indices of the splats that stay, in any order.
        budget: what was asked and reached, plain JSON.
        method: how the splats were chosen, plain JSON.
    """
    stays = kept.detach().cpu().long().sort().values
    return Plan({SPLATS: stays}, {SPLATS: len(scene)}, budget, fingerprint(tensors_of(scene)), method)


def prune(scene: SplatScene, plan: Plan) -> SplatScene:
    """The splats of `scene` that `plan` keeps, in their order.

    Raises:
        PlanError: the plan was made for a scene of another size or with other groups.
    """
    plan.check_groups(groups_of(scene))
    return scene.take(plan.keep[SPLATS].numpy())
