"""The run directory: every arrow of a recipe is a folder in it, made atomically, so every stage restarts alone.

    RUN/config.yaml  manifest.json  journal.jsonl  checkpoints/STAGE/...  STAGE/...

A stage is finished when the manifest says so; the manifest is replaced after the stage's folder was renamed into place.
Whatever a kill leaves before that moment is swept away or resumed from the stage's checkpoints.
"""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar, overload

from gencompress import __version__
from gencompress.errors import Interrupted, RunError
from gencompress.run import settings
from gencompress.run.atomic import commit_dir, explain_disk_full, remove_dir, sweep
from gencompress.run.console import Console
from gencompress.run.journal import NAME as JOURNAL
from gencompress.run.journal import Journal
from gencompress.run.lock import NAME as LOCK
from gencompress.run.lock import Lock
from gencompress.run.manifest import NAME as MANIFEST
from gencompress.run.manifest import describe, read_manifest, verify
from gencompress.run.ranks import Ranks
from gencompress.run.stage import StageContext
from gencompress.run.stop import Stop
from gencompress.run.track import Tracking

if TYPE_CHECKING:
    from types import TracebackType

    from gencompress.config import Config

T = TypeVar("T")
CHECKPOINTS = "checkpoints"
_STAGE = re.compile(r"[a-z0-9][a-z0-9_-]*")


