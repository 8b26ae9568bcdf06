"""Every option, once: its type, default, range and meaning. Hydra composes these from `conf/` and the command line.

`register` puts the dataclasses into Hydra's ConfigStore, where the YAML files of `conf/` refer to them as `schema/...`;
`build` turns composed options into a checked `Config`. Imports nothing heavy.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from gencompress.errors import ConfigError, nearest

if TYPE_CHECKING:
    from omegaconf.errors import OmegaConfBaseException


FORMATS = ("ply", "compressed.ply", "splat", "spz", "sog", "glb", "html")  # of `export.formats`, each a file suffix


def option(
    default: Any,
    meaning: str,
    *,
    above: float | None = None,
    least: float | None = None,
    most: float | None = None,
    choices: tuple[str, ...] = (),
    each: tuple[str, ...] = (),
    free: bool = False,
) -> Any:
    """A dataclass field with its range.

    `each` holds the choices for every item of a list. `free` marks an option that changes no result, so that a resumed
    run may differ.
    """
    about: dict[str, Any] = {"meaning": meaning, "above": above, "least": least, "most": most}
    about |= {"choices": choices, "each": each, "free": free}
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata=about)
    return field(default=default, metadata=about)


@dataclass
class ModelConfig:
    """Which model, and how it is held."""

    path: str = option("", "local folder, hub id, or sample:NAME of the bundled samples")
    dtype: str = option("fp32", "weights of the model; masks are always fp32", choices=("fp32", "bf16", "fp16"))
    device: str = option("auto", "auto takes a GPU if there is one", choices=("auto", "cpu", "cuda"))


@dataclass
class DomainConfig:
    """What is compressed, and which kinds of groups of units may be removed; one subclass per domain."""

    name: str = option("???", "domain")


@dataclass
class DiffusionDomain(DomainConfig):
    """UNets and DiTs of diffusion pipelines."""

    name: str = "diffusion"
    heads: bool = option(True, "attention heads")
    ffn: bool = option(True, "hidden neurons of feed-forward layers")
    resnet: bool = option(True, "interior channels of ResNet blocks, in whole norm groups")
    time: bool = option(True, "hidden and output units of the time-embedding MLP (UNets)")
    adaln: bool = option(False, "outputs of AdaLN modulation layers (FLUX, SD3)")
    depth: bool = option(False, "whole blocks")


@dataclass
class SplatsDomain(DomainConfig):
    """Scenes of Gaussian splats."""

    name: str = "splats"


@dataclass
class SamDomain(DomainConfig):
    """Image encoders of SAM and SAM 2."""

    name: str = "sam"
    width: bool = option(True, "channels of the residual stream")
    attention: str = option(
        "head_dim", "the same dimensions of every head of a layer, or whole heads", choices=("none", "head_dim", "head")
    )
    ffn: bool = option(True, "hidden neurons of the MLPs")
    depth: bool = option(False, "whole layers")


@dataclass
class DataConfig:
    """Pictures of a user's own, without labels to imitate the dense model on, and with masks to judge by."""

    images: str | None = option(None, "folder of pictures, or sample:NAME of the bundled samples")
    validation: str | None = option(
        None, "folder with images/ and masks/, or sample:NAME; null judges by the dense model's own masks"
    )
    cache: str | None = option(
        None, "folder of the teacher's embeddings; null keeps them in the run directory", free=True
    )
    cache_mb: float = option(4000, "largest size of that folder in 10^6 bytes; 0 keeps none", least=0, free=True)


@dataclass
class RecipeConfig:
    """The sequence of stages."""

    name: str = option("ecodiff", "one of gencompress.pipelines.RECIPES of the domain")


@dataclass
class CriterionConfig:
    """How a number per unit is found; one subclass per criterion, which says for which domains it is."""

    domains: ClassVar[tuple[str, ...]] = ("diffusion",)
    name: str = option("???", "criterion")


@dataclass
class RandomCriterion(CriterionConfig):
    """Uniform random numbers: the floor that every criterion must beat."""

    domains: ClassVar[tuple[str, ...]] = ("diffusion", "sam", "splats")
    name: str = "random"
    seed: int = option(0, "of the numbers", least=0)


