"""Every error a user can cause, each with one clear message and nothing half-done behind it.

All derive from `GencompressError`, so the command line prints the message alone and library users catch one class.
This module imports nothing heavy.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class GencompressError(Exception):
    """Base class: the message names the file, field or option at fault and what would be right."""

    exit_code = 2


class ConfigError(GencompressError, ValueError):
    """An option is unknown, out of range, or contradicts another one."""


class ModelError(GencompressError):
    """A model folder is missing, half written, a pickle, holds NaN, or disagrees with its own config."""


class DataError(GencompressError):
    """Prompts or images are missing or unreadable."""


class FormatError(GencompressError, ValueError):
    """A scene, camera or checkpoint file is truncated, malformed, oversized or unknown; names the file and field."""


class KernelError(GencompressError):
    """A compiled kernel cannot be built or run on this machine; the message names the cure."""


class BudgetError(GencompressError, ValueError):
    """The budget cannot be met; the message says the reachable range."""


class PlanError(GencompressError, ValueError):
    """A plan is malformed, or does not belong to these weights or groups."""


class SchedulerError(GencompressError):
    """The scheduler is unknown or cannot be differentiated; the message names those that can."""


class NumericsError(GencompressError):
    """A loss, gradient or score is NaN or infinite."""


class RunError(GencompressError):
    """A run directory is damaged, belongs to another config, or cannot be written (disk full)."""


class Interrupted(GencompressError):
    """Ctrl-C or SIGTERM: the step in progress was finished and checkpointed; running again resumes."""

    exit_code = 75  # EX_TEMPFAIL of sysexits.h: try again


def nearest(name: str, valid: Iterable[str], limit: int = 3) -> str:
    """A phrase for error messages: the valid names closest to `name`, or all of them if none is close."""
    names = sorted(valid)
    close = difflib.get_close_matches(name, names, n=limit, cutoff=0.4)
    if close:
        return f"did you mean {' or '.join(repr(c) for c in close)}?"
    return f"valid are {', '.join(repr(n) for n in names)}"
