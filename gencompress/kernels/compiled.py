"""How kernels are compiled, kept and spread over threads."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numba
import numpy as np
import torch
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Ints = NDArray[np.int32]

# Contraction to fused multiply-add only: the full set would allow NaN and infinity to be assumed away.
_FASTMATH = {"contract", "nsz"}


def jit(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile on first use for the types of that call, without the interpreter lock, and keep the result on disk."""
    return numba.njit(cache=True, nogil=True, fastmath=_FASTMATH, error_model="numpy")(function)


def inline(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile into every caller."""
    return numba.njit(forceinline=True, nogil=True, fastmath=_FASTMATH, error_model="numpy")(function)


def parallel(kernel: Callable[..., None], count: int, *arguments: Any, grain: int = 1) -> None:
    """Run ``kernel(start, stop, *arguments)`` over all of range(count), on as many threads as torch may use.

    Kernels write to places that belong to their own indices only, so the result does not depend on the number of
    threads. `grain` is the least number of indices worth a call.
    """
    threads = torch.get_num_threads()
    pieces = min(max(1, count // grain), 1 if threads == 1 else 8 * threads)
    bounds = [count * i // pieces for i in range(pieces + 1)]
    if pieces == 1:
        kernel(0, count, *arguments)
        return
    with ThreadPoolExecutor(threads) as pool:
        calls = [pool.submit(kernel, a, b, *arguments) for a, b in itertools.pairwise(bounds)]
        for call in calls:
            call.result()
