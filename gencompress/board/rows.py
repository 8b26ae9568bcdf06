"""`Row`: one line of a leaderboard, whether measured, failed, half finished or quoted from a paper."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

State = Literal["measured", "failed", "unfinished", "quoted"]
Scalar = str | int | float | bool | None


@dataclass(frozen=True)
class Row:
    """One line of the board.

    Args:
        id: unique on the board: the name of the run directory, as much of its path as tells it apart.
        domain: "diffusion", "splats" ...
        task: what was compressed: model, scene or data set.
        method: how units were chosen.
        state: only "measured" and "quoted" rows have a rank.
        variant: file format of a scene, or a paper's name for one of its results.
        budget: what was asked for, in words.
        note: how `method` came to its result, where that needs saying.
        error: what went wrong, or where an unfinished run stands.
        values: measures by key, finite.
        spread: standard errors by key of the measure.
        names: names of measures as the run gives them (FID, say), by key.
        dense: costs of what was compressed, by key of the measure.
        protocol: conditions of the measurement; None where they are not known.
        options: the run's options by dotted name.
        about: date, hardware, command, source, url: texts by name.
        folder: the run directory; None for a quoted row.
        pictures: paths of the pictures before and after, in pairs, and their captions.
    """

    id: str
    domain: str
    task: str
    method: str
    state: State
    variant: str = ""
    budget: str = ""
    note: str = ""
    error: str = ""
    values: Mapping[str, float] = field(default_factory=dict)
    spread: Mapping[str, float] = field(default_factory=dict)
    names: Mapping[str, str] = field(default_factory=dict)
    dense: Mapping[str, float] = field(default_factory=dict)
    protocol: Mapping[str, str | None] = field(default_factory=dict)
    options: Mapping[str, Scalar] = field(default_factory=dict)
    about: Mapping[str, str] = field(default_factory=dict)
    folder: Path | None = None
    pictures: tuple[tuple[Path, Path, str], ...] = ()

    @property
    def ranked(self) -> bool:
        """Whether its numbers count."""
        return self.state in ("measured", "quoted")