class Run:
    """An open run directory. Use `with Run.open(path, config) as run:`; it holds the lock and the signal handlers."""

    def __init__(self, path: Path, config: Config, ranks: Ranks) -> None:
        """Use `Run.open`."""
        self.path = path
        self.config = config
        self._ranks = ranks
        self._console = Console(quiet=config.run.quiet or not ranks.main)
        self._stop = Stop()
        self._stop.install()
        self._lock: Lock | None = None
        self._journal: Journal | None = None
        self._tracking: Tracking | None = None
        self._visited: list[str] = []
        self._anew: set[str] = set()

    @classmethod
    def open(cls, path: Path | str, config: Config) -> Run:
        """Open or create a run directory.

        Raises RunError if it is in use, belongs to other options (they are listed), is damaged, cannot be written, or
        is a folder with something else in it.
        """
        run = cls(Path(path).absolute(), config, Ranks())
        try:
            run._ranks.on_main(run._prepare)
        except BaseException:
            run.close()
            raise
        return run

    @property
    def main_process(self) -> bool:
        """Whether this process writes: always, unless a launcher started several (then only rank 0)."""
        return self._ranks.main

    @property
    def stop_requested(self) -> bool:
        """Whether Ctrl-C or SIGTERM reached any process of the run. Every process must ask, in the same order."""
        return self._ranks.any(self._stop.requested)

    @overload
    def stage(self, name: str, make: Callable[..., object], *args: object) -> Path: ...
    @overload
    def stage(self, name: str, make: Callable[..., object], *args: object, load: Callable[[Path], T]) -> T: ...
    def stage(
        self, name: str, make: Callable[..., object], *args: object, load: Callable[[Path], object] | None = None
    ) -> object:
        """Run `make(context, *args)` unless the stage is finished; return `load(RUN/name)`, or that folder.

        Fresh or resumed, the value comes from the files, so both give the same. When a stage has to run, those that
        came after it are made anew as well. Raises what `make` raises; RunError if a finished stage's files changed
        or the disk is full; Interrupted if Ctrl-C or SIGTERM came, before the stage or from inside it.
        """
        if not _STAGE.fullmatch(name) or name == CHECKPOINTS or name in self._visited:
            raise ValueError(f"stage name {name!r} is taken, reserved or not made of a-z 0-9 _ -")
        self._visited.append(name)
        folder = self.path / name
        if name not in self._anew and self._ranks.on_main(lambda: self._finished(name)):
            self.say(f"{name}: finished before, taken from {folder}")
            self.journal("stage_resumed", stage=name)
        else:
            if self.stop_requested:
                raise Interrupted(f"stopped before stage {name}; run the same command again to resume")
            self._make(name, make, args)
        return folder if load is None else load(folder)

    def redo(self, name: str) -> None:
        """Have `stage` make a finished stage and those after it anew; what they were is dropped then and not before."""
        self._anew.add(name)
        if name in self._visited:
            del self._visited[self._visited.index(name) :]

    def require(self, name: str) -> Path:
        """The folder of a finished stage. RunError if the stage is not finished or its files changed."""
        if not self._ranks.on_main(lambda: self._finished(name)):
            raise RunError(f"{self.path} has no finished stage {name!r}: finish the run first with `gencompress run`")
        return self.path / name

    def say(self, text: str) -> None:
        """One line on the console, of rank 0 alone."""
        self._console.say(text)

    def journal(self, event: str, **data: object) -> None:
        """One line in `journal.jsonl`, of rank 0 alone."""
        if self._journal is not None:
            self._journal.write(event, **data)

    def show_progress(self, stage: str, step: int, total: int, rate: float, figures: dict[str, float]) -> None:
        """Progress of a stage, to console and journal; `rate` in steps per second."""
        self._console.progress(stage, step, total, rate, figures)
        self.journal("progress", stage=stage, step=step, total=total, **figures)
        if self._tracking is not None:
            self._tracking.progress(stage, step, figures)

    def close(self) -> None:
        """Give the folder free and the signals back."""
        self._stop.restore()
        if self._tracking is not None:
            self._tracking.close()
            self._tracking = None
        if self._journal is not None:
            self._journal.close()
            self._journal = None
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def __enter__(self) -> Run:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is not None:
                self.journal("ended", error=kind.__name__ if kind else "", message=str(error))
            else:
                self.journal("ended")
                if self._tracking is not None:
                    self._tracking.results()
        except RunError:
            pass  # the disk is full: the error on its way tells so already
        finally:
            self.close()

    def _prepare(self) -> None:
        """Create or check the folder. Rank 0 alone does this."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._refuse_foreign()
            self._lock = Lock(self.path)
            for folder in (self.path, self.path / CHECKPOINTS):
                sweep(folder)
        except OSError as error:
            with explain_disk_full(self.path):
                raise RunError(f"{self.path} cannot be used as a run directory: {error.strerror}") from error
        if (self.path / settings.NAME).exists() or (self.path / MANIFEST).exists():
            settings.refuse_changes(self.path, self.config)
        settings.save(self.path, self.config)
        self._journal = Journal(self.path)
        finished = list(read_manifest(self.path).stages)
        for name in finished:
            remove_dir(self.path / CHECKPOINTS / name)  # left by a kill just after the stage was recorded
        if finished or (self.path / CHECKPOINTS).exists():
            self.say(f"resuming {self.path}" + (f": finished are {', '.join(finished)}" if finished else ""))
        self.journal("opened", version=__version__, process=os.getpid(), finished=finished)
        options = settings.as_mapping(self.config)
        self._tracking = Tracking(self.config.run.tracker, self.path, options, self.say)

    def _refuse_foreign(self) -> None:
        ours = {settings.NAME, MANIFEST, JOURNAL, LOCK, ".hydra"}
        names = {entry.name for entry in self.path.iterdir()}
        if not names & {settings.NAME, MANIFEST} and any(n not in ours and ".tmp-" not in n for n in names):
            raise RunError(f"{self.path} is not empty and not a run directory: choose another with run.dir=FOLDER")

    def _finished(self, name: str) -> bool:
        """Whether a stage can be skipped: recorded, its folder there and its files unchanged."""
        entry = read_manifest(self.path).stages.get(name)
        folder = self.path / name
        if entry is None or not folder.is_dir():
            return False
        verify(folder, entry)
        return True

    def _make(self, name: str, make: Callable[..., object], args: tuple[object, ...]) -> None:
        """Run a stage in a temporary folder and put it into place."""
        self._anew.discard(name)
        self._ranks.on_main(lambda: self._forget_others(name))
        temporary = self.path / f"{name}.tmp-{os.getpid()}"
        context = StageContext(self, name, temporary, self.path / CHECKPOINTS / name)
        self.say(f"{name}: running")
        self.journal("stage_started", stage=name)
        began = time.monotonic()
        try:
            with explain_disk_full(temporary):
                temporary.mkdir()
                make(context, *args)
            self._ranks.on_main(lambda: self._commit(name, temporary, time.monotonic() - began))
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        self.say(f"{name}: finished in {time.monotonic() - began:.1f} s")

    def _commit(self, name: str, temporary: Path, seconds: float) -> None:
        """Rename the stage's folder into place, then record it. A kill between the two makes the stage run again."""
        folder = self.path / name
        with explain_disk_full(folder):
            remove_dir(folder)
            commit_dir(temporary, folder)
        manifest = read_manifest(self.path)
        manifest.stages[name] = describe(folder, seconds)
        manifest.write(self.path)
        remove_dir(self.path / CHECKPOINTS / name)
        self.journal("stage_finished", stage=name, seconds=round(seconds, 3))

    def _forget_others(self, name: str) -> None:
        """A stage is about to run: what was made from its former outcome, checkpoints included, is void."""
        kept = set(self._visited) - {name}
        self._forget([s for s in read_manifest(self.path).stages if s not in kept])
        folder = self.path / CHECKPOINTS
        for entry in folder.iterdir() if folder.is_dir() else ():
            if entry.name not in {*kept, name}:
                remove_dir(entry)

    def _forget(self, names: list[str]) -> None:
        """Drop stages from the manifest first, then their folders: a kill in between leaves nothing wrong."""
        if not names:
            return
        manifest = read_manifest(self.path)
        manifest.stages = {s: entry for s, entry in manifest.stages.items() if s not in names}
        manifest.write(self.path)
        for name in names:
            remove_dir(self.path / name)
        self.journal("stages_dropped", stages=names)
