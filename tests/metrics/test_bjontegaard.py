from __future__ import annotations

import math

import numpy as np
import pytest

from gencompress.errors import DataError
from gencompress.metrics import RateQuality, bd_quality, bd_rate

# Two curves of a video coder, in kbit/s and dB.
FIRST = RateQuality([686.76, 309.58, 157.11, 85.95], [40.28, 37.18, 34.24, 31.42])
SECOND = RateQuality([893.34, 407.80, 204.93, 112.75], [40.39, 37.21, 34.17, 31.24])


@pytest.mark.parametrize("factor", [0.5, 0.8, 1.0, 1.25])
def test_a_curve_at_a_fixed_part_of_the_rate_saves_exactly_that(factor):
    rate = np.array([1e6, 2.5e6, 3e6, 9e6])
    quality = [24.0, 31.0, 31.5, 38.0]  # far from a straight line
    found = bd_rate(RateQuality(rate, quality), RateQuality(factor * rate, quality))
    # the interval is the whole range of quality, for both curves
    assert found == pytest.approx(factor - 1, abs=1e-12)


@pytest.mark.parametrize("gain", [-0.7, 0.0, 1.5])
def test_a_curve_raised_by_a_constant_wins_exactly_that(gain):
    rate = [1.0, 3.0, 4.0, 20.0, 50.0]
    quality = np.array([20.0, 21.0, 27.0, 28.0, 35.0])
    assert bd_quality(RateQuality(rate, quality), RateQuality(rate, quality + gain)) == pytest.approx(gain, abs=1e-12)


def test_lines_in_log_rate_have_the_closed_form():
    """quality = a + b log(rate): the gap of log rates at q is (q - a2) / b2 - (q - a1) / b1, linear in q."""
    rate = np.array([1.0, 4.0, 16.0, 64.0])
    first, second = RateQuality(rate, 10 + 3 * np.log(rate)), RateQuality(rate, 11 + 4 * np.log(rate))
    low, high = 11.0, 10 + 3 * math.log(64)
    middle = (low + high) / 2
    assert bd_rate(first, second) == pytest.approx(math.expm1((middle - 11) / 4 - (middle - 10) / 3), abs=1e-12)
    assert bd_quality(first, second) == pytest.approx(1 + math.log(64) / 2, abs=1e-12)


def test_two_points_of_different_ranges_use_the_overlap():
    first, second = RateQuality([1.0, math.e], [0.0, 1.0]), RateQuality([1.0, math.e**2], [0.5, 1.5])
    # log rates q and 2 q - 1 over q in [0.5, 1]: the mean of q - 1 is -0.25
    assert bd_rate(first, second) == pytest.approx(math.expm1(-0.25), abs=1e-12)


def test_values_of_an_independent_implementation():
    """PyPI bjontegaard 1.3.0, method pchip: 31.379878202397627 % and -1.1834724046224592 dB."""
    assert 100 * bd_rate(FIRST, SECOND) == pytest.approx(31.379878202397627, rel=1e-9)
    assert bd_quality(FIRST, SECOND) == pytest.approx(-1.1834724046224592, rel=1e-9)


def test_swapping_the_curves_inverts_the_ratio():
    assert (1 + bd_rate(FIRST, SECOND)) * (1 + bd_rate(SECOND, FIRST)) == pytest.approx(1, abs=1e-12)
    assert bd_quality(FIRST, SECOND) == pytest.approx(-bd_quality(SECOND, FIRST), abs=1e-12)


@pytest.mark.parametrize(
    ("rate", "quality", "words"),
    [
        ([1.0], [1.0], "two points or more"),
        ([1.0, 2.0], [1.0], "two points or more"),
        ([1.0, -2.0], [1.0, 2.0], "positive rates"),
        ([1.0, math.nan], [1.0, 2.0], "finite"),
        ([1.0, 2.0], [1.0, math.inf], "finite"),
        ([1.0, 1.0], [1.0, 2.0], "distinct rates"),
        ([1.0, 2.0], [2.0, 1.0], "rises with the rate"),
    ],
)
def test_what_is_no_curve(rate, quality, words):
    with pytest.raises(DataError, match=words):
        RateQuality(rate, quality)


def test_curves_that_have_nothing_in_common():
    low, high = RateQuality([1.0, 2.0], [1.0, 2.0]), RateQuality([3.0, 4.0], [3.0, 4.0])
    with pytest.raises(DataError, match="no quality in common"):
        bd_rate(low, high)
    with pytest.raises(DataError, match="no rate in common"):
        bd_quality(low, high)
