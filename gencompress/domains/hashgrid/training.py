"""Training of a field on photographs, and its hollowing out at the same time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gencompress.core.subject import Progress
from gencompress.criteria.sparsity import SparsityConstraint
from gencompress.domains.hashgrid.field import INIT_SCALE, FieldSettings, HashField
from gencompress.domains.hashgrid.render import Scene, render_rays
from gencompress.domains.hashgrid.views import Views
from gencompress.errors import ConfigError, NumericsError, RunError
from gencompress.kernels.occupancy import OccGridEstimator

CHECK_EVERY = 100  # steps between states that a broken step falls back to
MOST_ROLLBACKS = 3
_BETAS, _EPS = (0.9, 0.99), 1e-15  # of Instant-NGP: entries with small gradients move as fast as the others
_LOGIT_RATE = 3.0  # of the saliency, beside the other weights: it has far to go
_LAST_RATE = 0.1  # of the first, reached exponentially
# Slope of the gate, from first to last step geometrically. HollowNeRF begins at 1 / INIT_SCALE and ends at ten times
# that. In a short training a gate so steep shakes the table: features near zero have gradients of the slope's size, and
# Adam's steps are a hundred times wider than its foot.
_SLOPES = (30.0, 10 / INIT_SCALE)
_DECAY = 0.9  # of the occupancy: trainings on a CPU are too short for the usual 0.95
_FEWEST_RAYS = 16


@dataclass(frozen=True)
class TrainSettings:
    """How a field is trained.

    Args:
        steps: optimizer steps.
        rays: per step at the start; their number then follows `batch`.
        batch: samples per step to aim at.
        samples: steps along the diagonal of the box.
        occupancy: cells per axis of the occupancy grid.
        lr: step size of Adam at the start.
        keep: mean saliency to reach (HollowNeRF: 0.04); only where the field has saliency.
        seed: of the weights, the rays and their jitter.
    """

    steps: int = 5000
    rays: int = 1024
    batch: int = 1 << 15
    samples: int = 512
    occupancy: int = 64
    lr: float = 1e-2
    keep: float = 0.04
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "rays", "batch"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}={getattr(self, name)} must be at least 1")
        if not 0 < self.lr < float("inf"):
            raise ConfigError(f"lr={self.lr} must be greater than 0")


def train(views: Views, field: FieldSettings, settings: TrainSettings, ctx: Progress) -> tuple[Scene, list[float]]:
    """A field whose renders resemble the photographs.

    Args:
        views: what to resemble.
        field: size of the field.
        settings: steps, rays and step sizes.
        ctx: progress (``loss``, ``psnr``, and where the field has saliency its mean and the multiplier), checkpoints,
            stopping.

    Returns:
        The scene, and the mean squared error of every step.

    Raises:
        NumericsError: the loss stays NaN or infinite, even after returning to an earlier state.
        RunError: the checkpoint is of another field.
        Interrupted: a stop was asked for; the step in progress was finished and checkpointed.
    """
    trainer = _Trainer(views, field, settings)
    saved = ctx.load_checkpoint()
    if saved is not None:
        trainer.load_(saved.tensors, saved.meta)
    good, rollbacks = trainer.state(), 0
    while trainer.done < settings.steps:
        try:
            figures = trainer.step_()
        except NumericsError:
            if rollbacks == MOST_ROLLBACKS:
                raise
            rollbacks += 1
            trainer.load_(*good)
            trainer.salt += 1  # other rays than those that led here
            good = trainer.state()
            continue
        ctx.progress(trainer.done, settings.steps, **figures)
        if trainer.done % CHECK_EVERY == 0 or trainer.done == settings.steps or ctx.stop_requested:
            good = trainer.state()
            ctx.save_checkpoint(trainer.done, *good)
        ctx.stop_if_requested()
    return trainer.scene, trainer.losses


class _Trainer:
    """The scene with its optimizer and multiplier: the state of the loop."""

    def __init__(self, views: Views, field: FieldSettings, settings: TrainSettings) -> None:
        self.views, self.settings = views, settings
        self.field = HashField(field, settings.seed)
        grid = OccGridEstimator(self.field.aabb, settings.occupancy)
        self.scene = Scene(self.field, grid, settings.samples, views.background)
        self.constraint = SparsityConstraint(settings.keep, settings.steps)
        named = self.field.named_parameters()
        groups = [{"params": [p], "scale": _LOGIT_RATE if name == "logits" else 1.0} for name, p in named]
        self.adam = torch.optim.Adam(groups, settings.lr, _BETAS, _EPS)
        self.rays, self.salt = settings.rays, 0
        self.losses: list[float] = []

    @property
    def done(self) -> int:
        """Steps taken."""
        return len(self.losses)

    def step_(self) -> dict[str, float]:
        """One step. NumericsError if the loss, a density or a weight after it is NaN or infinite."""
        part = self.done / self.settings.steps
        self.field.alpha.fill_(_SLOPES[0] * (_SLOPES[1] / _SLOPES[0]) ** part)
        self.scene.grid.update_every_n_steps(
            self.done, lambda x: self.field.density(x)[0] * self.scene.step, ema_decay=_DECAY
        )
        seeds = np.random.SeedSequence((self.settings.seed, self.salt, self.done))
        dice = torch.Generator().manual_seed(int(seeds.generate_state(1)[0]))
        rays_o, rays_d, colors = self.views.draw(self.rays, dice)
        found = render_rays(self.scene, rays_o, rays_d, torch.rand(len(rays_o), generator=dice))
        error = (found.color - colors).square().mean()
        saliency = self.field.saliency()
        loss = error if saliency is None else error + self.constraint.penalty(saliency)
        self._descend_(loss, self.settings.lr * _LAST_RATE**part)
        self.losses.append(float(error.detach()))
        self.rays = self._next_rays(found.samples)
        return self._figures()

    def _descend_(self, loss: Tensor, rate: float) -> None:
        self.adam.zero_grad()
        loss.backward()
        for group in self.adam.param_groups:
            group["lr"] = rate * group["scale"]
        self.adam.step()
        sums = torch.stack([loss.detach(), *(p.detach().sum() for p in self.field.parameters())])
        if not bool(torch.isfinite(sums).all()):
            raise NumericsError(f"step {self.done}: the loss or a weight is NaN or infinite")

    def _next_rays(self, samples: int) -> int:
        """As many rays as have `batch` samples, at most twice as many as before."""
        wanted = self.rays * self.settings.batch // max(samples, 1)
        return min(max(wanted, _FEWEST_RAYS), 2 * self.rays, 1 << 20)

    @torch.no_grad()
    def _figures(self) -> dict[str, float]:
        error = self.losses[-1]
        figures = {"loss": error, "psnr": -10 * torch.tensor(max(error, 1e-12)).log10().item()}
        saliency = self.field.saliency()
        if saliency is None:
            return figures
        share = float(saliency.mean())
        self.constraint.ascend_(share)
        return {**figures, "saliency": share, "multiplier": self.constraint.multiplier}

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """All that a resumed training needs."""
        tensors = {f"field.{name}": t.detach().clone() for name, t in self.field.state_dict().items()}
        tensors |= {f"grid.{name}": t.clone() for name, t in self.scene.grid.state_dict().items()}
        for name, parameter in self.field.named_parameters():
            tensors |= {f"adam.{name}.{key}": t.clone() for key, t in self.adam.state.get(parameter, {}).items()}
        tensors["losses"] = torch.tensor(self.losses, dtype=torch.float64)
        return tensors, {"rays": self.rays, "salt": self.salt, "multiplier": self.constraint.multiplier}

    def load_(self, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
        """Go on from a `state`. RunError if it is of another field."""

        def under(prefix: str) -> dict[str, Tensor]:
            return {name[len(prefix) :]: t for name, t in tensors.items() if name.startswith(prefix)}

        try:
            self.field.load_state_dict(under("field."))
            self.scene.grid.load_state_dict(under("grid."))
        except RuntimeError as error:
            raise RunError(f"the checkpoint is of another field: {str(error).splitlines()[-1].strip()}") from error
        for name, parameter in self.field.named_parameters():
            moments = under(f"adam.{name}.")
            self.adam.state[parameter] = {key: t.clone() for key, t in moments.items()}
        self.losses = tensors["losses"].tolist()
        self.rays, self.salt = int(meta["rays"]), int(meta["salt"])
        self.constraint.multiplier = float(meta["multiplier"])
