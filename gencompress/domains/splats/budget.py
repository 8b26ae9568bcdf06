"""How many splats may stay: a ratio, a count, the bytes of the written file, or the quality of the renders.

Bytes and quality are met by searching over the count: what is asked is measured on the real file or the real renders,
and interpolation between measurements keeps them few. The functions know nothing of how a scene of a given count is
made, so pruning alone and pruning with merging and refinement share them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from gencompress.errors import BudgetError

MEGABYTE = 1_000_000
BYTE_BAND = 0.02  # how far below the asked bytes a file may stay
QUALITY_BAND_DB = 0.25  # how far above the asked quality a scene may stay
DB_PER_OCTAVE = 7.0  # about what twice as many splats bring
MOST_MEASUREMENTS = 12
_PATIENCE = 4  # measurements after which every other step halves the bracket
_STRIDE = 32.0  # largest factor between a count and the next


@dataclass(frozen=True)
class SceneBudget:
    """What is asked; exactly one of the four.

    Args:
        keep: part of the splats that stays, in (0, 1].
        target: number of splats that stay.
        max_mb: size of the written file in megabytes of 10^6 bytes.
        min_psnr: mean PSNR over held-out views against the input's own renders, in dB.

    Raises:
        BudgetError: none or several are given, or one is out of range.
    """

    keep: float | None = None
    target: int | None = None
    max_mb: float | None = None
    min_psnr: float | None = None

    def __post_init__(self) -> None:
        given = {name: value for name, value in vars(self).items() if value is not None}
        if len(given) != 1:
            names = "budget.keep, budget.target, budget.max_mb and budget.min_psnr"
            raise BudgetError(f"give exactly one of {names}, not {' and '.join(given) or 'none'}")
        ((name, value),) = given.items()
        if not (math.isfinite(value) and value > 0) or (name == "keep" and value > 1):
            raise BudgetError(f"budget.{name}={value} is outside (0, {'1]' if name == 'keep' else 'inf)'}")

    @property
    def metric(self) -> str:
        """``units``, ``bytes`` or ``psnr``."""
        return "bytes" if self.max_mb is not None else "psnr" if self.min_psnr is not None else "units"

    def count(self, units: int) -> int | None:
        """Splats that may stay of `units`; None where only measuring tells.

        Raises:
            BudgetError: the ratio leaves no splat.
        """
        if self.target is not None:
            return min(self.target, units)
        if self.keep is None:
            return None
        if (count := math.floor(self.keep * units + 1e-9)) < 1:
            raise BudgetError(f"budget.keep={self.keep} leaves none of {units} splats; the least is {1 / units:.2g}")
        return count


@dataclass(frozen=True)
class Fit:
    """A count that meets a budget.

    Args:
        count: splats that stay.
        reached: what was measured there: bytes or dB.
        measured: every measurement made, by count.
    """

    count: int
    reached: float
    measured: Mapping[int, float] = field(default_factory=dict)


def fit_bytes(size_of: Callable[[int], int], units: int, limit: int, bytes_per_splat: float | None = None) -> Fit:
    """The largest count found whose written file has at most `limit` bytes, and no less than 98 % of them.

    A file is nearly linear in the count, so three writes are the rule. Where the size jumps past the band, as with
    palettes whose length is a power of two, the largest file below it is taken.

    Args:
        size_of: bytes of the file of that many splats, really written.
        units: splats that there are.
        limit: bytes that the file may have at most.
        bytes_per_splat: where the search starts; None writes the whole scene first.

    Raises:
        BudgetError: even a single splat is larger than `limit`.
    """
    goal = (1 - BYTE_BAND / 2) * limit
    start = units if bytes_per_splat is None else round(goal / max(bytes_per_splat, 1e-9))
    search = _Search(size_of, units)
    value = search.measure(min(max(start, 1), units))
    while not (1 - BYTE_BAND) * limit <= value <= limit:
        if value < limit and search.last == units:
            break  # everything fits
        if value > limit and search.last == 1:
            raise BudgetError(
                f"the budget of {limit:,} bytes cannot be met: a file of one splat has {value:,.0f} bytes"
            )
        fits = [c for c, v in search.measured.items() if v <= limit]
        exceed = [c for c, v in search.measured.items() if v > limit]
        following = search.next(goal, max(fits, default=0), min(exceed, default=units + 1))
        if following is None:
            break
        value = search.measure(following)
    return search.best(lambda v: v <= limit, max)


def fit_quality(psnr_of: Callable[[int], float], units: int, asked_db: float, guess: int) -> Fit:
    """The smallest count found whose renders reach `asked_db`, and exceed it by no more than 0.25 dB.

    Args:
        psnr_of: measured PSNR in dB of the scene of that many splats.
        units: splats that there are; all of them are the input itself and need no measuring.
        asked_db: least PSNR.
        guess: count to start from, such as the predicted one.

    Raises:
        BudgetError: not even all splats but one reach it; says what they do.
    """
    search = _Search(psnr_of, units, DB_PER_OCTAVE)
    value = search.measure(min(max(guess, 1), units))
    while not asked_db <= value <= asked_db + QUALITY_BAND_DB:
        if value > asked_db and search.last == 1:
            break
        short = [c for c, v in search.measured.items() if v < asked_db]
        reach = [c for c, v in search.measured.items() if v >= asked_db]
        goal = asked_db + QUALITY_BAND_DB / 2
        following = search.next(goal, max(short, default=0), min(reach, default=units + 1))
        if following is None:
            break
        value = search.measure(following)
    if max(search.measured.values()) < asked_db:
        best = max(search.measured.values())
        raise BudgetError(f"the budget of {asked_db} dB cannot be met: the best scene measured has {best:.2f} dB")
    return search.best(lambda v: v >= asked_db, min)


class _Search:
    """Measurements of a quantity that grows with the count, and where to measure next.

    Args:
        measure: the quantity at a count.
        units: the largest count.
        slope: how much it grows when the count doubles, and then it is a line over the logarithm of the count; None
            for a quantity in proportion to the count.
    """

    def __init__(self, measure: Callable[[int], float], units: int, slope: float | None = None) -> None:
        self._measure, self.units, self.slope = measure, units, slope
        self.measured: dict[int, float] = {}
        self.last = 0

    def measure(self, count: int) -> float:
        self.last = count
        if count not in self.measured:
            self.measured[count] = float(self._measure(count))
        return self.measured[count]

    def next(self, goal: float, low: int, high: int) -> int | None:
        """A count between `low` and `high`, exclusive, at which `goal` is expected; None if it is time to stop."""
        if high - low <= 1 or len(self.measured) >= MOST_MEASUREMENTS:
            return None
        both = low in self.measured and high in self.measured
        if both and len(self.measured) > _PATIENCE and len(self.measured) % 2:
            expected = math.sqrt(low * high)  # on a bent curve, lines approach from one side
        else:
            expected = min(max(self._expected(goal, low, high), self.last / _STRIDE), self.last * _STRIDE)
            if self.slope is not None and high > self.units:  # the whole input is beyond every line
                expected = min(expected, math.sqrt(self.last * high))
        return min(max(round(expected), low + 1), high - 1)

    def _expected(self, goal: float, low: int, high: int) -> float:
        """Along the line through the two measurements nearest to the bracket, or through one with the given slope."""
        ends = [c for c in (low, high) if c in self.measured]
        if len(ends) < 2:
            ends = sorted(self.measured, key=lambda c: abs(math.log(c / ends[0])))[:2]
        a, v = ends[0], self.measured[ends[0]]
        b, w = (ends[1], self.measured[ends[1]]) if len(ends) == 2 else self._default(a, v)
        if w == v:
            return math.sqrt(max(low, 1) * high)
        part = (goal - v) / (w - v)
        return a + part * (b - a) if self.slope is None else a * (b / a) ** min(max(part, -30), 30)

    def _default(self, count: int, value: float) -> tuple[float, float]:
        return (0.0, 0.0) if self.slope is None else (2.0 * count, value + self.slope)

    def best(self, meets: Callable[[float], bool], choose: Callable[..., int]) -> Fit:
        count = choose(c for c, v in self.measured.items() if meets(v))
        return Fit(count, self.measured[count], dict(self.measured))


def record(budget: SceneBudget, units: int, fit: Fit) -> dict[str, Any]:
    """What a plan says of its budget, plain JSON: the request, and what was reached in its metric."""
    asked = {"units": budget.count(units), "bytes": (budget.max_mb or 0) * MEGABYTE, "psnr": budget.min_psnr}
    return {
        "metric": budget.metric,
        **{name: value for name, value in vars(budget).items() if value is not None},
        "asked": asked[budget.metric],
        "reached": fit.reached,
        "dense": units,
        "units": fit.count,
    }
