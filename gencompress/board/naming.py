"""What rows of one table are called: the method, what was added to it, and the options in which it differs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from functools import cache
from typing import NamedTuple

from gencompress.board.rows import Row, Scalar
from gencompress.config import TABLES, Config

_COMPENSATION = {"diffusion": "compensate.trajectories", "sam": "compensate.images"}  # 0 is without
# what says nothing of the method: the measurement, the process, the budget, and names that are shown elsewhere
_GROUPS = ("run", "export", "metrics", "denoise", "model", "scene", "data", "recipe")
_SHOWN = ("criterion.name", "recover.name", "domain.name", "rig.cameras", "rig.size")
_BUDGET = ("budget.metric", "budget.keep", "budget.target", "budget.max_mb", "budget.min_psnr")
_MOST = 4


class Label(NamedTuple):
    """What a row is called: its name, and options that tell it from rows of that name."""

    name: str
    options: str = ""

    @property
    def text(self) -> str:
        """Both in one."""
        return f"{self.name} ({self.options})" if self.options else self.name


def labels(rows: Sequence[Row]) -> list[Label]:
    """A label for every row; rows with one label are one curve, made at several budgets or from several seeds.

    Options are named where they are not at their default, unless all rows with figures have the same.
    """
    ranked = [row.options for row in rows if row.state == "measured"]
    shared = {key for key in {k for o in ranked for k in o} if len({str(o.get(key)) for o in ranked}) == 1}
    return [_label(row, shared) for row in rows]


def seed(row: Row) -> str:
    """The seed of a method that has one, in words, where it is not the first."""
    value = row.options.get("criterion.seed")
    return "" if value in (None, 0) else f"seed {value}"


def _label(row: Row, shared: set[str]) -> Label:
    """The method with what was added, its uncommon options, and the file that was measured."""
    added = [str(word) for word in (_compensation(row), row.options.get("recover.name")) if word not in (None, "none")]
    defaults = _defaults(*(str(row.options.get(f"{group}.name")) for group in TABLES))
    named = [
        f"{key.partition('.')[2]}={_text(value)}"
        for key, value in row.options.items()
        if _is_method(key) and key not in shared and value != defaults.get(key)
        if key not in _COMPENSATION.values() or value
    ]
    recipe = f"{row.options['recipe.name']}, " if row.domain == "sam" and "recipe.name" in row.options else ""
    name = recipe + " + ".join([row.method, *added])
    name = f"{name}, {row.variant}" if row.variant and row.state != "quoted" else name
    return Label(name, ", ".join(named[:_MOST]))


def _compensation(row: Row) -> str | None:
    return "compensation" if row.options.get(_COMPENSATION.get(row.domain, "")) else None


def _is_method(key: str) -> bool:
    group, _, name = key.partition(".")
    return group not in _GROUPS and key not in _SHOWN + _BUDGET and name not in ("seed", "seeds")


@cache
def _defaults(*names: str) -> Mapping[str, object]:
    """The default of every option by dotted name, with those of the classes of `names`, one of each of `TABLES`."""
    config = Config()
    parts = {f.name: getattr(config, f.name) for f in fields(config)}
    for group, name in zip(TABLES, names, strict=True):
        if name in TABLES[group]:
            parts[group] = TABLES[group][name]()
    return {
        f"{group}.{f.name}": getattr(part, f.name)
        for group, part in parts.items()
        if is_dataclass(part)
        for f in fields(part)
    }


def _text(value: Scalar) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
