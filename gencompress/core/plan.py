"""The Plan: which units of every group stay. The only artefact between selection and removal."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gencompress.core.group import Groups
from gencompress.errors import PlanError

SCHEMA = 1
_RANGE = re.compile(r"([0-9]{1,18})(?:-([0-9]{1,18}))?")
MAX_UNITS = 10**8  # ten times the largest splat scenes; a hostile file cannot ask for more memory than this


@dataclass(frozen=True, eq=False)
class Plan:
    """Kept units of every group, with what was asked, what was reached, and whose weights it was made for.

    Args:
        keep: kept unit ids by group name, int64, sorted, unique, in ``[0, size)``.
        sizes: units of every group before pruning.
        budget: the request and the result, plain JSON (metric, asked, reached, dense ...).
        source: `fingerprint` of the weights that were scored.
        method: how the scores were made, plain JSON.

    Raises:
        PlanError: kept units are not sorted, unique and in range, naming the group.
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
        if sum(self.sizes.values()) > MAX_UNITS:
            raise PlanError(f"plan: more than {MAX_UNITS:,} units")
        for name, kept in self.keep.items():
            _check_kept(name, kept, self.sizes[name])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Plan) and self.to_json() == other.to_json()

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
                f"the plan is for other groups: it lacks {missing[:3] or 'none'} and adds {extra[:3] or 'none'}"
            )
        for name, size in sizes.items():
            if self.sizes[name] != size:
                raise PlanError(f"group {name!r} has {size} units here, but the plan was made for {self.sizes[name]}")

    def check_source(self, source: Mapping[str, str | None], *, other_weights: bool = False) -> None:
        """Raise `PlanError` unless made for these weights; ``other_weights`` asks for equal shapes only (fine-tunes).

        What one side does not know (weights on the meta device) is not compared.
        """
        keys = ("shapes",) if other_weights else ("shapes", "weights")
        for key in keys:
            mine, theirs = self.source.get(key), source.get(key)
            if mine and theirs and mine != theirs:
                hint = "; other_weights=True applies it to a fine-tune of the same base" if key == "weights" else ""
                raise PlanError(f"the plan is for a model with other {key} ({mine:.12} is not {theirs:.12}){hint}")

    def to_json(self) -> str:
        """The plan as JSON text; kept units are written as ranges, ``"0-3,7"``."""
        groups = {n: {"size": self.sizes[n], "keep": to_ranges(k)} for n, k in self.keep.items()}
        head = {"schema": SCHEMA, "budget": dict(self.budget), "source": dict(self.source), "method": dict(self.method)}
        return json.dumps({**head, "groups": groups}, indent=1, allow_nan=False)

    @classmethod
    def from_json(cls, text: str, name: str = "plan.json") -> Plan:
        """Parse `to_json`'s text; raises `PlanError` naming `name` and the field at fault."""
        try:
            data = json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant)
        except (ValueError, RecursionError) as error:
            raise PlanError(f"{name}: not a plan, the JSON is malformed ({error})") from error
        _expect(data, dict, name)
        if data.get("schema") != SCHEMA:
            raise PlanError(f"{name}: schema {data.get('schema')!r} is not supported, expected {SCHEMA}")
        for key in ("groups", "budget", "source", "method"):
            _expect(data.get(key), dict, f"{name}: field {key!r}")
        for key, value in data["source"].items():
            _expect(value, (str, type(None)), f"{name}: field 'source.{key}'")
        sizes, texts = {}, {}
        for group, entry in data["groups"].items():
            where = f"{name}: group {group!r}"
            _expect(entry, dict, where)
            sizes[group] = _expect(entry.get("size"), int, f"{where}: field 'size'")
            texts[group] = _expect(entry.get("keep"), str, f"{where}: field 'keep'")
            if sizes[group] < 1:
                raise PlanError(f"{where}: size {sizes[group]} must be >= 1")
        if sum(sizes.values()) > MAX_UNITS:
            raise PlanError(f"{name}: more than {MAX_UNITS:,} units")
        keep = {group: from_ranges(texts[group], sizes[group], f"{name}: group {group!r}") for group in sizes}
        return cls(keep, sizes, data["budget"], data["source"], data["method"])

    @classmethod
    def load(cls, path: Path | str) -> Plan:
        """Read a plan file; raises `PlanError` if it is missing or malformed."""
        path = Path(path)
        if not path.is_file():
            raise PlanError(f"{path}: no such plan file")
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise PlanError(f"{path}: not a plan, it is not UTF-8 text") from error
        return cls.from_json(text, str(path))


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = dict(pairs)
    if len(names) < len(pairs):
        raise ValueError(f"a name is given twice among {[name for name, _ in pairs][:5]}")
    return names


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not a number")


