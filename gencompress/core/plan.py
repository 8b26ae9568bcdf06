"""The Plan: which units of every group stay. The only artefact between selection and removal."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gencompress.core.group import Groups
from gencompress.errors import PlanError

SCHEMA = 1


@dataclass(frozen=True)
class Plan:
    """Kept units of every group, with what was asked, what was reached, and whose weights it was made for.

    Args:
        keep: kept unit ids by group name, int64, sorted, unique, in ``[0, size)``.
        sizes: units of every group before pruning.
        budget: the request and the result, plain JSON (metric, asked, reached, dense ...).
        source: `fingerprint` of the weights that were scored.
        method: how the scores were made, plain JSON.
    """

    keep: Mapping[str, Tensor]
    sizes: Mapping[str, int]
    budget: Mapping[str, Any] = field(default_factory=dict)
    source: Mapping[str, str | None] = field(default_factory=dict)
    method: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if set(self.keep) != set(self.sizes):
            odd = sorted(set(self.keep) ^ set(self.sizes))
            raise PlanError(f"plan: kept units and sizes name different groups: {odd[:5]}")
        for name, kept in self.keep.items():
            _check_kept(name, kept, self.sizes[name])

    @property
    def counts(self) -> dict[str, int]:
        """Kept units per group."""
        return {name: len(kept) for name, kept in self.keep.items()}

    def masks(self, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
        """Hard 0/1 gates by group, [size]."""
        out = {}
        for name, kept in self.keep.items():
            out[name] = torch.zeros(self.sizes[name], dtype=dtype)
            out[name][kept] = 1
        return out

    def check_groups(self, groups: Groups) -> None:
        """Raise `PlanError` unless this plan names exactly these groups at these sizes."""
        sizes = {g.name: g.size for g in groups}
        missing, extra = sorted(set(sizes) - set(self.sizes)), sorted(set(self.sizes) - set(sizes))
        if missing or extra:
            raise PlanError(
                f"the plan is for other groups: it lacks {missing[:3] or 'none'} and has the unknown {extra[:3] or 'none'}"
            )
        for name, size in sizes.items():
            if self.sizes[name] != size:
                raise PlanError(f"group {name!r} has {size} units here, but the plan was made for {self.sizes[name]}")

    def check_source(self, source: Mapping[str, str | None], *, other_weights: bool = False) -> None:
        """Raise `PlanError` unless made for these weights; ``other_weights`` asks for equal shapes only (fine-tunes)."""
        keys = ("shapes",) if other_weights else ("shapes", "weights")
        for key in keys:
            mine, theirs = self.source.get(key), source.get(key)
            if mine and theirs and mine != theirs:
                hint = "" if key == "shapes" else "; pass other_weights=True to apply it to a fine-tune of the same base"
                raise PlanError(f"the plan was made for a model with other {key} ({mine[:12]} is not {theirs[:12]}){hint}")

    def to_json(self) -> str:
        """The plan as JSON text; kept units are written as ranges, ``"0-3,7"``."""
        groups = {n: {"size": self.sizes[n], "keep": to_ranges(k)} for n, k in self.keep.items()}
        head = {"schema": SCHEMA, "budget": dict(self.budget), "source": dict(self.source), "method": dict(self.method)}
        return json.dumps({**head, "groups": groups}, indent=1)

    @classmethod
    def from_json(cls, text: str, name: str = "plan.json") -> Plan:
        """Parse `to_json`'s text; raises `PlanError` naming `name` and the field at fault."""
        try:
            data = json.loads(text)
            if data["schema"] != SCHEMA:
                raise PlanError(f"{name}: schema {data['schema']!r} is not supported, expected {SCHEMA}")
            sizes = {n: int(g["size"]) for n, g in data["groups"].items()}
            keep = {n: from_ranges(g["keep"], sizes[n], f"{name}: group {n!r}") for n, g in data["groups"].items()}
            return cls(keep, sizes, data["budget"], data["source"], data["method"])
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            if isinstance(error, PlanError):
                raise
            raise PlanError(f"{name}: not a plan ({type(error).__name__}: {error})") from error

    @classmethod
    def load(cls, path: Path | str) -> Plan:
        """Read a plan file; raises `PlanError` if it is missing or malformed."""
        path = Path(path)
        if not path.is_file():
            raise PlanError(f"{path}: no such plan file")
        return cls.from_json(path.read_text(), str(path))


def _check_kept(name: str, kept: Tensor, size: int) -> None:
    if kept.dtype != torch.int64 or kept.ndim != 1:
        raise PlanError(f"group {name!r}: kept units must be a 1-d int64 tensor, got {kept.dtype} {tuple(kept.shape)}")
    if len(kept) and (int(kept[0]) < 0 or int(kept[-1]) >= size):
        raise PlanError(f"group {name!r}: kept units reach {int(kept[-1])}, but it has {size}")
    if len(kept) > 1 and not bool((kept[1:] > kept[:-1]).all()):
        raise PlanError(f"group {name!r}: kept units must be sorted and unique")


def to_ranges(kept: Tensor) -> str:
    """Sorted ids as inclusive ranges: ``[0,1,2,7] -> "0-2,7"``."""
    if not len(kept):
        return ""
    breaks = torch.nonzero(kept[1:] != kept[:-1] + 1).flatten() + 1
    starts = torch.cat([kept[:1], kept[breaks]]).tolist()
    ends = torch.cat([kept[breaks - 1], kept[-1:]]).tolist()
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in zip(starts, ends, strict=True))


def from_ranges(text: str, size: int, where: str) -> Tensor:
    """Inverse of `to_ranges`, bounded by `size` so that a hostile range allocates nothing large."""
    parts = []
    for piece in filter(None, text.split(",")):
        first, _, last = piece.partition("-")
        a, b = int(first), int(last or first)
        if not 0 <= a <= b < size:
            raise PlanError(f"{where}: range {piece!r} is outside [0, {size})")
        parts.append(torch.arange(a, b + 1))
    kept = torch.cat(parts) if parts else torch.empty(0, dtype=torch.int64)
    if len(kept) > size:
        raise PlanError(f"{where}: kept units overlap")
    return kept


def fingerprint(tensors: Mapping[str, Tensor]) -> dict[str, str | None]:
    """SHA-256 of names and shapes, and of the contents (None on the meta device)."""
    shapes, weights = hashlib.sha256(), hashlib.sha256()
    meta = False
    for name in sorted(tensors):
        tensor = tensors[name]
        shapes.update(f"{name}{tuple(tensor.shape)}".encode())
        meta = meta or tensor.is_meta
        if not meta:
            weights.update(f"{name}{tensor.dtype}".encode())
            weights.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return {"shapes": shapes.hexdigest(), "weights": None if meta else weights.hexdigest()}
