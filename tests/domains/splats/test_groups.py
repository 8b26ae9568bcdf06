"""One plan of the core prunes a scene, and the gated scene looks like the pruned one."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from gencompress.core.plan import Plan
from gencompress.core.prune import narrow
from gencompress.domains.splats.groups import groups_of, plan_of, prune, tensors_of
from gencompress.errors import PlanError
from gencompress.kernels.splats import Splats
from tests.splat_scenes import ball, ring


def scene_with_extras():
    scene = ball(120, sh_degree=2)
    return dataclasses.replace(scene, extra={"label": np.arange(120, dtype=np.int32), "nx": np.zeros(120, np.float32)})


def test_the_group_owns_every_tensor_of_the_scene():
    scene = scene_with_extras()
    groups, tensors = groups_of(scene), tensors_of(scene)
    groups.check({name: tuple(t.shape) for name, t in tensors.items()})
    assert {s.tensor for s in groups[0].slices} == set(tensors) and "extra.label" in tensors
    assert groups.units == 120 and groups[0].kind == "splat"


def test_pruning_is_what_the_core_does_to_the_tensors():
    scene = scene_with_extras()
    kept = torch.tensor([90, 4, 5, 119, 17])
    plan = plan_of(scene, kept, {"metric": "units", "asked": 5, "reached": 5}, {"name": "test"})
    plan = Plan.from_json(plan.to_json())
    narrowed = narrow(tensors_of(scene), groups_of(scene), plan)
    pruned = tensors_of(prune(scene, plan))
    assert set(narrowed) == set(pruned)
    assert all(torch.equal(narrowed[name], pruned[name]) for name in narrowed)
    assert pruned["extra.label"].tolist() == [4, 5, 17, 90, 119]


def test_gates_of_a_plan_render_what_the_pruned_scene_renders():
    scene, generator = ball(250, sh_degree=1), torch.Generator().manual_seed(1)
    kept = torch.randperm(250, generator=generator)[:90]
    plan = plan_of(scene, kept, {}, {})
    gated = Splats.of(scene).render(ring(), gates=plan.masks()["splats"]).image
    removed = Splats.of(prune(scene, plan)).render(ring()).image
    assert float((gated - removed).norm() / removed.norm()) <= 1e-5
    assert float((Splats.of(scene).render(ring()).image - removed).norm() / removed.norm()) > 0.01


def test_a_plan_of_another_scene_is_refused():
    plan = plan_of(ball(30), torch.arange(10), {}, {})
    with pytest.raises(PlanError, match="31 units"):
        prune(ball(31), plan)
