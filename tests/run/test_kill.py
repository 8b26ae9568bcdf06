"""A run that is killed, at random times and at every single call that touches the disk, ends as an undisturbed one."""

from __future__ import annotations

import os
import random
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from gencompress.run import StageContext, read_journal
from tests.run.recipe import Options, artefacts, execute, in_child, wait

OPTIONS = Options(pause=0.004)
SHORT = Options(steps=4)
MEMORY = Path("/dev/shm")


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """A folder in memory where there is one: hundreds of fsyncs on a disk take minutes and prove nothing more."""
    with tempfile.TemporaryDirectory(dir=MEMORY if os.access(MEMORY, os.W_OK) else None) as name:
        yield Path(name)


@pytest.fixture(scope="module")
def calm(folder: Path) -> tuple[dict[str, bytes], float]:
    """Artefacts and duration of an undisturbed run in a child."""
    began = time.monotonic()
    assert wait(in_child(lambda: execute(folder / "calm", OPTIONS))) == 0
    return artefacts(folder / "calm"), time.monotonic() - began


def test_killed_at_random_times(folder: Path, calm: tuple[dict[str, bytes], float]) -> None:
    expected, duration = calm
    moments = random.Random(5)
    killed = 0
    for trial in range(30):
        path = folder / f"random{trial}"
        child = in_child(lambda path=path: execute(path, OPTIONS))  # type: ignore[misc]
        time.sleep(moments.uniform(0, duration))
        os.kill(child, signal.SIGKILL)
        killed += wait(child) == -signal.SIGKILL
        execute(path, OPTIONS)
        assert artefacts(path) == expected
    assert killed > 0, "no child was killed in time, so nothing was tested"


def _dies_after_four_steps(path: Path) -> None:
    original, seen = StageContext.progress, 0

    def progress(self: StageContext, step: int, total: int, **figures: float) -> None:
        nonlocal seen
        seen += 1
        if seen == 5:
            os.kill(os.getpid(), signal.SIGKILL)
        original(self, step, total, **figures)

    StageContext.progress = progress  # type: ignore[method-assign] # in a child, nobody else sees it
    execute(path, OPTIONS)


def test_killed_again_and_again(folder: Path, calm: tuple[dict[str, bytes], float]) -> None:
    """Every checkpointed step counts: a run that is never given more than four steps still ends."""
    path = folder / "again"
    codes = []
    while 0 not in codes and len(codes) < 10:
        codes.append(wait(in_child(lambda: _dies_after_four_steps(path))))
    assert codes == [-signal.SIGKILL] * 3 + [0]
    assert artefacts(path) == calm[0]
    assert [e["step"] for e in read_journal(path) if e["event"] == "checkpoint_loaded"] == [3, 6, 9]


def _dies_at(call: int, path: Path) -> None:
    """Run, and die just before the given one of all calls that make changes durable or visible."""
    count = 0

    def counted(name: str) -> None:
        real = getattr(os, name)

        def replacement(*args: object, **kwargs: object) -> object:
            nonlocal count
            count += 1
            if count == call:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*args, **kwargs)

        setattr(os, name, replacement)

    for name in ("fsync", "replace", "mkdir", "unlink", "rmdir"):
        counted(name)
    execute(path, SHORT)


def test_killed_at_every_call_that_touches_the_disk(folder: Path) -> None:
    execute(folder / "short", SHORT)
    expected = artefacts(folder / "short")
    call, code = 0, -signal.SIGKILL
    while code == -signal.SIGKILL:
        call += 1
        path = folder / f"call{call}"
        code = wait(in_child(lambda call=call, path=path: _dies_at(call, path)))  # type: ignore[misc]
        execute(path, SHORT)
        assert artefacts(path) == expected, f"call {call}"
    assert code == 0
    assert call > 30, "the calls were not counted"
