"""What is measured, in one table for all domains: where a number lies in metrics.json, and how it reads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from gencompress.report import figures

Words = Callable[[float | None], str]


@dataclass(frozen=True)
class Measure:
    """One kind of number.

    Args:
        key: its name in every export.
        head: heading of its column.
        unit: below the heading.
        role: what it is in a rate-quality plot; a cost is in the table alone.
        keys: where it lies in metrics.json, for the pruned side.
        words: how it reads.
        higher: True if more is better.
        each: what it has one value of.
    """

    key: str
    head: str
    unit: str
    role: Literal["rate", "quality", "cost"]
    keys: tuple[str, ...]
    words: Words
    higher: bool = False
    each: str = "picture"


def _fixed(places: int) -> Words:
    return lambda value: figures.fixed(value, places)


def _digits(value: float | None) -> str:
    return figures.NONE if value is None else figures.digits(value)


_PLAIN_MACS = ("pruned", "macs_without_attention")
_POINT, _BOX, _EVERYTHING = (("quality", f"miou_{prompt}", "mean") for prompt in ("point", "box", "everything"))
_AGREEMENT = ("quality", "agreement", "mean")
_CLOSE = ("quality_close", "psnr_db", "mean")
_ALL = (
    Measure("units", "Splats", "", "rate", ("pruned", "units"), figures.count),
    Measure("params", "Parameters", "", "rate", ("pruned", "params"), figures.count),
    Measure("macs", "MACs", "per forward", "rate", ("pruned", "macs"), figures.operations),
    Measure("macs_without_attention", "MACs", "without attention", "rate", _PLAIN_MACS, figures.operations),
    Measure("bytes", "Size", "", "rate", ("pruned", "bytes"), figures.size),
    Measure("psnr_db", "PSNR", "dB", "quality", ("quality", "psnr_db", "mean"), _fixed(2), higher=True),
    Measure("ssim", "SSIM", "", "quality", ("quality", "ssim", "mean"), _fixed(4), higher=True),
    Measure("lpips", "LPIPS", "", "quality", ("quality", "lpips", "mean"), _fixed(4)),
    Measure("psnr_close_db", "PSNR", "close-ups, dB", "quality", _CLOSE, _fixed(2), higher=True),
    Measure("miou_point", "Point mIoU", "", "quality", _POINT, _fixed(4), higher=True, each="object"),
    Measure("miou_box", "Box mIoU", "", "quality", _BOX, _fixed(4), higher=True, each="object"),
    Measure("miou_everything", "Everything mIoU", "", "quality", _EVERYTHING, _fixed(4), higher=True, each="object"),
    Measure("agreement", "Agreement", "mIoU to dense", "quality", _AGREEMENT, _fixed(4), higher=True),
    Measure("embedding_error", "Embedding error", "", "quality", ("quality", "embedding_error", "mean"), _fixed(4)),
    Measure("frechet", "Fréchet distance", "", "quality", ("quality", "frechet", "value"), _digits),
    Measure("kernel", "Kernel distance", "", "quality", ("quality", "kernel", "value"), _digits),
    Measure("latency_s", "Latency", "median", "cost", ("pruned", "latency_s", "median"), figures.seconds),
    Measure("seconds", "Time", "to compress", "cost", ("seconds",), figures.seconds),
    Measure("peak_memory_bytes", "Memory", "peak", "cost", ("pruned", "peak_memory_bytes"), figures.size),
    Measure("energy_j", "Energy", "per run, view or picture", "cost", ("pruned", "energy_j"), figures.energy),
)
MEASURES = {measure.key: measure for measure in _ALL}


@dataclass(frozen=True)
class Field:
    """One condition of the measurement.

    Args:
        name: in the exports, and in messages about rows that do not compare.
        words: how it reads above a table.
        keys: where metrics.json has it.
        option: where config.yaml has it, for runs whose metrics.json does not tell.
    """

    name: str
    words: str
    keys: tuple[str, ...] = ()
    option: str = ""


@dataclass(frozen=True)
class Domain:
    """What a table of a domain shows.

    Args:
        title: name for people.
        reference: what quality is measured against.
        hidden: measures that say nothing here.
        task_option: the option that names what is compressed.
        protocol: the conditions under which rows may be compared; rows that differ in one are in different tables.
        latency_of: what the latency is of, where metrics.json does not say.
    """

    title: str
    reference: str
    task_option: str
    protocol: tuple[Field, ...] = ()
    hidden: tuple[str, ...] = ()
    latency_of: str = ""


_CLOSENESS = (
    Field("pictures", "{} pictures", ("quality", "protocol", "input")),
    Field("ssim", "SSIM: {}", ("quality", "protocol", "ssim")),
    Field("extractor", "features: {}", ("quality", "frechet", "extractor")),
)
DOMAINS = {
    "diffusion": Domain(
        "Diffusion models",
        "the dense pipeline at equal seeds",
        "model.path",
        (
            Field("scheduler", "{}", ("scheduler",), "denoise.scheduler"),
            Field("steps", "{} steps", ("steps",), "denoise.steps"),
            Field("guidance_scale", "guidance {}", ("guidance_scale",), "denoise.guidance_scale"),
            Field("seeds", "{} seeds", ("seeds",), "metrics.images"),
            Field("first_seed", "first seed {}", (), "denoise.seeds"),
            Field("prompts", "prompts of {}", (), "denoise.prompts"),
            Field("dtype", "{}", (), "model.dtype"),
            *_CLOSENESS,
        ),
    ),
    "sam": Domain(
        "Segment Anything",
        "true masks, and masks and embeddings of the dense model",
        "model.path",
        (
            Field("labelled", "{} labelled pictures", ("pictures", "labelled")),
            Field("labelled_set", "from {}", ("pictures", "labelled_set")),
            Field("labelled_fingerprint", "masks {:.12}", ("pictures", "labelled_fingerprint")),
            Field("objects", "{} objects", ("pictures", "objects")),
            Field("everything", "Everything: {}", ("pictures", "everything")),
            Field("unlabelled", "{} unlabelled pictures", ("pictures", "unlabelled")),
            Field("unlabelled_set", "from {}", ("pictures", "unlabelled_set")),
            Field("unlabelled_fingerprint", "pictures {:.12}", ("pictures", "unlabelled_fingerprint")),
        ),
        latency_of="one forward of the image encoder",
    ),
    "splats": Domain(
        "Gaussian splats",
        "renders of the input scene, on views that chose nothing",
        "scene",
        (
            Field("test_views", "{} test views", ("views", "test")),
            Field("close_ups", "{} close-ups", ("views", "close")),
            Field("width", "{} pixels wide", ("views", "width")),
            Field("height", "{} high", ("views", "height")),
            Field("cameras", "cameras: {}", ("views", "source"), "rig.cameras"),
            *_CLOSENESS,
        ),
        hidden=("params",),
        latency_of="one view rendered",
    ),
}


def domain(name: str) -> Domain:
    """What a table of this domain shows; of one that is not known, everything that was measured."""
    return DOMAINS.get(name) or Domain(name, "the input", "model.path", _CLOSENESS)
