"""The tables of the report: which numbers stand where, already in words. A column that nobody measured is left out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from gencompress.report import figures
from gencompress.report.charts import KINDS, depth_order, group_list
from gencompress.report.data import RunData, budget_words, dig, file_limit, keep_asked


@dataclass(frozen=True)
class Cell:
    """A number, what stands small below it, and the part of the dense value that it is (shown as a bar)."""

    value: str
    detail: str = ""
    part: float | None = None


@dataclass(frozen=True)
class Line:
    """A row of a table."""

    name: str
    detail: str
    cells: tuple[Cell, ...]
    dense: bool = False


@dataclass(frozen=True)
class Table:
    """Column heads with their small print, and rows."""

    heads: tuple[tuple[str, str], ...]
    lines: tuple[Line, ...]


@dataclass(frozen=True)
class Column:
    """A cost column: heading, where its number lies, how it reads, and what else stands below it."""

    head: str
    small: str
    keys: tuple[str, ...]
    words: Callable[[float | None], str]


_COSTS = (
    Column("Parameters", "", ("params",), figures.count),
    Column("MACs", "per step", ("macs",), figures.operations),
    Column("Size", "of the weights", ("bytes",), figures.size),
    Column("Latency", "median", ("latency_s", "median"), figures.seconds),
    Column("Energy", "per run", ("energy_j",), figures.energy),
)


def headline(runs: Sequence[RunData]) -> Table:
    """Dense and pruned side by side: what it costs and how close it stays."""
    columns = [c for c in _COSTS if any(run.number("pruned", *c.keys) is not None for run in runs)]
    quality = [
        (name, key, places, unit)
        for name, key, places, unit in (("PSNR", "psnr_db", 1, "dB"), ("SSIM", "ssim", 3, ""))
        if any(run.number("quality", key, "mean") is not None for run in runs)
    ]
    heads = [(c.head, c.small) for c in columns] + [(name, "to dense") for name, *_ in quality]
    first = runs[0]
    dense = [Cell(c.words(first.number("dense", *c.keys))) for c in columns] + [Cell("", "reference")] * len(quality)
    lines = [Line("dense", "", tuple(dense), dense=True)]
    for run in runs:
        cells = [cost_cell(run, column) for column in columns]
        cells += [quality_cell(run, key, places, unit) for _, key, places, unit in quality]
        lines.append(Line(run.label, run.method, tuple(cells)))
    return Table(tuple(heads), tuple(lines))


def cost_cell(run: RunData, column: Column) -> Cell:
    """What a pruned model costs, and how that changed."""
    dense, pruned = run.number("dense", *column.keys), run.number("pruned", *column.keys)
    if not dense or pruned is None:
        return Cell(column.words(pruned))
    detail = figures.change(pruned, dense)
    if column.keys[0] == "latency_s" and 0 < pruned < dense:
        detail = f"{dense / pruned:.2f}× as fast"
    return Cell(column.words(pruned), detail, pruned / dense)


def quality_cell(run: RunData, key: str, places: int, unit: str, where: str = "quality") -> Cell:
    """A mean with its standard error."""
    mean, se = run.number(where, key, "mean"), run.number(where, key, "se")
    if mean is None:
        return Cell(figures.NONE, "not measured")
    return Cell(figures.fixed(mean, places, unit), f"± {figures.fixed(se, places)}" if se is not None else "")


def cost(runs: Sequence[RunData]) -> Table:
    """Latency with its spread, memory, and how much of the saved MACs became saved time."""
    first = runs[0]
    lines = [Line("dense", "", _cost_cells(first, "dense"), dense=True)]
    lines += [Line(run.label, "", _cost_cells(run, "pruned")) for run in runs]
    heads = (
        ("Latency", "median"), ("10 % to 90 %", "of the runs"), ("Runs", "timed"), ("Peak memory", "above the weights"),
        ("Speed-up", "dense / pruned"), ("Realised", "speed-up / MACs ratio"),
    )  # fmt: skip
    return Table(heads, tuple(lines))


def _cost_cells(run: RunData, side: str) -> tuple[Cell, ...]:
    p10, p90 = run.number(side, "latency_s", "p10"), run.number(side, "latency_s", "p90")
    spread = (
        f"{figures.seconds(p10)} to {figures.seconds(p90)}" if p10 is not None and p90 is not None else figures.NONE
    )
    runs = run.number(side, "latency_s", "runs")
    speed, macs = (run.ratio("latency_s", "median"), run.ratio("macs")) if side == "pruned" else (None, None)
    return (
        Cell(figures.seconds(run.number(side, "latency_s", "median"))),
        Cell(spread),
        Cell(f"{runs:.0f}" if runs is not None else figures.NONE),
        Cell(figures.size(run.number(side, "peak_memory_bytes"))),
        Cell(f"{speed:.2f}×" if speed else "" if side == "dense" else figures.NONE),
        Cell(f"{speed / macs:.2f}" if speed and macs else "" if side == "dense" else figures.NONE),
    )


def quality(runs: Sequence[RunData]) -> Table:
    """Closeness to the dense pipeline, with standard errors and the extractor by name."""
    named = [("PSNR", "psnr_db", 2, "dB"), ("SSIM", "ssim", 4, ""), ("LPIPS", "lpips", 4, "")]
    pairs = [item for item in named if any(run.number("quality", item[1], "mean") is not None for run in runs)]
    sets = [
        key for key in ("frechet", "kernel") if any(run.number("quality", key, "value") is not None for run in runs)
    ]
    words = {"PSNR": "higher is closer", "SSIM": "at most 1", "LPIPS": "lower is closer"}
    heads = [(name, words[name]) for name, *_ in pairs]
    heads += [(_distance_name(runs, key), "lower is closer") for key in sets]
    lines = []
    for run in runs:
        cells = [quality_cell(run, key, places, unit) for _, key, places, unit in pairs]
        cells += [_distance_cell(run, key) for key in sets]
        lines.append(Line(run.label, "", tuple(cells)))
    return Table(tuple(heads), tuple(lines))


def _distance_name(runs: Sequence[RunData], key: str) -> str:
    """FID and KID only where the file says so by name."""
    default = "Fréchet distance" if key == "frechet" else "Kernel distance"
    name = next((found for run in runs if (found := run.text("quality", key, "name"))), default)
    return name[0].upper() + name[1:]


def _distance_cell(run: RunData, key: str) -> Cell:
    value, se = run.number("quality", key, "value"), run.number("quality", key, "se")
    n = run.number("quality", key, "n")
    small = " ".join(
        part for part in (f"± {figures.digits(se)}" if se else "", f"{n:.0f} images" if n is not None else "") if part
    )
    return Cell(figures.NONE if value is None else figures.digits(value), small)


def quality_notes(runs: Sequence[RunData]) -> list[str]:
    """What a reader must know about the quality numbers, each sentence once."""
    notes = []
    for run in runs:
        for key in ("frechet", "kernel"):
            extractor = run.text("quality", key, "extractor")
            if extractor and "inception" not in extractor:
                notes.append(f"The Fréchet and kernel distances use {extractor}; they are not FID or KID.")
            elif extractor:
                notes.append(f"The Fréchet and kernel distances use {extractor}.")
            if note := run.text("quality", key, "note"):
                notes.append(f"{_distance_name([run], key)} on {note}.")
        if run.number("quality", "lpips", "mean") is None:
            notes.append((run.text("quality", "lpips_note") or "LPIPS was not measured").rstrip(".") + ".")
    return list(dict.fromkeys(notes))


def group_table(runs: Sequence[RunData]) -> Table:
    """Every group with its width in every run, in depth order."""
    listed = [{g["name"]: g for g in group_list(run)} for run in runs]
    known = {name: g for groups in reversed(listed) for name, g in groups.items()}
    lines = []
    for g in depth_order(list(known.values())):
        kept = [groups.get(str(g["name"])) for groups in listed]
        cells = [Cell(str(g["size"]))]
        cells += [Cell(figures.NONE) if k is None else Cell(str(k["kept"]), part=k["kept"] / k["size"]) for k in kept]
        lines.append(Line(str(g["name"]), KINDS.get(str(g["kind"]), str(g["kind"])), tuple(cells)))
    return Table((("dense", ""), *((run.label, "") for run in runs)), tuple(lines))


def stage_table(runs: Sequence[RunData]) -> Table:
    """Seconds of every stage of the pruning itself; empty where no run has a manifest."""
    names = list(dict.fromkeys(name for run in runs for name in run.stages))
    lines = []
    for run in runs if names else []:
        cells = [Cell(figures.seconds(run.stages.get(name))) for name in names]
        lines.append(Line(run.label, "", (*cells, Cell(figures.seconds(sum(run.stages.values()))))))
    return Table((*((name, "") for name in names), ("all", "")), tuple(lines))


def protocol(runs: Sequence[RunData]) -> list[tuple[str, str]]:
    """How the numbers were made: one line per thing, with one value per run only where runs differ."""
    asked = (
        ("Budget", budget_reached),
        ("Sampling", _sampling),
        ("Seeds", lambda run: _integer(run, "seeds", "pictures, each from its own seed, the same for all pipelines")),
        ("PSNR and SSIM", _closeness),
        ("Hardware", lambda run: run.text("hardware")),
        ("Threads", lambda run: _integer(run, "threads", "")),
        ("Latency of", lambda run: run.text("latency_of")),
        ("Peak memory", lambda run: run.text("pruned", "peak_memory_method")),
        ("Energy", lambda run: run.text("pruned", "energy_method")),
        ("Date", lambda run: run.text("date")),
    )
    lines = []
    for name, words in asked:
        values = [words(run) for run in runs]
        if len(set(values)) == 1:
            text = values[0]
        else:
            text = "; ".join(f"{run.label}: {value}" for run, value in zip(runs, values, strict=True) if value)
        if text:
            lines.append((name, text))
    return lines


def budget_reached(run: RunData) -> str:
    """The budget as asked and as reached, both as a part of the same whole where a part was asked for."""
    words, reached = budget_words(run.metrics), run.number("budget", "reached")
    if reached is None:
        return words
    if file_limit(run.metrics) is not None:
        amount = figures.size(reached) if run.text("budget", "metric") == "bytes" else figures.fixed(reached, 2, "dB")
        return f"{words}, {amount} reached"
    dense = run.number("budget", "dense")
    base = run.number("budget", "prunable" if run.text("budget", "scope") == "prunable" else "dense")
    if reached > 1 and keep_asked(run.metrics) is not None and dense and base:
        reached = 1 - (dense - reached) / base
    return f"{words}, {f'{reached:.4f}' if reached <= 1 else figures.count(reached)} reached"


def _sampling(run: RunData) -> str | None:
    steps, guidance = run.number("steps"), run.number("guidance_scale")
    parts = [run.text("scheduler") or "", f"{steps:.0f} steps" if steps is not None else ""]
    parts += [f"guidance {guidance:g}"] if guidance is not None else []
    return ", ".join(part for part in parts if part) or None


def _closeness(run: RunData) -> str | None:
    ssim = run.text("quality", "protocol", "ssim")
    kind = run.text("quality", "protocol", "input")
    if ssim is None:
        return None
    return f"to the dense pipeline at equal seeds, mean of per-image values, {kind} images in [0, 1]; SSIM {ssim}"


def _integer(run: RunData, key: str, words: str) -> str | None:
    value = run.number(key)
    return None if value is None else f"{value:.0f} {words}".strip()


def commands(runs: Sequence[RunData]) -> list[tuple[str, str]]:
    """The command of every run that recorded one."""
    return [(run.label, str(dig(run.metrics, "command"))) for run in runs if run.text("command")]
