"""Reading run directories for a report. Whatever is absent or of the wrong type reads as None, never as a crash."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gencompress.errors import DataError, RunError
from gencompress.report import figures
from gencompress.run.manifest import read_manifest

SCHEMA = 1
FILE = Path("eval", "metrics.json")
_LARGEST = 64 * 10**6  # bytes; a million values per image are a third of this
METHODS = {
    "blend_max": "largest blend weight",
    "blend_sum": "sum of blend weights",
    "disturbed_taylor": "disturbed Taylor score",
    "ecodiff": "EcoDiff (learned masks)",
    "fisher": "gate Fisher score",
    "gauss_newton": "end-to-end Gauss-Newton score",
    "leave_one_out": "exact leave-one-out error",
    "light_gaussian": "LightGaussian score",
    "magnitude": "weight magnitude",
    "opacity": "opacity",
    "opacity_volume": "opacity × volume",
    "random": "random choice",
    "sensitivity": "sensitivity (PUP)",
    "spectral": "graph-spectral score",
    "taylor": "first-order Taylor score",
}
METRICS = {"params": "parameters", "macs": "MACs", "bytes": "bytes", "units": "splats"}


@dataclass(frozen=True)
class RunData:
    """One run directory as the report sees it.

    Args:
        folder: the run directory.
        label: how this run is called throughout the report, unique in it.
        metrics: the content of eval/metrics.json.
        stages: seconds by name of the finished stages, in order.
    """

    folder: Path
    label: str
    metrics: Mapping[str, Any]
    stages: Mapping[str, float]

    def number(self, *keys: str) -> float | None:
        """The finite number at this path of keys, or None."""
        return number(self.metrics, *keys)

    def text(self, *keys: str) -> str | None:
        """The string at this path of keys, or None if it is absent or empty."""
        found = dig(self.metrics, *keys)
        return found if isinstance(found, str) and found else None

    def ratio(self, *keys: str) -> float | None:
        """Dense over pruned at this path of keys, or None."""
        dense, pruned = self.number("dense", *keys), self.number("pruned", *keys)
        return dense / pruned if dense and pruned else None

    @property
    def model(self) -> str:
        """Name of the dense model: a hub id as it is, of a folder only its last part, since a page travels."""
        name = (self.text("model") or "unnamed model").removeprefix("sample:")
        return Path(name).name if name.startswith(("/", ".", "~")) else name

    @property
    def method(self) -> str:
        """The criterion in words."""
        name = self.text("method") or "unnamed method"
        return METHODS.get(name, name)


def load_runs(folders: Sequence[Path]) -> list[RunData]:
    """Read run directories and give each a label of its own.

    Raises:
        DataError: none given, a metrics file that cannot be read, or runs of different models.
        RunError: a run that was not evaluated yet, or a damaged manifest.
    """
    if not folders:
        raise DataError("a report needs one run directory or more")
    read = [load_metrics(folder / FILE) for folder in folders]
    models = {(m.get("model"), number(m, "dense", "params")) for m in read}
    if len(models) > 1:
        names = " and ".join(sorted(f"{name} ({figures.count(params)} params)" for name, params in models))
        raise DataError(f"one report compares runs of one dense model, these are of {names}; write one report for each")
    labels = _labels(read)
    stages = [{name: entry.seconds for name, entry in read_manifest(f).stages.items()} for f in folders]
    return [RunData(*parts) for parts in zip(folders, labels, read, stages, strict=True)]


def load_metrics(path: Path) -> dict[str, Any]:
    """The content of a metrics.json of the schema that this version reads; `RunError` if absent, `DataError` if bad."""
    try:
        if path.stat().st_size > _LARGEST:
            raise DataError(f"{path}: {path.stat().st_size:,} bytes are too many, {_LARGEST:,} are read")
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise RunError(f"{path}: not there; finish the run with `gencompress run`, or measure it again") from error
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: not readable JSON: {error}") from error
    if not isinstance(value, dict) or value.get("schema") != SCHEMA:
        found = value.get("schema") if isinstance(value, dict) else type(value).__name__
        raise DataError(f"{path}: schema {found!r}, this version reads {SCHEMA}")
    for part in ("dense", "pruned"):
        if number(value, part, "params") is None:
            raise DataError(f"{path}: {part}.params is missing or not a number")
    return value


def dig(value: object, *keys: str) -> object:
    """What lies at a path of keys in nested mappings, or None."""
    for key in keys:
        if not isinstance(value, Mapping):
            return None
        value = value.get(key)
    return value


def number(value: object, *keys: str) -> float | None:
    """The finite number at a path of keys, or None."""
    found = dig(value, *keys)
    if isinstance(found, bool) or not isinstance(found, int | float):
        return None
    try:
        return found if math.isfinite(found) else None
    except OverflowError:  # an integer of hundreds of digits
        return None


def numbers(value: object) -> list[float | None]:
    """A list of numbers with None where one is missing or not finite; empty if it is no list."""
    return [number({"x": item}, "x") for item in value] if isinstance(value, list) else []


def budget_words(metrics: Mapping[str, Any]) -> str:
    """The budget as asked: "0.67 of the prunable parameters" or "at most 1.20 M parameters"."""
    metric = dig(metrics, "budget", "metric")
    name = METRICS.get(str(metric), str(metric))
    keep, limit = keep_asked(metrics), file_limit(metrics)
    if limit is not None:
        sign, amount, what = limit
        return f"{what} at {'most' if sign == '≤' else 'least'} {amount}"
    if keep is not None:
        scope = {"prunable": "the prunable ", "total": "all "}.get(str(dig(metrics, "budget", "scope")), "the ")
        return f"{keep:g} of {scope}{name}"
    asked = number(metrics, "budget", "asked")
    return f"at most {figures.count(asked)} {name}" if asked is not None else "no budget recorded"


def keep_asked(metrics: Mapping[str, Any]) -> float | None:
    """The keep ratio asked for: ``budget.keep``, else ``budget.asked`` where that is a fraction."""
    keep, asked = number(metrics, "budget", "keep"), number(metrics, "budget", "asked")
    return keep if keep is not None else asked if asked is not None and asked <= 1 else None


def file_limit(metrics: Mapping[str, Any]) -> tuple[str, str, str] | None:
    """A budget that limits the first written file or its quality: the sign, the amount, and of what."""
    size, psnr = number(metrics, "budget", "max_mb"), number(metrics, "budget", "min_psnr")
    if size is not None:
        return "≤", f"{size:g} MB", "size of the first file"
    return None if psnr is None else ("≥", f"{psnr:g} dB", "PSNR to the input's own renders")


def _labels(read: Sequence[Mapping[str, Any]]) -> list[str]:
    """Short unique names: the keep ratio, with unit and method only where these differ between the runs."""
    methods = {str(m.get("method")) for m in read}
    metrics = {str(dig(m, "budget", "metric")) for m in read}
    labels: list[str] = []
    for m in read:
        keep, asked, limit = keep_asked(m), number(m, "budget", "asked"), file_limit(m)
        label = f"keep {keep:g}" if keep is not None else f"≤ {figures.count(asked)}" if asked is not None else "pruned"
        if limit is not None:
            label = " ".join(limit[:2])
        elif len(metrics) > 1 or keep is None:
            label += f" {METRICS.get(str(dig(m, 'budget', 'metric')), '')}".rstrip()
        if len(methods) > 1:
            label = f"{m.get('method')}, {label}"
        same = sum(other == label or other.startswith(f"{label} (") for other in labels)
        labels.append(f"{label} ({same + 1})" if same else label)
    return labels