@dataclass
class MagnitudeCriterion(CriterionConfig):
    """Norm of a unit's weights."""

    domains: ClassVar[tuple[str, ...]] = ("diffusion", "sam")
    name: str = "magnitude"
    normalise: str = option("rms", "how layers are made comparable", choices=("raw", "rms", "mean"))


@dataclass
class TaylorCriterion(CriterionConfig):
    """First-order change of the denoising loss, summed over time steps (Diff-Pruning, arXiv 2305.10924).

    Of SAM's encoders, of the mean square of the embeddings.
    """

    domains: ClassVar[tuple[str, ...]] = ("diffusion", "sam")
    name: str = "taylor"
    samples: int = option(320, "samples that the loss is taken on", least=1)
    per_cost: bool = option(False, "divide the score by what the unit costs")


@dataclass
class FisherCriterion(CriterionConfig):
    """Mean square of the denoising loss's derivative by each gate."""

    name: str = "fisher"
    samples: int = option(320, "noisy samples that the loss is taken on", least=1)
    per_cost: bool = option(False, "divide the score by what the unit costs")


@dataclass
class GaussNewtonCriterion(CriterionConfig):
    """End-to-end Gauss-Newton diagonal: random cotangents of the final latent pulled back through the whole run."""

    name: str = "gauss_newton"
    trajectories: int = option(32, "denoising runs", least=1)
    per_cost: bool = option(True, "divide the score by what the unit costs")
    seed: int = option(0, "of the cotangents", least=0)


@dataclass
class EcoDiffCriterion(CriterionConfig):
    """Hard-concrete masks learned through the whole denoising run (EcoDiff, arXiv 2412.02852)."""

    name: str = "ecodiff"
    updates: int = option(40, "optimiser steps per mask", least=1)
    batch: int = option(4, "trajectories in one gradient", least=1)
    accumulate: int = option(1, "gradients averaged in one optimiser step", least=1)
    pool: int = option(64, "distinct batches of trajectories that the gradients are drawn from", least=1)
    lr: float = option(0.1, "step size of the logits", above=0)
    delta: float = option(1e-6, "bounds the logistic noise on the logits; the paper has 0.1 to 1", above=0, most=1)
    temperature: float = option(0.83, "of the hard-concrete distribution", above=0)
    ramp: float = option(
        0.5, "part of the updates in which the kept cost falls from all to the budget", least=0, most=1
    )
    warm_start: str = option(
        "gauss_newton", "scores that the logits start from", choices=("none", "fisher", "gauss_newton")
    )
    masks: int = option(1, "masks, each with its own seed, whose logits are averaged", least=1)
    seed: int = option(0, "of the first mask", least=0)


@dataclass
class DisturbedTaylorCriterion(CriterionConfig):
    """First-order change of the distance to the dense model's embeddings with noise on them (SlimSAM)."""

    domains: ClassVar[tuple[str, ...]] = ("sam",)
    name: str = "disturbed_taylor"
    samples: int = option(320, "pictures", least=1)
    noise: float = option(0.01, "standard deviation of the noise", above=0)
    normalise: str = option("mean", "how layers are made comparable", choices=("mean", "zscore"))
    seed: int = option(0, "of the noise", least=0)


@dataclass
class OpacityCriterion(CriterionConfig):
    """Opacity of a splat."""

    domains: ClassVar[tuple[str, ...]] = ("splats",)
    name: str = "opacity"


@dataclass
class OpacityVolumeCriterion(CriterionConfig):
    """Opacity times volume."""

    domains: ClassVar[tuple[str, ...]] = ("splats",)
    name: str = "opacity_volume"


@dataclass
class LightGaussianCriterion(CriterionConfig):
    """Pixels hit times opacity times a volume factor (LightGaussian, arXiv 2311.17245)."""

    domains: ClassVar[tuple[str, ...]] = ("splats",)
    name: str = "light_gaussian"


@dataclass
class BlendSumCriterion(CriterionConfig):
    """Sum of the blend weights over all pixels of the rig (Mini-Splatting, arXiv 2403.14166)."""

    domains: ClassVar[tuple[str, ...]] = ("splats",)
    name: str = "blend_sum"


