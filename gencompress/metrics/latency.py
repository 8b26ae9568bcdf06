"""Wall-clock time of a call: median and spread over runs after warm-up, the device named."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from gencompress.errors import ConfigError
from gencompress.metrics.hardware import device_name


@dataclass(frozen=True)
class Latency:
    """Seconds per call.

    Args:
        median: of the runs.
        p10: tenth percentile.
        p90: ninetieth percentile.
        runs: timed calls.
        warmup: calls before them, not timed.
        device: model name of what it ran on.
        threads: torch's intra-op threads.
    """

    median: float
    p10: float
    p90: float
    runs: int
    warmup: int
    device: str
    threads: int

    def to_json(self) -> dict[str, Any]:
        """All fields."""
        return asdict(self)


def measure_latency(fn: Callable[[], object], warmup: int = 2, runs: int = 10, device: str = "cpu") -> Latency:
    """Time `fn`.

    Args:
        fn: the call; its result is dropped.
        warmup: untimed calls first, in which caches fill and kernels are chosen.
        runs: timed calls, at least 1.
        device: "cpu" or a CUDA device, which is waited for before and after every call.
    """
    return measure_latencies({"only": fn}, warmup, runs, device)["only"]


def measure_latencies(
    calls: Mapping[str, Callable[[], object]], warmup: int = 2, runs: int = 10, device: str = "cpu"
) -> dict[str, Latency]:
    """Time several calls in turns (a, b, a, b, ...), so that a machine that slows down slows all of them alike.

    Args:
        calls: by name.
        warmup: untimed rounds first.
        runs: timed rounds, at least 1.
        device: "cpu" or a CUDA device.
    """
    if runs < 1 or warmup < 0:
        raise ConfigError(f"latency needs runs >= 1 and warmup >= 0, got {runs} and {warmup}")
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(warmup + runs):
        for name, fn in calls.items():
            elapsed = _timed(fn, device)
            if turn >= warmup:
                seconds[name].append(elapsed)
    where, threads = device_name(device), torch.get_num_threads()
    return {name: _summary(values, warmup, where, threads) for name, values in seconds.items()}


def _summary(seconds: list[float], warmup: int, device: str, threads: int) -> Latency:
    p10, median, p90 = (float(x) for x in np.percentile(seconds, [10, 50, 90]))
    return Latency(median, p10, p90, len(seconds), warmup, device, threads)


def _timed(fn: Callable[[], object], device: str) -> float:
    """Seconds of one call, all of its work finished."""
    _wait(device)
    start = time.perf_counter()
    fn()
    _wait(device)
    return time.perf_counter() - start


def _wait(device: str) -> None:
    """Let a CUDA device finish what was queued."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)
