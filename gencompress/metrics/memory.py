"""Peak memory of a call, above what was held before it."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

_PROC = Path("/proc/self")


@dataclass(frozen=True)
class PeakMemory:
    """Bytes at the highest point of a call minus bytes just before it.

    Args:
        bytes: the difference, or None where it cannot be measured.
        method: how it was measured, or why not.
    """

    bytes: int | None
    method: str


def peak_memory(fn: Callable[[], object], device: str = "cpu") -> PeakMemory:
    """Run `fn` once and say how much more memory it held at its peak than before.

    On CUDA: torch's allocated bytes. On the CPU under Linux: the peak resident set (VmHWM, reset through
    /proc/self/clear_refs) minus the resident set before; freed memory is handed back to the system first, because a
    call that only reuses what the allocator had kept would seem to need nothing. Other threads of the process count
    too. Elsewhere: not measured.
    """
    if torch.device(device).type == "cuda":
        return _peak_cuda(fn, device)
    _release()
    try:
        reset_peak()
        before = resident("VmRSS")
    except OSError:
        fn()
        return PeakMemory(None, "not measured: needs CUDA, or Linux with /proc/self/clear_refs")
    fn()
    return PeakMemory(max(0, resident("VmHWM") - before), "peak resident set (VmHWM) minus resident set before")


def _peak_cuda(fn: Callable[[], object], device: str) -> PeakMemory:
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    fn()
    torch.cuda.synchronize(device)
    return PeakMemory(torch.cuda.max_memory_allocated(device) - before, "torch.cuda.max_memory_allocated minus before")


def _release() -> None:
    """Collect garbage and give free heap pages back to the system (glibc only)."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def reset_peak() -> None:
    """Let VmHWM, the peak resident set, begin anew. OSError where the system has no such thing."""
    (_PROC / "clear_refs").write_text("5")  # proc(5)


def resident(field: str) -> int:
    """`field` of /proc/self/status in bytes. OSError where the system has no such thing."""
    found = re.search(rf"^{field}:\s+(\d+) kB$", (_PROC / "status").read_text(), re.MULTILINE)
    if found is None:
        raise OSError(f"/proc/self/status has no {field}")
    return int(found.group(1)) * 1024
