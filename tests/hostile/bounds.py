"""What a reader may spend on a file that it refuses: two seconds and 256 MB."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gencompress.errors import FormatError

SECONDS, MEMORY = 2.0, 256 << 20
_READ_ALL = """
import resource, sys
from pathlib import Path
from gencompress.errors import FormatError
from gencompress.formats import read_scene
import gencompress.formats.glb, gencompress.formats.ply, gencompress.formats.sog, gencompress.formats.spz, zstandard
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + int(sys.argv[2]),) * 2)
refused = 0
for path in sorted(Path(sys.argv[1]).iterdir()):
    try:
        read_scene(path)
    except FormatError as error:
        assert "memory of this machine" not in str(error), error
        refused += 1
print(refused)
"""


def refused(
    read: Callable[[Path], Any],
    path: Path,
    wrong: str = "",
    named: Path | None = None,
    kind: type[Exception] = FormatError,
) -> None:
    """Assert that `read` refuses `path` soon, with one short error that matches `wrong` and names it, or `named`."""
    tracemalloc.start()
    begin = time.process_time()
    with pytest.raises(kind, match=wrong or None) as caught:
        read(path)
    seconds, peak = time.process_time() - begin, tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert str(named or path) in str(caught.value) and len(str(caught.value)) < 600
    assert seconds < SECONDS and peak < MEMORY


def refused_within_limits(folder: Path) -> int:
    """Scenes of `folder` that a process refuses which the system holds to the limits; tracemalloc cannot see it all."""
    if not os.path.exists("/proc/self/statm"):
        pytest.skip("the address space of a process is read from /proc, which this system lacks")
    done = subprocess.run(
        [sys.executable, "-c", _READ_ALL, str(folder), str(MEMORY)],
        capture_output=True, text=True, timeout=600,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_CPU, (60, 60)),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return int(done.stdout)
