"""What a stage function is handed: where to write, checkpoints, progress, and whether to stop."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gencompress.errors import Interrupted
from gencompress.run import checkpoint
from gencompress.run.checkpoint import Checkpoint

if TYPE_CHECKING:
    from torch import Tensor

    from gencompress.run.directory import Run


class StageContext:
    """One stage of a run directory. `dir` is a temporary folder, renamed to RUN/NAME when the stage returns."""

    def __init__(self, run: Run, name: str, folder: Path, checkpoint_dir: Path) -> None:
        self.run = run
        self.name = name
        self.dir = folder
        self.checkpoint_dir = checkpoint_dir
        self._step = self._total = 0
        self._first: tuple[int, float] | None = None

    @property
    def stop_requested(self) -> bool:
        """Whether Ctrl-C or SIGTERM came. With several processes every one of them must ask, at the same step."""
        return self.run.stop_requested

    def stop_if_requested(self) -> None:
        """Raise Interrupted (exit code 75) if a stop was asked for; checkpoint before calling this."""
        if self.stop_requested:
            at = f" after step {self._step} of {self._total}" if self._total else ""
            raise Interrupted(f"stopped in stage {self.name}{at}; run the same command again to resume")

    def progress(self, step: int, total: int, **figures: float) -> None:
        """Tell that `step` of `total` steps are done, with figures such as loss; to the console and the journal."""
        now = time.monotonic()
        self._step, self._total = step, total
        self._first = self._first or (step, now)
        done, elapsed = step - self._first[0], now - self._first[1]
        self.run.show_progress(self.name, step, total, done / elapsed if elapsed > 0 else 0.0, figures)

    def save_checkpoint(self, step: int, tensors: Mapping[str, Tensor], meta: Mapping[str, Any] | None = None) -> None:
        """Save what is needed to go on after `step` steps: tensors, and small JSON data. Rank 0 writes."""
        if self.run.main_process:
            checkpoint.save(self.checkpoint_dir, step, tensors, meta or {})
            self.run.journal("checkpoint", stage=self.name, step=step)

    def load_checkpoint(self) -> Checkpoint | None:
        """The newest sound checkpoint of this stage, or None. Damaged ones are passed over, and said so."""
        found, damaged = checkpoint.load(self.checkpoint_dir)
        for path in damaged:
            self.run.say(f"{self.name}: {path.name} is damaged and was passed over")
            self.run.journal("checkpoint_damaged", stage=self.name, file=path.name)
        if found is not None:
            self.run.say(f"{self.name}: resumed after step {found.step}")
            self.run.journal("checkpoint_loaded", stage=self.name, step=found.step)
        return found


class NullContext:
    """For library use without a run directory: keeps nothing, never stops."""

    stop_requested = False

    def __init__(self, folder: Path | None = None) -> None:
        self.dir = folder or Path()

    def stop_if_requested(self) -> None:
        """Do nothing."""

    def progress(self, step: int, total: int, **figures: float) -> None:
        """Do nothing."""

    def load_checkpoint(self) -> Checkpoint | None:
        """Nothing was kept."""
        return None

    def save_checkpoint(self, step: int, tensors: Mapping[str, Tensor], meta: Mapping[str, Any] | None = None) -> None:
        """Do nothing."""