@dataclass
class BlendMaxCriterion(CriterionConfig):
    """Largest blend weight in any pixel of the rig (RadSplat, arXiv 2403.13806)."""

    domains: ClassVar[tuple[str, ...]] = ("splats",)
    name: str = "blend_max"


@dataclass
class SensitivityCriterion(CriterionConfig):
    """Log-determinant of the Gauss-Newton block of mean and scale (PUP 3D-GS, arXiv 2406.10219)."""

    domains: ClassVar[tuple[str, ...]] = ("splats",)
    name: str = "sensitivity"
    probes: int = option(8, "random cotangents per view", least=1)
    seed: int = option(0, "of the cotangents", least=0)


@dataclass
class SpectralCriterion(CriterionConfig):
    """Graph high-pass response of the splats' attributes (SUNDAE, arXiv 2405.00676)."""

    domains: ClassVar[tuple[str, ...]] = ("splats",)
    name: str = "spectral"
    mode: str = option(
        "weighted",
        "paper_strict: positions alone, highest and lowest responses; high_all: drawn by response; weighted: times the "
        "leave-one-out error",
        choices=("paper_strict", "high_all", "weighted"),
    )
    gamma: float = option(0.5, "part of the kept splats that are of high response", least=0, most=1)
    neighbours: int = option(16, "of every splat in the graph", least=2, most=64)
    seed: int = option(0, "of the draw", least=0)


@dataclass
class LeaveOneOutCriterion(CriterionConfig):
    """Exact change of the rendered images when a splat goes, scored again on the survivors."""

    domains: ClassVar[tuple[str, ...]] = ("splats",)
    name: str = "leave_one_out"
    ratio: float = option(0.71, "part of the splats that a round of scoring leaves; 0 scores once", least=0, most=0.99)
    graph: bool = option(True, "what goes makes like neighbours dearer in the same round")
    unseen: str = option("keep", "what becomes of splats that no view of the rig hits", choices=("keep", "prune"))


@dataclass
class BudgetConfig:
    """How much may stay. Give one of `keep`, `target`, `max_mb` and `min_psnr`."""

    metric: str = option("params", "what is counted", choices=("params", "macs", "units"))
    keep: float | None = option(None, "part of the metric that stays, in (0, 1]", above=0, most=1)
    target: int | None = option(None, "absolute value of the metric that stays", above=0)
    max_mb: float | None = option(None, "size of the first file of export.formats in 10^6 bytes", above=0)
    min_psnr: float | None = option(None, "PSNR in dB to the input's own renders, on views apart", above=0, most=100)
    scope: str = option("prunable", "what `keep` is a part of", choices=("prunable", "total"))
    round_to: int | None = option(None, "widths are multiples of this; null: what each group asks for", least=1)
    min_keep: int | None = option(None, "units that every group keeps; null: what each group asks for", least=0)
    uniform: bool = option(False, "the same keep ratio in all groups of a kind")


@dataclass
class DenoiseConfig:
    """The denoising runs that scores, masks and pictures are made with."""

    steps: int = option(10, "denoising steps", least=1)
    scheduler: str | None = option(None, "scheduler class; null takes the pipeline's own")
    guidance_scale: float | None = option(None, "classifier-free guidance; 1 is none, null the pipeline's own", least=1)
    prompts: str | None = option(None, "text file with one prompt a line; null takes those bundled with a sample")
    seeds: int = option(0, "first seed of the initial noise", least=0)
    batch: int = option(4, "images in one forward pass", least=1)


@dataclass
class CompensateConfig:
    """Closed-form refit of the layers that lost inputs, right after the removal."""

    trajectories: int = option(16, "calibration runs of the dense diffusion model; 0 is without", least=0)
    images: int = option(64, "pictures that SAM's encoders are refitted on; 0 is without", least=0)
    damping: float = option(1e-3, "ridge, relative to the mean second moment of the inputs", above=0)


_AXES = ("auto", "x", "-x", "y", "-y", "z", "-z")


