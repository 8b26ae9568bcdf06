"""Energy of a call, where the machine tells it: Intel and AMD RAPL counters, or NVML on CUDA."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

_POWERCAP = Path("/sys/class/powercap")
_PACKAGE = re.compile(r"(intel|amd)-rapl:\d+")  # whole packages; their parts would be counted twice


@dataclass(frozen=True)
class Energy:
    """Joules that the whole package or card took during a call, everything else that ran there included.

    Args:
        joules: the energy, or None where it cannot be measured.
        method: how it was measured, or why not.
    """

    joules: float | None
    method: str

    def to_json(self) -> dict[str, Any]:
        """All fields."""
        return asdict(self)


def measure_energy(fn: Callable[[], object], device: str = "cpu", powercap: Path = _POWERCAP) -> Energy:
    """Run `fn` once between two readings.

    Args:
        fn: the call.
        device: "cpu" or a CUDA device.
        powercap: where Linux shows the RAPL counters.
    """
    return _on_cuda(fn, device) if device.startswith("cuda") else _on_cpu(fn, powercap)


def _on_cpu(fn: Callable[[], object], powercap: Path) -> Energy:
    try:
        zones = sorted(p for p in powercap.iterdir() if _PACKAGE.fullmatch(p.name))
        before = [_read(zone, "energy_uj") for zone in zones]
        ranges = [_read(zone, "max_energy_range_uj") for zone in zones]
    except (OSError, ValueError):
        zones = []
    if not zones:
        fn()
        return Energy(None, "not measured: this machine shows no readable RAPL counters")
    fn()
    after = [_read(zone, "energy_uj") for zone in zones]
    # a counter that has passed its end starts from zero again
    spent = sum((b - a) % (top + 1) for a, b, top in zip(before, after, ranges, strict=True))
    return Energy(spent / 1e6, f"RAPL, {len(zones)} package{'s' if len(zones) > 1 else ''}")


def _read(zone: Path, name: str) -> int:
    return int((zone / name).read_text())


def _on_cuda(fn: Callable[[], object], device: str) -> Energy:
    import torch

    try:
        import pynvml

        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{torch.cuda.get_device_properties(device).uuid}")
        before = pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)
    except Exception as error:  # NVML raises classes that exist only where it does
        fn()
        return Energy(None, f"not measured: NVML does not answer ({type(error).__name__})")
    torch.cuda.synchronize(device)
    fn()
    torch.cuda.synchronize(device)
    return Energy((pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) - before) / 1e3, "NVML total energy counter")
