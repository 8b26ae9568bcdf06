from __future__ import annotations

import numpy as np
import pytest

from gencompress.errors import DataError, NumericsError
from gencompress.metrics.statistics import Estimate, paired_gain


def test_estimate_is_mean_and_standard_error():
    estimate = Estimate.of([1.0, 2.0, 3.0, 6.0])
    assert estimate.mean == 3.0
    assert estimate.se == pytest.approx(np.sqrt(14 / 3) / 2)
    assert estimate.to_json() == {"mean": 3.0, "se": estimate.se, "per_image": [1.0, 2.0, 3.0, 6.0]}


def test_one_image_has_no_standard_error():
    assert Estimate.of([5.0]).se is None


def test_nan_is_refused_with_its_place():
    with pytest.raises(NumericsError, match="entry 1"):
        Estimate.of([1.0, float("nan")])


def test_paired_gain_sees_a_small_true_difference_under_large_image_spread():
    generator = np.random.default_rng(0)
    images = generator.normal(25, 5, 64)
    a = images + 0.5 + generator.normal(0, 0.5, 64)
    b = images + generator.normal(0, 0.5, 64)
    gain = paired_gain(a, b)
    assert gain.significant and gain.low < 0.5 < gain.high
    assert gain.mean == pytest.approx((a - b).mean())
    assert paired_gain(b, a).mean == -gain.mean


def test_paired_gain_is_reproducible_and_uses_its_seed():
    a, b = np.random.default_rng(1).normal(size=(2, 20))
    assert paired_gain(a, b) == paired_gain(a, b)
    assert paired_gain(a, b, seed=1).low != paired_gain(a, b).low


@pytest.mark.parametrize("n", [8, 64])
def test_interval_covers_zero_as_often_as_it_says(n):
    """No difference, 400 experiments: 95 % intervals must leave out zero in about 5 % (binomial sd 1.1 %)."""
    generator = np.random.default_rng(2)
    false = sum(
        paired_gain(generator.normal(size=n), generator.normal(size=n), resamples=1000).significant for _ in range(400)
    )
    assert 0.02 * 400 <= false <= 0.085 * 400


def test_unequal_or_single_pairs_are_refused():
    with pytest.raises(DataError, match="3 and 2"):
        paired_gain([1, 2, 3], [1, 2])
    with pytest.raises(DataError, match="two or more"):
        paired_gain([1], [2])
