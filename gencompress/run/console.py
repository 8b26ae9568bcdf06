"""Lines for the person who waits: on standard error, one rewritten line on a terminal, sparse lines elsewhere."""

from __future__ import annotations

import sys
import time

_SPARSE_S = 30.0
_TERMINAL_S = 0.1


class Console:
    """Says things, and shows the progress of one stage at a time."""

    def __init__(self, quiet: bool = False) -> None:
        self._quiet = quiet
        self._terminal = sys.stderr.isatty()
        self._shown_at = float("-inf")
        self._line_open = False

    def say(self, text: str) -> None:
        """One line, below a progress line if one stands."""
        if self._quiet:
            return
        if self._line_open:
            sys.stderr.write("\n")
            self._line_open = False
        sys.stderr.write(text + "\n")
        sys.stderr.flush()

    def progress(self, stage: str, step: int, total: int, rate: float, figures: dict[str, float]) -> None:
        """Show `step` of `total`; `rate` in steps per second, 0 when not known yet."""
        now = time.monotonic()
        if now - self._shown_at < (_TERMINAL_S if self._terminal else _SPARSE_S) and step < total:
            return
        self._shown_at = now
        left = f", {_duration((total - step) / rate)} left" if rate > 0 and step < total else ""
        shown = "".join(f"  {name} {value:.4g}" for name, value in figures.items())
        line = f"{stage}: {step}/{total}{left}{shown}"
        if self._quiet or not self._terminal:
            self.say(line)
            return
        sys.stderr.write(f"\r\x1b[2K{line}")
        sys.stderr.flush()
        self._line_open = True


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
