"""The last correction of the bytes: no file is larger than asked, however little it shrinks with the splats."""

from __future__ import annotations

from pathlib import Path

import pytest

from gencompress.config import BudgetConfig, Config
from gencompress.domains.splats import fit
from gencompress.domains.splats.domain import Dense, Views
from gencompress.domains.splats.rig import Rig
from gencompress.run import NullContext
from tests.splat_scenes import ball, ring


@pytest.fixture
def dense():
    return Dense(ball(60), {}, Path("ball.ply"), "cpu")


VIEWS = Views(Rig(ring(3, 32), ring(3, 32), ring(3, 32), "orbit"), ring(3, 32))


def trimmed(dense, limit_mb):
    return fit.trimmed(dense.scene, dense, VIEWS, Config(budget=BudgetConfig(max_mb=limit_mb)), NullContext())


def test_a_file_that_hardly_shrinks_is_cut_until_it_fits(dense, monkeypatch):
    limit = 5000
    monkeypatch.setattr(fit, "size_of", lambda scene, kind: limit + len(scene) - 50)
    left = trimmed(dense, limit / 1e6)
    assert 40 <= len(left) <= 50


def test_a_file_that_fits_stays(dense):
    assert trimmed(dense, 1.0) is dense.scene
