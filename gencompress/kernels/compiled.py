"""How kernels are compiled, kept on disk and spread over threads."""

from __future__ import annotations

import hashlib
import itertools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import numba
import numpy as np
import torch
from numpy.typing import NDArray

from gencompress.run.console import Console

Floats = NDArray[np.float32]
Ints = NDArray[np.int32]
Longs = NDArray[np.int64]

# Contraction to fused multiply-add only: the full set would allow NaN and infinity to be assumed away.
_OPTIONS: dict[str, Any] = {"nogil": True, "fastmath": {"contract", "nsz"}, "error_model": "numpy"}
_PIECES = 8  # per thread, so that threads that are done early find more


@cache
def cache_folder() -> Path:
    """Where compiled code is kept: below $NUMBA_CACHE_DIR, else the user's cache, one folder per state of the sources.

    numba notices a change of the file a kernel stands in, but not of the files whose functions it takes in.
    """
    root = os.environ.get("NUMBA_CACHE_DIR")
    base = Path(root) if root else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gencompress"
    sources = [(path.name, path.stat()) for path in sorted(Path(__file__).parent.glob("*.py"))]
    state = repr([(name, status.st_size, status.st_mtime_ns) for name, status in sources])
    return base / f"kernels-{hashlib.sha256(state.encode()).hexdigest()[:16]}"


@cache
def _can_be_kept() -> bool:
    try:
        cache_folder().mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(cache_folder(), os.W_OK)


def jit(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile on first use, without the interpreter lock, and keep the result on disk where that is possible."""
    if not _can_be_kept():
        return numba.njit(**_OPTIONS)(function)
    config: Any = numba.config
    before = config.CACHE_DIR
    config.CACHE_DIR = str(cache_folder())  # read when the function is declared, and meant for ours only
    try:
        return numba.njit(cache=True, **_OPTIONS)(function)
    finally:
        config.CACHE_DIR = before


def inline(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile into every caller."""
    return numba.njit(forceinline=True, **_OPTIONS)(function)


def parallel(kernel: Callable[..., None], count: int, *arguments: Any, grain: int = 1) -> None:
    """Run ``kernel(start, stop, *arguments)`` over all of range(count), on as many threads as torch may use.

    Kernels write to places that belong to their own indices only, so the result does not depend on the number of
    threads. `grain` is the least number of indices worth a call.
    """
    _announce(kernel)
    threads = torch.get_num_threads()
    pieces = 1 if threads == 1 else min(max(1, count // grain), _PIECES * threads)
    if pieces == 1:
        kernel(0, count, *arguments)
        return
    bounds = itertools.pairwise(count * i // pieces for i in range(pieces + 1))
    calls = [_pool(os.getpid(), threads).submit(kernel, start, stop, *arguments) for start, stop in bounds]
    for call in calls:
        call.result()


@cache
def _pool(process: int, threads: int) -> ThreadPoolExecutor:
    """The threads of a process: those of a parent are gone after a fork."""
    return ThreadPoolExecutor(threads, thread_name_prefix="gencompress-kernels")


_announced: list[str] = []


def _announce(kernel: Any) -> None:
    """Say once why the first use takes long."""
    if _announced or kernel.signatures:
        return
    folder = cache_folder()
    if any(folder.glob(f"**/*.{kernel.__name__}-*.nbi")):
        return
    if _can_be_kept():
        kept = f"once, the result is kept in {folder}"
    else:
        kept = f"in every process, as {folder} cannot be written; set NUMBA_CACHE_DIR to a folder that can"
    _announced.append(kernel.__name__)
    Console().say(f"Compiling the kernels takes about 15 s; this happens {kept}")
