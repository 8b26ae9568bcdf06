"""`compare_runs`: is one run better than another? Paired differences over the same pictures, with intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gencompress.board.collect import read_run
from gencompress.board.measures import MEASURES, Measure
from gencompress.board.naming import labels, seed
from gencompress.board.rows import Row
from gencompress.errors import ConfigError, DataError, RunError
from gencompress.metrics.statistics import PairedGain, paired_gain
from gencompress.report.data import FILE as METRICS
from gencompress.report.data import dig, load_metrics, number, numbers

_MOST_APART = 0.01  # relative difference of what two equal budgets reached: one rounding step and no more
_BUDGET = ("metric", "scope", "keep", "target", "max_mb", "min_psnr", "uniform")
_SAME = (("images", "prompts"), ("images", "names"))  # lists that say which picture is which


@dataclass(frozen=True)
class Difference:
    """One measure of two runs on the same pictures.

    Args:
        measure: what was measured.
        first: mean of the first run.
        second: mean of the second run.
        gain: by how much the first is larger, picture by picture.
        per_image: the differences, first minus second.
    """

    measure: Measure
    first: float
    second: float
    gain: PairedGain
    per_image: tuple[float, ...]

    @property
    def better(self) -> int:
        """1 if the first run is better, -1 if the second is, 0 if no difference can be told."""
        if not self.gain.significant:
            return 0
        return 1 if (self.gain.mean > 0) == self.measure.higher else -1


@dataclass(frozen=True)
class Comparison:
    """Two runs at one budget under one protocol.

    Args:
        first: what the first run is called.
        second: what the second run is called.
        rows: both runs.
        differences: one per measure that both have for every picture.
        confidence: that all intervals together hold.
        seeds_only: True if the runs differ in seeds alone, so that a difference is what the seed does.
    """

    first: str
    second: str
    rows: tuple[Row, Row]
    differences: tuple[Difference, ...]
    confidence: float
    seeds_only: bool

    def to_json(self) -> dict[str, Any]:
        """Everything in plain JSON types; positive differences say that the first run has more."""
        return {
            "first": {"label": self.first, "run": self.rows[0].id},
            "second": {"label": self.second, "run": self.rows[1].id},
            "budget": self.rows[0].budget,
            "protocol": dict(self.rows[0].protocol),
            "confidence_together": self.confidence,
            "seeds_only": self.seeds_only,
            "differences": {
                d.measure.key: {
                    "first": d.first,
                    "second": d.second,
                    "better": {1: "first", -1: "second", 0: None}[d.better],
                    **d.gain.to_json(),
                    "per_image": list(d.per_image),
                }
                for d in self.differences
            },
        }


def compare_runs(first: Path, second: Path, *, confidence: float = 0.95, resamples: int = 10_000) -> Comparison:
    """Compare two evaluated runs of one model or scene.

    Args:
        first: run directory.
        second: run directory.
        confidence: that all intervals together hold, in (0, 1); each is wider for it (Bonferroni).
        resamples: bootstrap resamples of every interval.

    Raises:
        ConfigError: the confidence is out of range.
        RunError: a run has no result.
        DataError: the runs differ in what was compressed, budget, protocol, seeds or views; it names the field.
    """
    if not 0 < confidence < 1:
        raise ConfigError(f"confidence={confidence} is outside (0, 1)")
    rows = tuple(_result(folder) for folder in (first, second))
    recorded = tuple(load_metrics(folder / METRICS) for folder in (first, second))
    _refuse_unequal(rows, recorded)
    values = tuple({key: v for key in MEASURES if (v := _per_image(m, key))} for m in recorded)
    found = differences(values[0], values[1], confidence, resamples)
    if not found:
        raise DataError(f"{first} and {second} have no figures per picture in common")
    return Comparison(*_names(rows), (rows[0], rows[1]), tuple(found), confidence, _seeds_only(rows))


def differences(
    first: Mapping[str, Sequence[float]],
    second: Mapping[str, Sequence[float]],
    confidence: float = 0.95,
    resamples: int = 10_000,
) -> list[Difference]:
    """Paired differences of every measure that both have, with intervals that all hold with this confidence.

    Args:
        first: values per picture, [N], by key of the measure.
        second: the same of the other run, in the same order of pictures.
        confidence: of all intervals together; each of m has 1 - (1 - confidence) / m.
        resamples: bootstrap resamples.

    Raises:
        DataError: a measure has other pictures in one run than in the other, or fewer than two.
    """
    keys = [key for key in MEASURES if key in first and key in second]
    found = []
    for key in keys:
        a, b = first[key], second[key]
        if len(a) != len(b):
            raise DataError(f"{key}: {len(a)} {MEASURES[key].each}s in the first run and {len(b)} in the second")
        gain = paired_gain(a, b, confidence=1 - (1 - confidence) / len(keys), resamples=resamples)
        apart = tuple(x - y for x, y in zip(a, b, strict=True))
        found.append(Difference(MEASURES[key], sum(a) / len(a), sum(b) / len(b), gain, apart))
    return found


def _names(rows: Sequence[Row]) -> tuple[str, str]:
    """What the runs are called: by method, else by seed, else by folder."""
    called = [label.text for label in labels(rows)]
    for more in (seed, lambda row: row.id):
        if called[0] == called[1]:
            called = [f"{name}, {more(row) or 'seed 0'}" for name, row in zip(called, rows, strict=True)]
    return called[0], called[1]


def _result(folder: Path) -> Row:
    """The row of an evaluated run; of one with several files, that of the first."""
    if not folder.is_dir():
        raise RunError(f"{folder}: no such folder")
    row = read_run(folder.resolve().name, folder)[0]
    if row.state != "measured":
        raise RunError(f"{folder} has no result to compare, it is {row.state}: {row.error}")
    return row


def _per_image(metrics: Mapping[str, Any], key: str) -> list[float]:
    """The finite values per picture; none where one lacks."""
    keys = MEASURES[key].keys
    values = numbers(dig(metrics, *keys[:-1], "per_image")) if keys[-1] == "mean" else []
    known = [value for value in values if value is not None]
    return known if len(known) == len(values) else []


def _refuse_unequal(rows: Sequence[Row], metrics: Sequence[Mapping[str, Any]]) -> None:
    """DataError naming the first field in which the runs must not differ."""
    a, b = rows
    _require("domain", a.domain, b.domain)
    _require("model" if a.domain != "splats" else "scene", a.task, b.task)
    for name in _BUDGET:
        _require(f"budget.{name}", *(dig(m, "budget", name) for m in metrics))
    if number(metrics[0], "budget", "min_psnr") is not None:
        raise DataError("budget.min_psnr: both runs were asked for this quality, so compare their sizes instead")
    reached = [number(m, "budget", "reached") for m in metrics]
    if number(metrics[0], "budget", "max_mb") is None and None not in reached:
        low, high = sorted(float(r or 0) for r in reached)
        if high - low > _MOST_APART * high:
            raise DataError(f"budget.reached: {low:,.10g} and {high:,.10g} are more than {_MOST_APART:.0%} apart")
    for name in {**a.protocol, **b.protocol}:
        _require(name, a.protocol.get(name), b.protocol.get(name))
    for keys in _SAME:
        _require(".".join(keys), *(dig(m, *keys) for m in metrics))


def _require(name: str, first: object, second: object) -> None:
    if first != second:
        shown = [str(value)[:80] if value is not None else "not recorded" for value in (first, second)]
        raise DataError(f"{name}: {shown[0]} in the first run and {shown[1]} in the second, so they do not compare")


def _seeds_only(rows: Sequence[Row]) -> bool:
    """Whether the options differ in seeds, and in nothing else that changes a result."""
    first, second = ({k: v for k, v in row.options.items() if not k.startswith("run.")} for row in rows)
    differing = {key for key in first | second if first.get(key) != second.get(key)}
    return all(key.endswith(".seed") for key in differing)