@dataclass
class RigConfig:
    """The views that scores, refinement and figures of a scene are made with."""

    kind: str = option("auto", "orbit for objects, room for interiors", choices=("auto", "orbit", "room"))
    cameras: str | None = option(None, "cameras.json, COLMAP folder or transforms.json; null takes those by the scene")
    views: int = option(24, "views to score and merge on", least=1)
    size: int = option(400, "pixels of the longer side of a view", least=16, most=4096)
    fov_deg: float = option(45.0, "field of view of rigs that are made up", least=5, most=150)
    up: str = option("auto", "axis that points up; auto: -y, as trained scenes mostly have it", choices=_AXES)
    seed: int = option(0, "of the jitter of the views", least=0)


@dataclass
class MergeConfig:
    """Pairs of splats replaced by one, where that costs less than deleting; with criterion=leave_one_out."""

    pairs: bool = option(True, "merge at all")
    neighbours: int = option(6, "candidates for the partner of every splat", least=1, most=64)


@dataclass
class RecoverConfig:
    """Training after the removal; one subclass per method, which says for which domains it is."""

    domains: ClassVar[tuple[str, ...]] = ("diffusion", "sam", "splats")
    name: str = option("none", "method", choices=("none", "align", "distil", "refine"))


@dataclass
class AlignRecover(RecoverConfig):
    """The encoder's embeddings, and for a while its inner features, aligned with the dense model's (SlimSAM)."""

    domains: ClassVar[tuple[str, ...]] = ("sam",)
    name: str = "align"
    steps: int = option(1000, "optimiser steps of all rounds together", least=2)
    lr: float = option(1e-3, "step size", above=0)
    batch: int = option(8, "pictures per optimiser step", least=1)
    ema: float = option(0.99, "decay of the moving average of the weights; 0 is without", least=0, most=0.99999)
    weights: str = option(
        "dynamic",
        "part of the inner features in the loss: falling to none (dynamic), the same throughout (fixed), or none",
        choices=("dynamic", "fixed", "none"),
    )


@dataclass
class DistilRecover(RecoverConfig):
    """Distillation of the dense model's output and block features."""

    domains: ClassVar[tuple[str, ...]] = ("diffusion",)
    name: str = "distil"
    steps: int = option(1000, "optimiser steps", least=1)
    lr: float = option(1e-4, "step size", above=0)
    batch: int = option(8, "samples per optimiser step", least=1)
    lora_rank: int = option(0, "rank of LoRA adapters, merged at the end; 0 trains all weights", least=0)
    ema: float = option(0.99, "decay of the moving average of the weights; 0 is without", least=0, most=0.99999)


@dataclass
class RefineRecover(RecoverConfig):
    """Splats trained on renders of the input scene: colour, opacity and geometry, no photographs."""

    domains: ClassVar[tuple[str, ...]] = ("splats",)
    name: str = "refine"
    steps: int = option(600, "optimiser steps, one view each", least=1)
    views: int = option(100, "views to train on, others than the scores'", least=1)
    lr: float = option(1.0, "factor on all step sizes", above=0)
    ssim: float = option(0.0, "part of SSIM in the loss beside the absolute error; triples the time", least=0, most=1)


@dataclass
class MetricsConfig:
    """How before and after are compared."""

    images: int = option(64, "images, on seeds that chose nothing", least=1)
    lpips: str | None = option(None, "folder with LPIPS weights; null leaves LPIPS out")
    extractor: str | None = option(
        None,
        "feature extractor of the Frechet and kernel distance: inception, inception-legacy, random, clip:SOURCE, or a "
        "folder with EfficientNet-lite0; null leaves them out",
    )
    latency_runs: int = option(10, "timed runs after warm-up", least=1)


@dataclass
class ExportConfig:
    """What is written for users."""

    portable: bool = option(False, "self-contained component file, for users without gencompress")
    formats: list[str] = option(  # noqa: RUF009
        ["ply", "sog", "html"], "files of a scene, the first one is measured", each=FORMATS
    )


