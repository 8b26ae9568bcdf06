"""`model_card`: the README.md of an exported folder, with the front matter that the Hugging Face hub reads."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from gencompress import __version__
from gencompress.report import card_sam, charts, figures
from gencompress.report.card_parts import Benchmark, Cost, costs
from gencompress.report.data import RunData, dig, numbers
from gencompress.report.escape import markdown, printable, yaml_string
from gencompress.report.html import template_text
from gencompress.report.tables import budget_reached, protocol

_COSTS: tuple[Cost, ...] = (
    ("Parameters", figures.count, ("params",)),
    ("MACs per step", figures.operations, ("macs",)),
    ("Size of the weights", figures.size, ("bytes",)),
    ("Latency, median", figures.seconds, ("latency_s", "median")),
    ("Peak memory above the weights", figures.size, ("peak_memory_bytes",)),
    ("Energy per run", figures.energy, ("energy_j",)),
)
Task = Literal["text-to-image", "unconditional-image-generation", "mask-generation"]


def origin(model: str, plan_budget: Mapping[str, Any]) -> dict[str, Any]:
    """`name`, `base_model` and `license_id` for the card of what was made from `model`, a path, hub id or sample."""
    sample = model.startswith("sample:")
    public = "/" in model and not sample and not Path(model).exists()
    part = plan_budget["reached"] / plan_budget["dense"]
    return {
        "name": f"{Path(model.removeprefix('sample:')).name} pruned to {part:.0%}",
        "base_model": model if public else None,
        "license_id": "apache-2.0" if sample else None,
    }


def model_card(
    metrics: Mapping[str, Any],
    *,
    name: str,
    pipeline: str,
    task: Task,
    base_model: str | None = None,
    license_id: str | None = None,
    portable: bool = False,
) -> str:
    """The text of README.md: what it is, what was removed by what, what it cost, how to load it, and its limits.

    Args:
        metrics: the content of metrics.json; whatever it lacks, the card does not claim.
        name: title of the exported model.
        pipeline: class of the pipeline or model, for example "StableDiffusionPipeline" or "SamModel".
        task: the hub's pipeline tag.
        base_model: hub id or name of the dense model, if it has one that others can find.
        license_id: licence of the dense model as its own card gives it; the card carries no licence without it.
        portable: True if the folder opens without gencompress: it brings the code of its pruned component, or is of a
            stock architecture.

    Returns:
        Markdown. Names, prompts and commands are escaped: they can be neither markup nor front matter.
    """
    run = RunData(Path(), "pruned", metrics, {})
    own = card_sam.context(run) if task == "mask-generation" else _pictures(run)
    return (
        _environment()
        .get_template("card_sam.jinja" if task == "mask-generation" else "card.jinja")
        .render(
            own,
            front=Markup(_front_matter(run, name, task, base_model, license_id, own["benchmark"])),
            name=name,
            base_model=base_model,
            pipeline=pipeline,
            task=task,
            portable=portable,
            licensed=license_id is not None,
            method=run.method,
            budget=budget_reached(run),
            kinds=_kinds(run),
            units=_listed([name for name, *_ in _kinds(run)]),
            protocol=[line for line in own["protocol"] if line[0] != "Budget"],
            command=_fenced(run.text("command")),
            version=__version__,
        )
    )


def _pictures(run: RunData) -> dict[str, Any]:
    """What the card of a diffusion pipeline shows of its own."""
    measured = [
        (kind, f"{label} to the dense pipeline{unit}", value)
        for kind, label, unit, key in (("psnr", "PSNR", ", dB", "psnr_db"), ("ssim", "SSIM", "", "ssim"))
        if (value := run.number("quality", key, "mean")) is not None
    ]
    return {
        "benchmark": Benchmark("diffusers", "generated", "pictures of the dense pipeline at equal seeds", measured),
        "costs": costs(run, _COSTS),
        "quality": _quality(run),
        "protocol": protocol([run]),
        "worst": _worst(run),
    }


def _front_matter(
    run: RunData, name: str, task: Task, base_model: str | None, license_id: str | None, benchmark: Benchmark
) -> str:
    """YAML between the two rules. Every string is a JSON string, which YAML reads as what it is."""
    lines = [f"library_name: {benchmark.library}", f"pipeline_tag: {task}"]
    lines += [f"license: {yaml_string(license_id)}"] if license_id else []
    lines += [f"base_model: {yaml_string(base_model)}"] if base_model else []
    lines += ["tags:", "- pruned", "- gencompress"]
    method = run.text("method")
    lines += [f"- {yaml_string(method)}"] if method else []
    if benchmark.measured:
        lines += ["model-index:", f"- name: {yaml_string(name)}", "  results:", "  - task:", f"      type: {task}"]
        lines += ["    dataset:", f"      type: {benchmark.kind}", f"      name: {yaml_string(benchmark.data)}"]
        lines += ["    metrics:"]
        for kind, label, value in benchmark.measured:
            lines += [f"    - type: {kind}", f"      name: {yaml_string(label)}", f"      value: {value:.4f}"]
    return "\n".join(lines)


def _kinds(run: RunData) -> list[tuple[str, int, int, str]]:
    """Kept and all units by kind, and the part kept."""
    groups = charts.depth_order(charts.group_list(run))
    rows = []
    for kind in dict.fromkeys(g["kind"] for g in groups):
        kept, size = (sum(g[key] for g in groups if g["kind"] == kind) for key in ("kept", "size"))
        rows.append((charts.KINDS.get(kind, kind), kept, size, figures.share(kept / size)))
    return rows


def _listed(names: list[str]) -> str:
    """Names as a phrase: "a, b and c"."""
    return " and ".join(part for part in (", ".join(names[:-1]), *names[-1:]) if part) or "units"


def _quality(run: RunData) -> list[tuple[str, str, str]]:
    """Name, value with standard error, and what was measured against what."""
    rows = []
    for name, key, places, unit in (("PSNR", "psnr_db", 2, "dB"), ("SSIM", "ssim", 4, ""), ("LPIPS", "lpips", 4, "")):
        mean, se = run.number("quality", key, "mean"), run.number("quality", key, "se")
        if mean is not None:
            spread = f" ± {figures.fixed(se, places)}" if se is not None else ""
            rows.append((name, figures.fixed(mean, places, unit) + spread, "to the dense pipeline at equal seeds"))
    for key, default in (("frechet", "Fréchet distance"), ("kernel", "kernel distance")):
        value, n = run.number("quality", key, "value"), run.number("quality", key, "n")
        if value is not None:
            seen = f"{run.text('quality', key, 'extractor')}, {n:.0f} images" if n is not None else ""
            rows.append((run.text("quality", key, "name") or default, figures.digits(value), seen))
    return rows


def _worst(run: RunData) -> str | None:
    """The PSNR of the picture that changed most, where values per picture are recorded."""
    recorded = numbers(dig(run.metrics, "quality", "psnr_db", "per_image"))
    values = [value for value in recorded if value is not None]
    return figures.fixed(min(values), 1, "dB") if values else None


def _fenced(text: str | None) -> Markup | None:
    """A code block that its content cannot end."""
    if text is None:
        return None
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return Markup(f"{fence}sh\n{printable(text).strip()}\n{fence}")


def _environment() -> Environment:
    return Environment(
        loader=FunctionLoader(template_text), undefined=StrictUndefined, finalize=markdown,
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip
