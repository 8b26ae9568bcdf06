"""Closed-form repair on every family: all layers that lost inputs are found and refitted, and outputs come closer."""

from __future__ import annotations

import copy

import pytest

from gencompress.core.compensate import compensate_, consumers
from gencompress.core.group import shapes_of
from gencompress.domains.diffusion.groups import groups_of
from gencompress.domains.diffusion.removal import remove
from gencompress.run import NullContext
from tests.core.nets import distance, plan_of
from tests.laws.denoisers import NAMES, WIDTHS, denoiser, inputs, run


@pytest.mark.parametrize("name", NAMES)
def test_the_repaired_denoiser_is_closer_to_the_dense_one(name):
    dense = denoiser(name)
    groups = groups_of(dense, WIDTHS)
    plan = plan_of(groups, {g.name: list(range(1, g.size)) for g in groups if g.kind != "adaln" and g.size > 1})
    plain = remove(dense, groups, plan)
    repaired = copy.deepcopy(plain)
    modules = consumers(groups, plan, shapes_of(dense.state_dict()))
    given = inputs(name, batch=8)

    errors = compensate_(repaired, dense, modules, [lambda module: run(module, given)], NullContext())

    assert errors and set(errors) == set(modules)
    assert all(0 <= error < 1 for error in errors.values())
    wanted = run(dense, given)
    assert distance(run(repaired, given), wanted) < 0.9 * distance(run(plain, given), wanted)