def _expect(value: Any, kind: type | tuple[type, ...], where: str) -> Any:
    if not isinstance(value, kind) or isinstance(value, bool):
        names = " or ".join(k.__name__ for k in (kind if isinstance(kind, tuple) else (kind,)))
        raise PlanError(f"{where} must be of type {names}, not {type(value).__name__}")
    return value


def _check_kept(name: str, kept: Tensor, size: int) -> None:
    if kept.dtype != torch.int64 or kept.ndim != 1:
        raise PlanError(f"group {name!r}: kept units must be a 1-d int64 tensor, got {kept.dtype} {tuple(kept.shape)}")
    if len(kept) > 1 and not bool((kept[1:] > kept[:-1]).all()):
        raise PlanError(f"group {name!r}: kept units must be sorted and unique")
    if len(kept) and (int(kept[0]) < 0 or int(kept[-1]) >= size):
        raise PlanError(f"group {name!r}: kept units {int(kept[0])} to {int(kept[-1])} are outside [0, {size})")


def to_ranges(kept: Tensor) -> str:
    """Sorted ids as inclusive ranges: ``[0,1,2,7] -> "0-2,7"``."""
    if not len(kept):
        return ""
    breaks = torch.nonzero(kept[1:] != kept[:-1] + 1).flatten() + 1
    starts = torch.cat([kept[:1], kept[breaks]]).tolist()
    ends = torch.cat([kept[breaks - 1], kept[-1:]]).tolist()
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in zip(starts, ends, strict=True))


def from_ranges(text: str, size: int, where: str) -> Tensor:
    """Inverse of `to_ranges`, int64 [kept].

    Ranges must ascend and stay below `size`, so that hostile text allocates no more than `size` units.
    """
    if not text:
        return torch.empty(0, dtype=torch.int64)
    starts, ends, previous = [], [], -1
    for piece in text.split(","):
        match = _RANGE.fullmatch(piece)
        if not match:
            raise PlanError(f"{where}: {piece[:40]!r} is not a range like '0-3' or a unit like '7'")
        a, b = int(match[1]), int(match[2] or match[1])
        if not previous < a <= b < size:
            raise PlanError(f"{where}: range {piece!r} does not ascend, overlaps, or is outside [0, {size})")
        starts.append(a)
        ends.append(b)
        previous = b
    first, lengths = torch.tensor(starts), torch.tensor(ends) - torch.tensor(starts) + 1
    skipped = first - (lengths.cumsum(0) - lengths)  # unit minus its place among the kept ones, constant in a range
    return torch.arange(int(lengths.sum())) + torch.repeat_interleave(skipped, lengths)


def fingerprint(tensors: Mapping[str, Tensor]) -> dict[str, str | None]:
    """SHA-256 of names and shapes, and of the contents (None if any is on the meta device)."""
    shapes, weights = hashlib.sha256(), hashlib.sha256()
    meta = any(t.is_meta for t in tensors.values())
    for name in sorted(tensors):
        tensor = tensors[name].detach()
        shapes.update(f"{name}: {tuple(tensor.shape)}\n".encode())
        if not meta:
            weights.update(f"{name}: {tensor.dtype} {tuple(tensor.shape)}\n".encode())
            weights.update(tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return {"shapes": shapes.hexdigest(), "weights": None if meta else weights.hexdigest()}
