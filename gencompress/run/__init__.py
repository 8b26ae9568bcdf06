"""The run directory: atomic, restartable stages with checkpoints, journal and lock. Imports no torch."""

from __future__ import annotations

from gencompress.run.checkpoint import Checkpoint
from gencompress.run.directory import Run
from gencompress.run.journal import read_journal
from gencompress.run.manifest import Manifest, StageEntry, read_manifest
from gencompress.run.stage import NullContext, StageContext

__all__ = [
    "Checkpoint",
    "Manifest",
    "NullContext",
    "Run",
    "StageContext",
    "StageEntry",
    "read_journal",
    "read_manifest",
]