@dataclass
class RunConfig:
    """The process and its directory."""

    dir: str | None = option(None, "run directory; null is named after the overrides, under runs/", free=True)
    seed: int = option(0, "of everything that no other seed governs", least=0)
    threads: int = option(0, "CPU threads of torch and the kernels; 0 leaves torch its own choice", least=0, free=True)
    quiet: bool = option(False, "say nothing but errors", free=True)
    tracker: str = option(
        "none", "sends figures there too; trackio keeps them on this machine",
        choices=("none", "trackio", "wandb", "tensorboard"), free=True,
    )  # fmt: skip


@dataclass
class Config:
    """All options of a run."""

    scene: str | None = option(None, "file of a scene of Gaussian splats, or sample:NAME of the bundled samples")
    model: ModelConfig = field(default_factory=ModelConfig)
    domain: DomainConfig = field(default_factory=DomainConfig)
    data: DataConfig = field(default_factory=DataConfig)
    recipe: RecipeConfig = field(default_factory=RecipeConfig)
    criterion: CriterionConfig = field(default_factory=CriterionConfig)
    budget: BudgetConfig = field(default_factory=BudgetConfig)
    denoise: DenoiseConfig = field(default_factory=DenoiseConfig)
    compensate: CompensateConfig = field(default_factory=CompensateConfig)
    rig: RigConfig = field(default_factory=RigConfig)
    merge: MergeConfig = field(default_factory=MergeConfig)
    recover: RecoverConfig = field(default_factory=RecoverConfig)
    metrics: MetricsConfig = field(default_factory=MetricsConfig)
    export: ExportConfig = field(default_factory=ExportConfig)
    run: RunConfig = field(default_factory=RunConfig)


DOMAINS: dict[str, type[DomainConfig]] = {
    "diffusion": DiffusionDomain,
    "sam": SamDomain,
    "splats": SplatsDomain,
}
CRITERIA: dict[str, type[CriterionConfig]] = {
    "random": RandomCriterion,
    "magnitude": MagnitudeCriterion,
    "taylor": TaylorCriterion,
    "fisher": FisherCriterion,
    "gauss_newton": GaussNewtonCriterion,
    "ecodiff": EcoDiffCriterion,
    "disturbed_taylor": DisturbedTaylorCriterion,
    "opacity": OpacityCriterion,
    "opacity_volume": OpacityVolumeCriterion,
    "light_gaussian": LightGaussianCriterion,
    "blend_sum": BlendSumCriterion,
    "blend_max": BlendMaxCriterion,
    "sensitivity": SensitivityCriterion,
    "spectral": SpectralCriterion,
    "leave_one_out": LeaveOneOutCriterion,
}
RECOVERIES: dict[str, type[RecoverConfig]] = {
    "none": RecoverConfig,
    "align": AlignRecover,
    "distil": DistilRecover,
    "refine": RefineRecover,
}
# config groups whose classes are chosen by name
TABLES: dict[str, Mapping[str, Any]] = {"domain": DOMAINS, "criterion": CRITERIA, "recover": RECOVERIES}
# domains that read an option or a whole group of them, where that is not all of them
READ_BY: dict[str, tuple[str, ...]] = {
    "scene": ("splats",),
    "model.path": ("diffusion", "sam"),
    "model.dtype": ("diffusion",),
    "data": ("sam",),
    "denoise": ("diffusion",),
    "compensate.trajectories": ("diffusion",),
    "compensate.images": ("sam",),
    "compensate.damping": ("diffusion", "sam"),
    "rig": ("splats",),
    "merge": ("splats",),
    "budget.max_mb": ("splats",),
    "budget.min_psnr": ("splats",),
    "metrics.images": ("diffusion", "sam"),
    "metrics.lpips": ("diffusion", "splats"),
    "metrics.extractor": ("diffusion", "splats"),
    "export.portable": ("diffusion",),
    "export.formats": ("splats",),
}


def register() -> None:
    """Put the dataclasses into Hydra's ConfigStore under the group `schema`."""
    from hydra.core.config_store import ConfigStore

    store = ConfigStore.instance()
    store.store(group="schema", name="config", node=Config)
    for group, table in TABLES.items():
        for name, kind in table.items():
            store.store(group=f"schema/{group}", name=name, node=kind)


