"""What the numbers were measured on, and how much room a folder takes. No host names, no paths."""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path

from gencompress.errors import DataError

_CPUINFO = Path("/proc/cpuinfo")


def hardware_description() -> str:
    """CPU model, cores this process may use, memory, CUDA devices; for example "AMD EPYC 7B13, 2 cores, 24 GiB"."""
    import torch

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    parts = [cpu_model(), f"{cores} core{'s' if cores > 1 else ''}"]
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        parts.append(f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 2**30:.0f} GiB")
    parts += [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return ", ".join(parts)


def cpu_model(cpuinfo: Path = _CPUINFO) -> str:
    """The CPU's model name from /proc/cpuinfo, else the architecture."""
    try:
        text = cpuinfo.read_text(errors="replace")
    except OSError:
        text = ""
    found = re.search(r"^(?:model name|Model|Hardware)\s*:\s*(.+)$", text, re.MULTILINE)
    return " ".join(found.group(1).split()) if found else platform.machine()


def device_name(device: str) -> str:
    """The CUDA device's or the CPU's model name."""
    import torch

    chosen = torch.device(device)
    return torch.cuda.get_device_name(chosen) if chosen.type == "cuda" else cpu_model()


def bytes_on_disk(folder: Path) -> int:
    """Bytes of all files below `folder`, links followed (hub caches link to blobs), no file counted twice.

    Raises:
        DataError: no such folder, or a link that leads nowhere.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder to measure")
    seen: dict[tuple[int, int], int] = {}
    for path in folder.rglob("*"):
        if path.is_dir():
            continue
        try:
            status = path.stat()
        except OSError as error:
            raise DataError(f"{path}: cannot be measured: {error.strerror}") from error
        seen[status.st_dev, status.st_ino] = status.st_size
    return sum(seen.values())
