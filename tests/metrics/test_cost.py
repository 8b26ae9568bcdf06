from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from gencompress.errors import ConfigError, DataError
from gencompress.metrics import bytes_on_disk, hardware_description, measure_latencies, measure_latency, peak_memory
from gencompress.metrics.hardware import cpu_model

MIB = 2**20


def test_latency_counts_its_runs_and_orders_its_percentiles():
    calls = []
    latency = measure_latency(lambda: calls.append(0), warmup=3, runs=5)
    assert len(calls) == 8
    assert 0 < latency.p10 <= latency.median <= latency.p90
    assert latency.to_json()["runs"] == 5 and latency.threads == torch.get_num_threads() and latency.device


def test_latencies_are_taken_in_turns():
    order = []
    measure_latencies({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, warmup=1, runs=2)
    assert "".join(order) == "ababab"


def test_no_runs_is_refused():
    with pytest.raises(ConfigError, match="runs >= 1"):
        measure_latency(lambda: None, runs=0)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs Linux /proc")
def test_peak_memory_sees_what_was_allocated_and_freed_each_time():
    def allocate(mib):
        torch.ones(mib * MIB, dtype=torch.uint8)

    allocate(1)
    for _ in range(3):  # a call after a larger one must not inherit its peak, nor hide in what it freed
        large, small = peak_memory(lambda: allocate(96)), peak_memory(lambda: allocate(24))
        assert 90 * MIB < large.bytes < 106 * MIB
        assert 20 * MIB < small.bytes < 32 * MIB
    assert "VmHWM" in large.method


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs Linux /proc")
def test_peak_memory_of_many_small_pieces_is_seen_again():
    def allocate():
        [torch.ones(2048, dtype=torch.uint8) for _ in range(16 * 1024)]

    first, second = peak_memory(allocate).bytes, peak_memory(allocate).bytes
    assert min(first, second) > 30 * MIB


def test_peak_memory_says_where_it_cannot_measure(monkeypatch, tmp_path):
    monkeypatch.setattr("gencompress.metrics.memory._PROC", tmp_path / "none")
    ran = []
    measured = peak_memory(lambda: ran.append(1))
    assert measured.bytes is None and "not measured" in measured.method and ran == [1]


def test_bytes_on_disk_follows_links_and_counts_a_file_once(tmp_path):
    blobs, model = tmp_path / "blobs", tmp_path / "model"
    (model / "unet").mkdir(parents=True)
    blobs.mkdir()
    (blobs / "x").write_bytes(b"1" * 1000)
    (model / "unet" / "config.json").write_bytes(b"2" * 10)
    (model / "unet" / "weights").symlink_to(blobs / "x")
    os.link(blobs / "x", model / "again")
    assert bytes_on_disk(model) == 1010
    (model / "broken").symlink_to(tmp_path / "nowhere")
    with pytest.raises(DataError, match="broken"):
        bytes_on_disk(model)
    with pytest.raises(DataError, match="no such folder"):
        bytes_on_disk(tmp_path / "none")


def test_hardware_names_the_processor_and_not_the_host(tmp_path):
    (tmp_path / "cpuinfo").write_text("processor\t: 0\nmodel name\t: Some  CPU @ 2.0GHz\n")
    assert cpu_model(tmp_path / "cpuinfo") == "Some CPU @ 2.0GHz"
    assert cpu_model(tmp_path / "absent")
    described = hardware_description()
    assert cpu_model() in described and "core" in described and os.uname().nodename not in described


def test_the_package_imports_without_torch():
    code = "import sys, gencompress.metrics; assert 'torch' not in sys.modules and 'torchmetrics' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
