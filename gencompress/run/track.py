"""Trackers: the figures of a run also go to trackio, Weights & Biases or TensorBoard, as `run.tracker` says.

The journal and metrics.json have everything without one. A tracker that fails is left out from then on, and said so: it
never ends a run. Nothing is imported before it is asked for.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from gencompress.errors import ConfigError

_PROJECT = "gencompress"
_RESULTS = Path("eval", "metrics.json")


class Tracker(Protocol):
    """Where figures go."""

    def log(self, figures: Mapping[str, float], step: int | None) -> None:
        """Figures by name, of one step of a stage; of a finished run without a step."""

    def close(self) -> None:
        """Send what is left."""


class _Wandb:
    """wandb, and trackio, which has the same functions and keeps everything on this machine."""

    def __init__(self, module: Any, path: Path, options: Mapping[str, Any]) -> None:
        self._module = module
        module.init(project=_PROJECT, name=path.name, config=dict(options))

    def log(self, figures: Mapping[str, float], step: int | None) -> None:
        self._module.log(dict(figures) if step is None else {**figures, "step": step})

    def close(self) -> None:
        self._module.finish()


class _TensorBoard:
    """Event files in the run directory."""

    def __init__(self, module: Any, path: Path, options: Mapping[str, Any]) -> None:
        self._writer = module.SummaryWriter(str(path / "tensorboard"))
        self._writer.add_text("options", f"    {json.dumps(options)}")

    def log(self, figures: Mapping[str, float], step: int | None) -> None:
        for name, value in figures.items():
            self._writer.add_scalar(name, value, step or 0)

    def close(self) -> None:
        self._writer.close()


_TRACKERS: dict[str, tuple[str, Callable[..., Tracker]]] = {
    "trackio": ("trackio", _Wandb),
    "wandb": ("wandb", _Wandb),
    "tensorboard": ("torch.utils.tensorboard", _TensorBoard),
}


class Tracking:
    """The tracker of one run, or none; what it raises after it was opened is told to `say`, once."""

    def __init__(self, name: str, path: Path, options: Mapping[str, Any], say: Callable[[str], object]) -> None:
        """Open the tracker called `name`; ConfigError if its package is not installed. "none" does nothing."""
        self._name, self._path, self._say = name, path, say
        self._tracker = None if name == "none" else _open(name, path, options)

    def progress(self, stage: str, step: int, figures: Mapping[str, float]) -> None:
        """The figures of a step of a stage."""
        if figures:
            self._try(lambda t: t.log({f"{stage}/{key}": value for key, value in figures.items()}, step))

    def results(self) -> None:
        """Every number of metrics.json, of a run that is finished."""
        found = dict(_numbers(_read(self._path / _RESULTS)))
        if found:
            self._try(lambda t: t.log(found, None))

    def close(self) -> None:
        """The end, good or bad."""
        self._try(lambda t: t.close())
        self._tracker = None

    def _try(self, act: Callable[[Tracker], object]) -> None:
        if self._tracker is None:
            return
        try:
            act(self._tracker)
        except Exception as error:  # a network that is away, say: no reason to lose a run
            self._say(f"run.tracker={self._name} failed and gets nothing more: {error!r}")
            self._tracker = None


def _open(name: str, path: Path, options: Mapping[str, Any]) -> Tracker:
    module, kind = _TRACKERS[name]
    try:
        return kind(importlib.import_module(module), path, options)
    except ImportError as error:
        advice = "install it with `pip install gencompress[trackers]`"
        raise ConfigError(f"run.tracker={name}: {advice} ({error})") from error


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _numbers(value: Any, name: str = "") -> Iterator[tuple[str, float]]:
    """Every number in nested mappings, by dotted name."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _numbers(item, f"{name}.{key}" if name else str(key))
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield name, value
