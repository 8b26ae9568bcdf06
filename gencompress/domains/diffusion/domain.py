"""A diffusion pipeline with everything the core asks of it: groups, costs, calibration data, pictures."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gencompress.config import Config
from gencompress.core.cost import CostModel, Metric
from gencompress.core.group import Groups
from gencompress.core.plan import Plan, fingerprint
from gencompress.core.trajectory import final_latents
from gencompress.domains.diffusion.costs import cost_model
from gencompress.domains.diffusion.denoising import Batch, Denoising
from gencompress.domains.diffusion.groups import groups_of
from gencompress.domains.diffusion.load import denoiser_name, load_denoiser, load_pipeline
from gencompress.domains.diffusion.prompts import read_prompts
from gencompress.domains.diffusion.removal import remove
from gencompress.domains.diffusion.subject import DiffusionSubject
from gencompress.errors import DataError

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Diffusion:
    """A pipeline, the run from noise to sample that it is judged by, and the kinds of units that may be removed.

    Build it with `Diffusion.load` or `Diffusion.of`; `with_denoiser` gives the same pipeline around another denoiser.
    """

    pipe: Any
    denoising: Denoising
    prompts: tuple[str, ...] | None
    kinds: tuple[str, ...] | None
    seed: int = 0

    @classmethod
    def load(cls, config: Config) -> Diffusion:
        """Open the pipeline that `config` names. Raises ModelError, DataError, SchedulerError, ConfigError."""
        device = config.model.device
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        pipe = load_pipeline(config.model.path, DTYPES[config.model.dtype], device)
        kinds = tuple(kind for field, kind in _KINDS.items() if getattr(config.domain, field))
        return cls.of(
            pipe,
            steps=config.denoise.steps,
            scheduler=config.denoise.scheduler,
            guidance_scale=config.denoise.guidance_scale,
            prompts=_prompts(config, pipe),
            kinds=kinds,
            seed=config.run.seed,
        )

    @classmethod
    def of(
        cls,
        pipe: Any,
        *,
        steps: int,
        scheduler: str | None = None,
        guidance_scale: float | None = None,
        prompts: Sequence[str] | None = None,
        kinds: Sequence[str] | None = None,
        seed: int = 0,
    ) -> Diffusion:
        """The same for a pipeline in memory; its denoiser is frozen and set to evaluation mode.

        Args:
            pipe: a diffusers pipeline.
            steps: denoising steps.
            scheduler: by name; None is the pipeline's own.
            guidance_scale: None is the pipeline's own default.
            prompts: for calibration and pictures; None for unconditional pipelines.
            kinds: kinds of groups (`groups_of`).
            seed: of the calibration data.
        """
        getattr(pipe, denoiser_name(pipe)).eval().requires_grad_(False)
        denoising = Denoising.of(pipe, steps, scheduler, guidance_scale)
        kinds = None if kinds is None else tuple(kinds)
        return cls(pipe, denoising, None if prompts is None else tuple(prompts), kinds, seed)

    @property
    def denoiser(self) -> nn.Module:
        """The network that is pruned."""
        return self.denoising.module

    @cached_property
    def groups(self) -> Groups:
        """Prunable groups of the denoiser."""
        return groups_of(self.denoiser, self.kinds)

    @cached_property
    def subject(self) -> DiffusionSubject:
        """Calibration data."""
        return DiffusionSubject(self.denoising, self.prompts, self.seed)

    @cached_property
    def source(self) -> dict[str, str | None]:
        """Fingerprint of the denoiser's weights."""
        return fingerprint(self.denoiser.state_dict())

    def cost(self, metric: Metric) -> CostModel:
        """Exact cost of every plan for `groups`."""
        return cost_model(self.denoiser, self.groups, metric)

    def prune(self, plan: Plan) -> Diffusion:
        """The pipeline without the units that `plan` drops; this one stays as it is."""
        return self.with_denoiser(remove(self.denoiser, self.groups, plan))

    def with_denoiser(self, denoiser: nn.Module) -> Diffusion:
        """The same pipeline, sharing all other components, around `denoiser`."""
        pipe = copy.copy(self.pipe)
        pipe.register_modules(**{denoiser_name(self.pipe): denoiser.eval()})
        return replace(self, pipe=pipe, denoising=replace(self.denoising, module=denoiser))

    def load_denoiser(self, folder: Path) -> Diffusion:
        """The same pipeline around the denoiser saved in `folder`."""
        dtype = next(self.denoiser.parameters()).dtype
        loaded = load_denoiser(folder, dtype).to(next(self.denoiser.parameters()).device)
        return self.with_denoiser(loaded.requires_grad_(False))

    def batch(self, seeds: Sequence[int]) -> Batch:
        """Trajectories for pictures: seed n goes with prompt n, cycling through the prompts."""
        return self.denoising.batch(self.prompts_of(seeds), list(seeds))

    def prompts_of(self, seeds: Sequence[int]) -> list[str] | None:
        """The prompt of every seed; None for unconditional pipelines."""
        return None if self.prompts is None else [self.prompts[n % len(self.prompts)] for n in seeds]

    def images(self, seeds: Sequence[int], batch: int) -> Tensor:
        """Images of `seeds`, uint8 [N, 3, H, W], made `batch` at a time; the same for a seed in any batch."""
        parts = []
        for start in range(0, len(seeds), batch):
            trajectories = self.batch(seeds[start : start + batch])
            parts.append(self.denoising.decode(final_latents(self.denoising, trajectories)).cpu())
        return torch.cat(parts)


# option of gencompress.config.DomainConfig -> kind of group
_KINDS: Mapping[str, str] = {
    "heads": "head",
    "ffn": "ffn",
    "resnet": "resnet",
    "time": "time",
    "adaln": "adaln",
    "depth": "depth",
}


def _prompts(config: Config, pipe: Any) -> list[str] | None:
    """Prompts of the option, else those bundled with a sample, else None for pipelines without text."""
    if config.denoise.prompts is not None:
        return read_prompts(config.denoise.prompts)
    if getattr(pipe, "tokenizer", None) is None and getattr(pipe, "tokenizer_2", None) is None:
        return _labels(pipe)
    if config.model.path.startswith("sample:"):
        from gencompress import scenes

        return read_prompts(scenes.path(f"{config.model.path.removeprefix('sample:')}_prompts.txt"))
    raise DataError("denoise.prompts is not set: a text-to-image pipeline needs a file with one prompt a line")


def _labels(pipe: Any) -> list[str] | None:
    """All class numbers for class-conditional pipelines without a prompts file; None for unconditional ones."""
    classes = pipe.components[denoiser_name(pipe)].config.get("num_embeds_ada_norm")
    return [str(n) for n in range(classes)] if classes else None
