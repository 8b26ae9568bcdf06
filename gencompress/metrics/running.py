"""What running models costs, side by side: latency in turns, peak memory and energy, as metrics.json has them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from gencompress.metrics.energy import measure_energy
from gencompress.metrics.latency import measure_latencies
from gencompress.metrics.memory import peak_memory


def running_costs(calls: Mapping[str, Callable[[], object]], runs: int, device: str) -> dict[str, dict[str, Any]]:
    """Latency, peak memory and energy of every call, by its name.

    Args:
        calls: what is timed; they take turns, so that a machine that slows down meanwhile favours none.
        runs: timed runs of each after a warm-up, at least 1.
        device: "cpu" or a CUDA device.
    """
    latencies = measure_latencies(calls, warmup=1, runs=runs, device=device)
    found = {}
    for name, call in calls.items():
        peak, energy = peak_memory(call, device), measure_energy(call, runs, device)
        found[name] = {
            "latency_s": latencies[name].to_json(),
            "peak_memory_bytes": peak.bytes,
            "peak_memory_method": peak.method,
            "energy_j": energy.joules,
            "energy_method": energy.method,
        }
    return found
