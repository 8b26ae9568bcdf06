from __future__ import annotations

import pytest

from gencompress.metrics.energy import measure_energy


def counters(folder, values, top=10_000_000):
    for name, value in values.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        (folder / name / "energy_uj").write_text(f"{value}\n")
        (folder / name / "max_energy_range_uj").write_text(f"{top}\n")


def test_packages_are_added_up_parts_are_not_and_a_counter_may_wrap(tmp_path):
    names = ["intel-rapl:0", "intel-rapl:1", "intel-rapl:0:0"]
    counters(tmp_path, dict(zip(names, [1_000_000, 9_999_999, 0], strict=True)))
    found = measure_energy(
        lambda: counters(tmp_path, dict(zip(names, [3_000_000, 500_000, 700_000], strict=True))), powercap=tmp_path
    )
    assert found.joules == pytest.approx((2_000_000 + 500_001 + 0) / 1e6, abs=2e-6)
    assert "2 packages" in found.method


def test_a_machine_that_does_not_tell_says_so_and_still_runs_the_call(tmp_path):
    called = []
    found = measure_energy(lambda: called.append(1), powercap=tmp_path / "none")
    assert found.joules is None and "not measured" in found.method and called == [1]
