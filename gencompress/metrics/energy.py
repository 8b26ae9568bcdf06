"""Energy of a call, where the machine tells it: Intel and AMD RAPL counters, or NVML on CUDA."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from gencompress.errors import ConfigError

_POWERCAP = Path("/sys/class/powercap")
_PACKAGE = re.compile(r"(intel|amd)-rapl:\d+")  # whole packages; their parts would be counted twice
Started = Callable[[], float]  # joules since


@dataclass(frozen=True)
class Energy:
    """Joules that the whole package or card took per call, everything else that ran there included.

    Args:
        joules: mean of the calls, or None where it cannot be measured.
        method: how it was measured, or why not.
    """

    joules: float | None
    method: str


def measure_energy(fn: Callable[[], object], runs: int = 1, device: str = "cpu", powercap: Path = _POWERCAP) -> Energy:
    """Run `fn` several times between two readings of a counter; where there is none, not at all.

    Args:
        fn: the call.
        runs: how often, at least 1.
        device: "cpu" or a CUDA device.
        powercap: where Linux shows the RAPL counters.
    """
    if runs < 1:
        raise ConfigError(f"energy needs runs >= 1, got {runs}")
    start, method = _nvml(device) if device.startswith("cuda") else _rapl(powercap)
    if start is None:
        return Energy(None, method)
    spent = start()
    for _ in range(runs):
        fn()
    return Energy(spent() / runs, method)


def _rapl(powercap: Path) -> tuple[Callable[[], Started] | None, str]:
    try:
        zones = sorted(p for p in powercap.iterdir() if _PACKAGE.fullmatch(p.name))
        ranges = [_read(zone, "max_energy_range_uj") for zone in zones]
        for zone in zones:
            _read(zone, "energy_uj")  # many systems show it to the superuser only
    except (OSError, ValueError):
        zones = []
    if not zones:
        return None, "not measured: this machine shows no readable RAPL counters"

    def start() -> Started:
        before = [_read(zone, "energy_uj") for zone in zones]

        def spent() -> float:
            after = [_read(zone, "energy_uj") for zone in zones]
            # a counter that has passed its end starts from zero again
            return sum((b - a) % (top + 1) for a, b, top in zip(before, after, ranges, strict=True)) / 1e6

        return spent

    return start, f"RAPL, {len(zones)} package{'s' if len(zones) > 1 else ''}"


def _read(zone: Path, name: str) -> int:
    return int((zone / name).read_text())


def _nvml(device: str) -> tuple[Callable[[], Started] | None, str]:
    import torch

    try:
        import pynvml

        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{torch.cuda.get_device_properties(device).uuid}")
        pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)
    except Exception as error:  # NVML raises classes that exist only where it does
        return None, f"not measured: NVML does not answer ({type(error).__name__})"

    def millijoules() -> int:
        torch.cuda.synchronize(device)
        return int(pynvml.nvmlDeviceGetTotalEnergyConsumption(handle))

    def start() -> Started:
        before = millijoules()
        return lambda: (millijoules() - before) / 1e3

    return start, "NVML total energy counter"