def build(options: Mapping[str, Any]) -> Config:
    """The checked Config of complete options, such as `config.yaml` of a run directory holds.

    Raises ConfigError naming the option, what is wrong and what would be right.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    options = {str(key): value for key, value in options.items()}
    refuse_targets(options)
    schema = OmegaConf.structured(Config)
    for group, table in TABLES.items():
        chosen = options.get(group)
        name = str(chosen.get("name")) if isinstance(chosen, Mapping) else "nothing"
        if name not in table:
            raise ConfigError(f"{group}.name={name!r}: {nearest(name, table)}")
        schema[group] = OmegaConf.structured(table[name])
    try:
        config = OmegaConf.to_object(OmegaConf.merge(schema, options))
    except OmegaConfBaseException as error:
        raise ConfigError(about_option(error)) from error
    assert isinstance(config, Config)
    check(config)
    return config


def check(config: Config) -> None:
    """ConfigError for the first option out of its range, or in contradiction with another."""
    for name, about, value in _leaves(config):
        _check_value(name, about, value)
    _check_domain(config)
    {"diffusion": _check_diffusion, "sam": _check_sam, "splats": _check_splats}[config.domain.name](config)


def _check_domain(config: Config) -> None:
    """ConfigError for what belongs to another domain, which would go unused without a word."""
    domain, defaults = config.domain.name, {name: value for name, _, value in _leaves(Config())}
    for group, part in (("criterion", config.criterion), ("recover", config.recover)):
        if domain not in part.domains:
            valid = ", ".join(name for name, kind in TABLES[group].items() if domain in kind.domains)
            raise ConfigError(f"{group}={part.name} is not for domain={domain}: valid are {valid}")
    for name, _, value in _leaves(config):
        readers = READ_BY.get(name) or READ_BY.get(name.partition(".")[0])
        if readers and domain not in readers and value != defaults[name]:
            hint = "; +experiment=splat_prune prunes a scene" if readers == ("splats",) else ""
            raise ConfigError(
                f"{name}={value} is of domain={' or '.join(readers)}, and this run is of domain={domain}{hint}"
            )


def _check_network(config: Config) -> None:
    """What runs that prune a network have in common."""
    if not config.model.path:
        raise ConfigError("option model.path is missing: give model.path=VALUE")
    if config.budget.metric == "units":
        raise ConfigError("budget.metric=units counts splats: a model has params or macs")
    if (config.budget.keep is None) == (config.budget.target is None):
        raise ConfigError("give one of budget.keep=PART and budget.target=AMOUNT, and set the other to null")


def _check_diffusion(config: Config) -> None:
    _check_network(config)
    if not any(getattr(config.domain, f.name) for f in fields(config.domain) if f.name != "name"):
        raise ConfigError("domain: every kind of group is switched off, so nothing can be removed")


def _check_sam(config: Config) -> None:
    _check_network(config)
    assert isinstance(config.domain, SamDomain)
    if not config.data.images:
        raise ConfigError("option data.images is missing: give a folder of pictures, data.images=FOLDER")
    if not sam_kinds(config.domain):
        raise ConfigError("domain: every kind of group is switched off, so nothing can be removed")


def sam_kinds(domain: SamDomain) -> tuple[str, ...]:
    """Kinds of groups of `gencompress.domains.sam.groups.groups_of` that may be removed."""
    asked = {
        "width": domain.width,
        domain.attention: domain.attention != "none",
        "ffn": domain.ffn,
        "depth": domain.depth,
    }
    return tuple(kind for kind, wanted in asked.items() if wanted)


def _check_splats(config: Config) -> None:
    if not config.scene:
        raise ConfigError("option scene is missing: give scene=FILE")
    if config.budget.metric != "units":
        raise ConfigError(f"budget.metric={config.budget.metric} is of models: add budget=units, splats are counted")
    ways = ("keep", "target", "max_mb", "min_psnr")
    given = [name for name in ways if getattr(config.budget, name) is not None]
    if len(given) != 1:
        one = "one of budget.keep=PART, budget.target=COUNT, budget.max_mb=SIZE and budget.min_psnr=DB"
        raise ConfigError(f"give {one}; given are {', '.join(given) or 'none'}")
    formats = config.export.formats
    if not formats or len(set(formats)) < len(formats):
        raise ConfigError(f"export.formats={formats}: name one format or more, each once")
    if formats[0] == "html":
        raise ConfigError("export.formats: the first one is measured, and html is a page: name another one before it")
    if config.merge.neighbours != MergeConfig().neighbours and not merging(config):
        why = "merge.pairs=false" if not config.merge.pairs else f"criterion={config.criterion.name} predicts no errors"
        raise ConfigError(f"merge.neighbours={config.merge.neighbours}: nothing is merged, as {why}")
    if config.budget.uniform or config.budget.scope != "prunable" or config.budget.round_to is not None:
        raise ConfigError("budget.uniform, scope and round_to mean nothing for splats, which are all alike")


def merging(config: Config) -> bool:
    """Whether a run of splats merges pairs: only predicted errors tell where that costs less than deleting."""
    return config.merge.pairs and isinstance(config.criterion, LeaveOneOutCriterion)


def refuse_targets(options: Any, where: str = "") -> None:
    """ConfigError if some key, however deep, is `_target_`: no file or command line names code to import."""
    pairs = options.items() if isinstance(options, Mapping) else enumerate(options)
    for key, value in pairs:
        if key == "_target_":
            raise ConfigError(f"{where or 'config'}: `_target_` is refused, a configuration never names code to import")
        if isinstance(value, Mapping | list | tuple):
            refuse_targets(value, f"{where}.{key}" if where else str(key))


def about_option(error: OmegaConfBaseException) -> str:
    """What OmegaConf found wrong, in one line, with the nearest valid options."""
    from omegaconf.errors import ConfigAttributeError, ConfigKeyError, MissingMandatoryValue

    name, kind = str(error.full_key or ""), error.object_type
    if isinstance(error, MissingMandatoryValue):
        return f"option {name} is missing: give {name}=VALUE"
    if isinstance(error, ConfigKeyError | ConfigAttributeError) and is_dataclass(kind):
        group, _, last = name.rpartition(".")
        where = f"{kind.__name__} has no option {last!r}" if group else f"unknown option {name!r}"
        return f"{name}: {where}: {nearest(last, [f.name for f in fields(kind)])}"
    return f"option {name}: {str(error.msg).splitlines()[0]}"


def option_names() -> list[str]:
    """Every option's full name, those of all criteria and recoveries included."""
    names = {name for name, _, _ in _leaves(Config())}
    for group, table in TABLES.items():
        names |= {f"{group}.{f.name}" for kind in table.values() for f in fields(kind)}
    return sorted(names)


