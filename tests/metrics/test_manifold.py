from __future__ import annotations

import numpy as np
import pytest
import torch
from torch_fidelity.metric_prc import calculate_precision_recall_full

from gencompress.errors import DataError
from gencompress.metrics import manifold
from gencompress.metrics.manifold import manifold_scores


def sets(n=80, m=60, d=6, shift=0.5):
    generator = np.random.default_rng(0)
    return generator.normal(size=(n, d)), generator.normal(size=(m, d)) + shift


def test_precision_and_recall_equal_torch_fidelity():
    real, fake = sets()
    found = manifold_scores(real, fake)
    precision, recall = calculate_precision_recall_full(torch.from_numpy(fake), torch.from_numpy(real))
    assert found.precision == pytest.approx(precision, abs=1e-6)
    assert found.recall == pytest.approx(recall, abs=1e-6)


def test_density_and_coverage_are_the_papers_definition():
    real, fake = sets()
    distances = np.linalg.norm(real[:, None] - real[None], axis=2)
    radius = np.sort(distances, axis=1)[:, 5]
    across = np.linalg.norm(fake[:, None] - real[None], axis=2)
    found = manifold_scores(real, fake)
    assert found.density == pytest.approx((across < radius).sum() / (5 * len(fake)))
    assert found.coverage == pytest.approx((across < radius).any(axis=0).mean())


def test_blocks_of_rows_change_nothing(monkeypatch):
    real, fake = sets()
    whole = manifold_scores(real, fake)
    monkeypatch.setattr(manifold, "_CELLS", 200)
    assert manifold_scores(real, fake) == whole


def test_lost_modes_cost_recall_and_coverage_but_not_precision():
    generator = np.random.default_rng(1)
    real = np.concatenate([generator.normal(size=(100, 3)), generator.normal(size=(100, 3)) + 50])
    found = manifold_scores(real, generator.normal(size=(100, 3)))
    assert found.precision > 0.8
    assert found.recall < 0.55 and found.coverage < 0.55


def test_a_handful_of_images_is_refused():
    real, fake = sets()
    with pytest.raises(DataError, match="N >= 6"):
        manifold_scores(real[:5], fake)
    with pytest.raises(DataError, match="dimensions"):
        manifold_scores(real[:, :3], fake)
