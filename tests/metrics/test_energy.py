"""Energy counters of a machine, imitated by files."""

from __future__ import annotations

import itertools

import pytest

from gencompress.errors import ConfigError
from gencompress.metrics.energy import measure_energy

NAMES = ("intel-rapl:0", "intel-rapl:1", "intel-rapl:0:0")


def counters(folder, *values, top=10_000_000):
    for name, value in zip(NAMES, values, strict=True):
        (folder / name).mkdir(parents=True, exist_ok=True)
        (folder / name / "energy_uj").write_text(f"{value}\n")
        (folder / name / "max_energy_range_uj").write_text(f"{top}\n")


def test_packages_are_added_up_parts_are_not_and_a_counter_may_wrap(tmp_path):
    counters(tmp_path, 1_000_000, 9_999_999, 0)
    found = measure_energy(lambda: counters(tmp_path, 3_000_000, 500_000, 700_000), powercap=tmp_path)
    assert found.joules == pytest.approx((2_000_000 + 500_001 + 0) / 1e6, abs=2e-6)
    assert "2 packages" in found.method


def test_the_mean_of_several_calls(tmp_path):
    counters(tmp_path, 0, 0, 0)
    steps = itertools.count(1)
    found = measure_energy(lambda: counters(tmp_path, 1_000_000 * next(steps), 0, 0), runs=4, powercap=tmp_path)
    assert next(steps) == 5 and found.joules == pytest.approx(1)
    with pytest.raises(ConfigError, match="runs >= 1"):
        measure_energy(lambda: None, runs=0, powercap=tmp_path)


def test_a_machine_that_does_not_tell_says_so_and_runs_nothing(tmp_path):
    called = []
    found = measure_energy(lambda: called.append(1), powercap=tmp_path / "none")
    assert found.joules is None and "not measured" in found.method and not called


def test_counters_that_may_not_be_read_are_none(tmp_path):
    counters(tmp_path, 0, 0, 0)
    (tmp_path / NAMES[1] / "energy_uj").write_text("")
    found = measure_energy(lambda: None, powercap=tmp_path)
    assert found.joules is None and "no readable RAPL counters" in found.method
