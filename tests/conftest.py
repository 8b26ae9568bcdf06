"""One thread per process, whatever the machine; and the way to the optional shared data beside the checkout."""

from __future__ import annotations

import os
from pathlib import Path

import hypothesis
import pytest

# Before anything imports torch: two threads on two busy cores are many times slower than one.
for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, "1")

# a slow machine is no failure
hypothesis.settings.register_profile("patient", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("patient")


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of shared data: $GENCOMPRESS_SHARED, or `shared` beside the checkout. Skips where there is none."""
    folder = Path(os.environ.get("GENCOMPRESS_SHARED", Path(__file__).resolve().parents[2] / "shared"))
    if not folder.is_dir():
        pytest.skip(f"no shared data at {folder}; set GENCOMPRESS_SHARED to its folder")
    return folder