def _leaves(config: Any, prefix: str = "") -> Iterator[tuple[str, Mapping[str, Any], Any]]:
    for f in fields(config):
        value = getattr(config, f.name)
        if is_dataclass(value):
            yield from _leaves(value, f"{prefix}{f.name}.")
        else:
            yield f"{prefix}{f.name}", f.metadata, value


def _check_value(name: str, about: Mapping[str, Any], value: Any) -> None:
    """ConfigError if one value is outside the range that its field states."""
    if value is None or isinstance(value, bool) or not about:
        return
    for item in value if about["each"] else ():
        if item not in about["each"]:
            raise ConfigError(f"{name}: {item!r}: {nearest(str(item), about['each'])}")
    if about["choices"] and value not in about["choices"]:
        raise ConfigError(f"{name}={value!r}: {nearest(value, about['choices'])}")
    if not isinstance(value, int | float):
        return
    above, least, most = about["above"], about["least"], about["most"]
    low = above if above is not None else least
    outside = (above is not None and value <= above) or (least is not None and value < least)
    if outside or (most is not None and value > most) or not math.isfinite(value):
        opening = "(" if above is not None or low is None else "["
        span = f"{opening}{'-inf' if low is None else low}, {'inf)' if most is None else f'{most}]'}"
        raise ConfigError(f"{name}={value} is outside {span}: {about['meaning']}")
