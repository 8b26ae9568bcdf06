"""Runs of a sweep, each in a process of its own: what ends one, such as a lack of memory, leaves the others alone.

A process of its own also gives each run its own thread counts and its own memory peak. It is started as
``python -m gencompress.run.sweep`` by the launcher's worker, which hands it the options and hears of its failure.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from gencompress.errors import GencompressError, Interrupted, RunError
from gencompress.run import settings
from gencompress.run.journal import Journal

if TYPE_CHECKING:
    from gencompress.config import Config

_PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of prctl(2)
_SHOWN = 300  # characters of a message in the summary; the journal has all of it
_LONGEST = 8000  # characters of a message, fewer bytes than a pipe holds unread


@dataclass(frozen=True)
class Failure:
    """A run of a sweep that did not finish.

    Args:
        path: its run directory.
        error: class of the error.
        message: what the error said.
        exit_code: that of its process; negative if a signal ended it.
    """

    path: str
    error: str
    message: str
    exit_code: int


_stopping = False


@contextmanager
def stoppable() -> Iterator[None]:
    """Ctrl-C reaches the runs as well: let those finish their step, wait for them and start no more. Twice aborts."""
    if threading.current_thread() is not threading.main_thread():  # where Python takes no signals
        yield
        return
    before = signal.signal(signal.SIGINT, _stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _stop(number: int, frame: FrameType | None) -> None:
    global _stopping
    if _stopping:
        raise KeyboardInterrupt
    _stopping = True


def run_apart(config: Config, path: Path) -> Failure | None:
    """Run or resume one run in a new process; None if it finished. Its journal tells a failure too."""
    if _stopping:
        return Failure(str(path), "Interrupted", "not started", Interrupted.exit_code)
    read, write = os.pipe()
    command = [sys.executable, "-m", "gencompress.run.sweep", str(write)]
    task = json.dumps({"path": str(path), "options": settings.as_mapping(config)})
    try:
        with stoppable(), subprocess.Popen(command, stdin=subprocess.PIPE, pass_fds=(write,)) as process:
            os.close(write)
            process.communicate(task.encode())
        with os.fdopen(read, "rb", closefd=False) as pipe:
            told = pipe.read()
    finally:
        os.close(read)
    if process.returncode == 0:
        return None
    try:
        return Failure(str(path), **json.loads(told), exit_code=process.returncode)
    except ValueError:  # nothing, or a part: it was killed
        return _killed(path, process.returncode)


def record_failure(path: Path, error: GencompressError) -> Failure:
    """The failure of a run that could not be opened, written to its journal so that a board shows it."""
    failure = Failure(str(path), type(error).__name__, str(error), error.exit_code)
    _write_end(path, failure)
    return failure


def check(failures: Sequence[Failure], total: int) -> None:
    """Raise one error that names all failures of a sweep of `total` runs: Interrupted if all were stopped."""
    if not failures:
        return
    lines = [f"  {f.path}: {f.error}: {' '.join(f.message.split())[:_SHOWN]}" for f in failures]
    stopped = all(f.exit_code == Interrupted.exit_code for f in failures)
    head = f"{len(failures)} of {total} runs {'were stopped' if stopped else 'failed'}, the others are finished"
    advice = "the same command goes on" if stopped else "the same command runs these again, finished ones are kept"
    text = "\n".join([f"{head}:", *lines, f"({advice}; `gencompress board` shows them all)"])
    raise Interrupted(text) if stopped else RunError(text)


def _killed(path: Path, exit_code: int) -> Failure:
    """The failure of a process that ended without a word, as its journal ends with now."""
    name = signal.Signals(-exit_code).name if exit_code < 0 else f"exit code {exit_code}"
    cause = ", for lack of memory most likely" if exit_code == -signal.SIGKILL else ""
    failure = Failure(str(path), "Killed", f"the process was ended by {name}{cause}", exit_code)
    _write_end(path, failure)
    return failure


def _write_end(path: Path, failure: Failure) -> None:
    path.mkdir(parents=True, exist_ok=True)
    journal = Journal(path)
    journal.write("ended", error=failure.error, message=failure.message)
    journal.close()


def _child(pipe: int) -> int:
    """Run the task on standard input; tell `pipe` what went wrong. The exit code of the process."""
    from gencompress.config import build
    from gencompress.run import launch

    os.set_inheritable(pipe, False)  # or the worker would wait for what this process may leave behind
    _end_with_parent()
    task = json.loads(sys.stdin.buffer.read())
    try:
        launch.execute(build(task["options"]), Path(task["path"]))
    except GencompressError as error:
        _tell(pipe, error)
        return error.exit_code
    except Exception as error:
        traceback.print_exc()
        _tell(pipe, error)
        return 1
    return 0


def _tell(pipe: int, error: Exception) -> None:
    about = {"error": type(error).__name__, "message": str(error)[:_LONGEST]}
    os.write(pipe, json.dumps(about).encode())


def _end_with_parent() -> None:
    """Stop as by SIGTERM when the worker that started this process is gone; Linux alone can tell."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PARENT_DEATH_SIGNAL, signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(_child(int(sys.argv[1])))
