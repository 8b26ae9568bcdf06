"""Repair of what the removal cost: the splats left are trained on renders of the input, no photographs needed.

One view per step, all parameters at once: colour, opacity, and geometry with steps in units of the splat's own size.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gencompress.config import RefineRecover
from gencompress.core.subject import Progress
from gencompress.domains.splats.adam import Moments, adam_step_
from gencompress.domains.splats.loss import image_loss
from gencompress.errors import NumericsError, RunError
from gencompress.formats.cameras import Cameras
from gencompress.kernels import rasterize
from gencompress.kernels.splats import Splats

# Step sizes at the start, where the renders are off by `RATES_AT` (root mean square): what is wrong by half needs steps
# half as large; beyond `RATES_MOST` they do not grow. Those of the means are in units of the splat's mean standard
# deviation; harmonics above the constant one are seen from few directions each and move more slowly.
RATES = {"means": 0.004, "quats": 0.0013, "log_scales": 0.012, "logits": 0.02, "sh0": 0.008, "sh_rest": 0.0004}
RATES_AT, RATES_MOST = 0.01, 0.015
LAST_RATE = 0.05  # of the first, reached along a cosine
CHECK_EVERY = 50  # steps between states that a broken step falls back to
MOST_ROLLBACKS = 3
_FEW = 8  # views that tell how far the renders are off
_LOGIT_EDGE = 1e-6  # opacities are this far from 0 and 1 before their logit is taken


def refine(
    splats: Splats,
    cameras: Cameras,
    targets: Tensor,
    options: RefineRecover,
    ctx: Progress,
    *,
    seed: int = 0,
) -> tuple[Splats, list[float]]:
    """Train `splats` until their renders are close to `targets`.

    Args:
        splats: where to start; they stay as they are.
        cameras: V views.
        targets: renders of the input in these views [V, H, W, 3].
        options: steps and step sizes.
        ctx: progress (``loss``), checkpoints, stopping.
        seed: of the order of the views.

    Returns:
        The trained splats, those at the start if these are closer, and the loss of every step.

    Raises:
        NumericsError: losses or gradients stay NaN or infinite, even with smaller steps.
        RunError: the checkpoint is of another scene.
        Interrupted: a stop was asked for; the step in progress was finished and checkpointed.
    """
    off = distance(splats, cameras, targets)
    trainer = _Trainer.of(splats, options, options.lr * min(off, RATES_MOST) / RATES_AT)
    saved = ctx.load_checkpoint()
    if saved is not None:
        trainer.load_(saved.tensors, saved.meta)
    good = trainer.state()
    while len(trainer.losses) < options.steps:
        step = len(trainer.losses)
        view = view_at(step, len(cameras), seed)
        try:
            trainer.step_(cameras.take(slice(view, view + 1)), targets[view])
        except NumericsError:
            if trainer.rollbacks == MOST_ROLLBACKS:
                raise
            trainer.load_(*good)
            trainer.rollbacks += 1
            good = trainer.state()
            continue
        done = step + 1
        ctx.progress(done, options.steps, loss=trainer.losses[-1])
        if done % CHECK_EVERY == 0 or done == options.steps or ctx.stop_requested:
            good = trainer.state()
            ctx.save_checkpoint(done, *good)
        ctx.stop_if_requested()
    trained = trainer.splats()
    closer = distance(trained, cameras, targets) < off
    return trained if closer else splats, trainer.losses


@torch.no_grad()
def distance(splats: Splats, cameras: Cameras, targets: Tensor) -> float:
    """Root mean square difference of the renders to `targets`, over a few views."""
    chosen = range(0, len(cameras), -(-len(cameras) // _FEW))
    errors = 0.0
    for v in chosen:
        image = splats.render(cameras.take(slice(v, v + 1))).image[0]
        errors += float((image - targets[v].to(image)).square().mean())
    return math.sqrt(errors / len(chosen))


def view_at(step: int, views: int, seed: int) -> int:
    """The view of a step: all are visited in a new random order, again and again."""
    order = np.random.default_rng((seed, step // views)).permutation(views)
    return int(order[step % views])


@dataclass(eq=False)
class _Trainer:
    """Parameters before activation, each [N, D], with their moments: the state of the loop."""

    options: RefineRecover
    rate: float
    antialiased: bool
    parameters: dict[str, Tensor]
    rows: dict[str, Tensor]
    columns: dict[str, Tensor]
    moments: dict[str, Moments]
    losses: list[float] = field(default_factory=list)
    rollbacks: int = 0

    @classmethod
    def of(cls, splats: Splats, options: RefineRecover, rate: float) -> _Trainer:
        parameters = {
            "means": splats.means.clone(),
            "quats": splats.quats / splats.quats.norm(dim=1, keepdim=True),
            "log_scales": splats.scales.clamp_min(torch.finfo(torch.float32).tiny).log(),
            "logits": splats.opacities.logit(_LOGIT_EDGE)[:, None],
            "colors": splats.colors.flatten(1).clone(),
        }
        one = torch.ones(len(splats), device=splats.means.device)
        rows = dict.fromkeys(parameters, one) | {"means": splats.scales.square().mean(dim=1).sqrt()}
        columns = {name: one.new_full((p.shape[1],), RATES.get(name, 0)) for name, p in parameters.items()}
        columns["colors"][:] = RATES["sh_rest"]
        columns["colors"][:3] = RATES["sh0"]
        moments = {name: Moments.of(p) for name, p in parameters.items()}
        return cls(options, rate, splats.antialiased, parameters, rows, columns, moments)

    def step_(self, camera: Cameras, target: Tensor) -> None:
        """One step on one view; NumericsError leaves the state broken."""
        leaves = {name: p.requires_grad_() for name, p in self.parameters.items()}
        image = self._render(leaves, camera)
        loss = image_loss(image, target.to(image), self.options.ssim)
        value = float(loss.detach())
        if not math.isfinite(value):
            raise NumericsError(f"recover: the loss is {value} in step {len(self.losses) + 1}")
        gradients = torch.autograd.grad(loss, list(leaves.values()))
        rate = self.rate * 0.5**self.rollbacks * falling(len(self.losses), self.options.steps)
        for (name, parameter), gradient in zip(self.parameters.items(), gradients, strict=True):
            parameter.requires_grad_(False)
            adam_step_(parameter, gradient, self.moments[name], self.rows[name], rate * self.columns[name])
        self.losses.append(value)

    def _render(self, leaves: Mapping[str, Tensor], camera: Cameras) -> Tensor:
        """Image [H, W, 3]."""
        colors = leaves["colors"].unflatten(1, (-1, 3))
        device = colors.device
        return rasterize(
            leaves["means"],
            leaves["quats"],
            leaves["log_scales"].exp(),
            leaves["logits"][:, 0].sigmoid(),
            colors,
            torch.from_numpy(camera.viewmats).to(device),
            torch.from_numpy(camera.Ks).to(device),
            camera.width,
            camera.height,
            sh_degree=round(colors.shape[1] ** 0.5) - 1,
            antialiased=self.antialiased,
        ).image[0]

    def splats(self) -> Splats:
        """The activated splats."""
        p = self.parameters
        colors = p["colors"].unflatten(1, (-1, 3))
        scales, opacities = p["log_scales"].exp(), p["logits"][:, 0].sigmoid()
        return Splats(p["means"], p["quats"], scales, opacities, colors, self.antialiased)

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """A copy of what a checkpoint holds."""
        tensors = {name: p.clone() for name, p in self._tensors().items()}
        return tensors, {"losses": list(self.losses), "rollbacks": self.rollbacks}

    def load_(self, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
        """Go on from such a copy."""
        mine = self._tensors()
        other = sorted(name for name in mine if name not in tensors or tensors[name].shape != mine[name].shape)
        if other:
            raise RunError(f"the checkpoint of the refinement is of another scene: {other[:3]}")
        for name, tensor in mine.items():
            tensor.copy_(tensors[name])
        self.losses, self.rollbacks = [float(loss) for loss in meta["losses"]], int(meta["rollbacks"])

    def _tensors(self) -> dict[str, Tensor]:
        moments = {f"{name}.{key}": t for name, m in self.moments.items() for key, t in vars(m).items()}
        return {name: p.detach() for name, p in self.parameters.items()} | moments


def falling(step: int, steps: int) -> float:
    """Factor of the step sizes: from 1 to `LAST_RATE` along a cosine."""
    return LAST_RATE + (1 - LAST_RATE) * 0.5 * (1 + math.cos(math.pi * step / max(1, steps)))
