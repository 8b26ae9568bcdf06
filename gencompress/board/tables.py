"""Rows that may be compared become a table: one per domain, task and protocol, with curves and Pareto front."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gencompress.board.axes import Axis, make_axis
from gencompress.board.curves import Curve, make_curves
from gencompress.board.front import pareto_front
from gencompress.board.measures import MEASURES, Domain, Measure, domain
from gencompress.board.naming import Label, labels
from gencompress.board.rows import Row
from gencompress.errors import ConfigError, nearest

_BASELINES = ("random", "magnitude")  # the floor, and what everybody has
_IN_NOTES = ("ssim", "extractor", "everything")  # conditions that are told below a table, not above it
_UNTOLD = (
    "labelled_fingerprint",
    "unlabelled_fingerprint",
)  # conditions that people cannot read  # conditions that are told below a table, not above it
_COMPARED = (
    "psnr_db",
    "ssim",
    "lpips",
    "miou_point",
    "miou_box",
)  # qualities by which rates at equal quality are compared


@dataclass(frozen=True)
class Table:
    """Rows of one task under one protocol.

    Args:
        about: the domain.
        task: what was compressed.
        conditions: the protocol, one phrase.
        apart: what of it tells this table from others of the task; empty for an only one.
        dense: costs of what was compressed, in words.
        rows: best quality first, then what failed.
        labels: what each row is called.
        measures: those that some row has.
        heads: heading of every measure.
        rate: horizontal axis at first, or None where nothing can be drawn.
        quality: vertical axis at first.
        curves: one per method.
        compared: qualities at which rates are compared.
        baseline: label of the curve that the others are compared with.
        front: positions of the rows that no other of their kind beats.
        axes: everything that can be an axis: rates, then qualities.
        notes: what a reader must know.
    """

    about: Domain
    task: str
    conditions: str
    apart: str
    dense: str
    rows: tuple[Row, ...]
    labels: tuple[Label, ...]
    measures: tuple[Measure, ...]
    heads: tuple[str, ...]
    rate: Measure | None
    quality: Measure | None
    curves: tuple[Curve, ...]
    compared: tuple[Measure, ...]
    baseline: str | None
    front: frozenset[int]
    axes: tuple[Axis, ...]
    notes: tuple[str, ...]


def make_tables(rows: Sequence[Row], baseline: str | None = None) -> list[Table]:
    """All tables, by domain and task.

    Args:
        rows: from `read_runs` and `read_quoted`.
        baseline: method that rates are compared with; None takes random or magnitude where they were run.

    Raises:
        ConfigError: no row is of that method; the message says which there are.
    """
    if baseline is not None and baseline not in {row.method for row in rows}:
        raise ConfigError(f"--baseline {baseline}: {nearest(baseline, {row.method for row in rows})}")
    groups = _groups(rows)
    values = _values(groups)
    return [_table(members, _apart(members[0], values), baseline) for members in groups]


def _groups(rows: Sequence[Row]) -> list[list[Row]]:
    """Rows by domain and task, then by protocol.

    Quoted rows stand in every table of their task. A run that failed does not know all of its protocol: it stands in
    the first table of its task that nothing it knows speaks against.
    """
    tasks: dict[tuple[str, str], list[Row]] = {}
    for row in sorted(rows, key=lambda r: (r.domain, r.task.lower(), r.task)):
        tasks.setdefault((row.domain, row.task), []).append(row)
    groups: list[list[Row]] = []
    for members in tasks.values():
        found: list[list[Row]] = []
        own = [row for row in members if row.state != "quoted"]
        for row in sorted(own, key=lambda r: (not r.ranked, not r.values)):
            home = next((group for group in found if _agree(group[0], row)), None)
            if home is None:
                found.append([row])
            else:
                home.append(row)
        quoted = [row for row in members if row.state == "quoted"]
        groups += [[*group, *quoted] for group in found] or [quoted]
    return groups


def _agree(first: Row, row: Row) -> bool:
    """Whether two rows may stand in one table: equal conditions, and for what has no figures none that contradicts."""
    if row.values:
        return dict(first.protocol) == dict(row.protocol)
    return not any(_differ(first, row, name) for name in row.protocol)


def _differ(first: Row, other: Row, name: str) -> bool:
    """Whether both rows know this condition, and not the same."""
    one, two = first.protocol.get(name), other.protocol.get(name)
    return None not in (one, two) and one != two


def _values(groups: Sequence[Sequence[Row]]) -> dict[tuple[str, str, str], set[str]]:
    """The known values of every condition in the tables of a task, by domain, task and name."""
    found: dict[tuple[str, str, str], set[str]] = {}
    for first, *_ in groups:
        for name, value in first.protocol.items():
            if value is not None:
                found.setdefault((first.domain, first.task, name), set()).add(value)
    return found


def _apart(first: Row, values: Mapping[tuple[str, str, str], set[str]]) -> str:
    """The conditions of the table of a row in which others of its task differ, in words."""
    told = _told(first)
    if first.protocol.get("source") is not None:
        told["source"] = f"weights {first.protocol['source']}"
    return ", ".join(text for name, text in told.items() if len(values[first.domain, first.task, name]) > 1)


def _table(members: Sequence[Row], apart: str, baseline: str | None) -> Table:
    measures = [m for m in MEASURES.values() if any(m.key in row.values for row in members)]
    rate, quality = _rate(members, measures), next((m for m in measures if m.role == "quality"), None)
    rows = sorted(members, key=lambda row: _rank(row, quality))
    named = labels(rows)
    texts = [label.text for label in named]
    heads = [_head(measure, rows) for measure in measures]
    compared = [m for m in measures if m.key in _COMPARED] or ([quality] if quality else [])
    chosen = _baseline(texts, rows, baseline)
    drawn = [m for role in ("rate", "quality") for m in measures if m.role == role] if rate and quality else []
    axes = [make_axis(m, heads[measures.index(m)], rows) for m in drawn]
    first = next((row for row in rows if row.protocol), rows[0])
    return Table(
        about=domain(first.domain),
        task=first.task,
        conditions=_conditions(first),
        apart=apart,
        dense=_dense(rows),
        rows=tuple(rows),
        labels=tuple(named),
        measures=tuple(measures),
        heads=tuple(heads),
        rate=rate,
        quality=quality,
        curves=tuple(make_curves(rows, named, rate, compared, chosen) if rate and quality else ()),
        compared=tuple(compared),
        baseline=chosen,
        front=_front(rows, rate, quality),
        axes=tuple(axis for axis in axes if axis),
        notes=tuple(_notes(rows)),
    )


def _rank(row: Row, quality: Measure | None) -> tuple[bool, float, str]:
    value = row.values.get(quality.key) if quality else None
    if quality is None or value is None:
        return not row.ranked, float("inf"), row.id
    return not row.ranked, -value if quality.higher else value, row.id


def _rate(rows: Sequence[Row], measures: Sequence[Measure]) -> Measure | None:
    """Bytes where rows are files or have no budget, else what most budgets count."""
    rates = [m for m in measures if m.role == "rate"]
    asked = Counter(str(row.options.get("budget.metric")) for row in rows if row.ranked and not row.variant)
    asked.pop("None", None)
    wanted = asked.most_common(1)[0][0] if asked else "bytes"
    return next((m for m in rates if m.key == wanted), next(iter(rates), None))


def _head(measure: Measure, rows: Sequence[Row]) -> str:
    """FID and KID only where the runs say so by name."""
    name = next((row.names[measure.key] for row in rows if measure.key in row.names), measure.head)
    return name[:1].upper() + name[1:]


def _baseline(texts: Sequence[str], rows: Sequence[Row], asked: str | None) -> str | None:
    """The label of the curve to compare with: of the asked method the one with most rows."""
    for method in (asked,) if asked else _BASELINES:
        counts = Counter(text for text, row in zip(texts, rows, strict=True) if row.ranked and row.method == method)
        if counts:
            return counts.most_common(1)[0][0]
    return None


def _front(rows: Sequence[Row], rate: Measure | None, quality: Measure | None) -> frozenset[int]:
    """Measured rows that no other beats; of quoted rows alone, those."""
    if rate is None or quality is None:
        return frozenset()
    sign = 1 if quality.higher else -1
    for state in ("measured", "quoted"):
        at = [i for i, row in enumerate(rows) if row.state == state and {rate.key, quality.key} <= row.values.keys()]
        if at:
            points = [(rows[i].values[rate.key], sign * rows[i].values[quality.key]) for i in at]
            return frozenset(at[i] for i in pareto_front(points))
    return frozenset()


def _conditions(row: Row) -> str:
    if row.state == "quoted":
        return "as published"
    return ", ".join(text for name, text in _told(row).items() if name not in _IN_NOTES + _UNTOLD)


def _told(row: Row) -> dict[str, str]:
    """The known conditions in words, by name."""
    values = ((field, row.protocol.get(field.name)) for field in domain(row.domain).protocol)
    return {field.name: field.words.format(value) for field, value in values if value is not None}


def _dense(rows: Sequence[Row]) -> str:
    """What was compressed, in numbers."""
    found = next((row.dense for row in rows if row.dense), {})
    nouns = {
        "params": " parameters",
        "macs": " MACs",
        "macs_without_attention": " MACs without attention",
        "units": " splats",
    }
    return ", ".join(f"{MEASURES[key].words(value)}{nouns.get(key, '')}" for key, value in found.items())


def _notes(rows: Sequence[Row]) -> list[str]:
    """What a reader must know about the figures."""
    notes = [f"{text}." for name, text in _told(rows[0]).items() if name in _IN_NOTES]
    machines = {row.about["hardware"] for row in rows if "hardware" in row.about}
    if len(machines) > 1:
        notes.append(f"Latency and memory were measured on {len(machines)} kinds of hardware and do not compare.")
    latency = next((row.about["latency_of"] for row in rows if "latency_of" in row.about), "")
    notes += [f"Latency is of {latency}."] if latency else []
    notes += list(dict.fromkeys(f"{row.about['lpips_note'].rstrip('.')}." for row in rows if "lpips_note" in row.about))
    if any(row.state == "quoted" for row in rows):
        notes.append("Quoted rows are figures of others, by their own protocol: read them as context, not as ranks.")
    return notes
