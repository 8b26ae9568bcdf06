"""Recovery of a pruned generator: adversarial training beside distillation from the dense one.

The recipe of StyleKD (arXiv 2208.08840), which DCP-GAN uses: the training loss of StyleGAN2, and L1, perceptual and
relation losses to the teacher. The teacher's discriminator is inherited. The mapping is not trained, so that latents
of the teacher stay latents of the student.

Everything random in a step is drawn from a seed of its own, so a run that was killed and resumed ends with the same
bits as an undisturbed one (on CPU). With several processes (torch.distributed, as `accelerate launch` sets it up) each
takes other pictures, and gradients are averaged; all must start from the same weights.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from gencompress.core.features import features
from gencompress.core.subject import Progress
from gencompress.domains.stylegan.discriminator import Discriminator
from gencompress.domains.stylegan.losses import (
    BETAS,
    discriminator_loss,
    generator_loss,
    lazy_adam,
    path_lengths,
    path_penalty,
    r1_penalty,
)
from gencompress.domains.stylegan.model import Generator
from gencompress.domains.stylegan.relation import drawn_offsets, relation_loss, stage_modules, style_directions
from gencompress.errors import ConfigError, NumericsError, RunError

Pictures = Callable[[int, int], Tensor]
Perceptual = Callable[[Tensor, Tensor], Tensor]
_HALF_LIFE = 10_000  # pictures after which the average has forgotten half


@dataclass(frozen=True, kw_only=True)
class GanRecover:
    """Options of `recover_`; the defaults are those of the papers.

    Args:
        steps: of each network.
        batch: pictures per step and process; at most the discriminator's `stddev_group`, mostly 4, or a multiple of it.
        lr: learning rate of both networks.
        l1: weight of the L1 distance to the teacher's picture.
        lpips: weight of the perceptual distance to it.
        relation: weight of the relation loss; 0 is without.
        r1: gamma of R1, taken every `r1_every` steps.
        r1_every: steps.
        path: weight of the path-length penalty, taken every `path_every` steps on half a batch; 0 is without.
        path_every: steps.
        mixing: part of the batches whose latents change at some layer.
        autocast: compute in this type, bfloat16; None computes in the weights' own. Regularisers never do.
        seed: of everything random.
        every: steps between checkpoints.
    """

    steps: int
    batch: int = 16
    lr: float = 2e-3
    l1: float = 3.0
    lpips: float = 3.0
    relation: float = 30.0
    r1: float = 10.0
    r1_every: int = 16
    path: float = 2.0
    path_every: int = 4
    mixing: float = 0.9
    autocast: torch.dtype | None = None
    seed: int = 0
    every: int = 100

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "r1_every", "path_every", "every"):
            if getattr(self, name) < 1:
                raise ConfigError(f"recover.{name}={getattr(self, name)} must be at least 1")
        for name in ("l1", "lpips", "relation", "r1", "path"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ConfigError(f"recover.{name}={getattr(self, name)} must be at least 0")
        if not 0 < self.lr < math.inf or not 0 <= self.mixing <= 1:
            raise ConfigError(f"recover.lr={self.lr} must be above 0, recover.mixing={self.mixing} in [0, 1]")
        if self.autocast not in (None, torch.bfloat16):
            raise ConfigError(f"recover.autocast={self.autocast}: only bfloat16, float16 would need scaled losses")


def recover_(
    student: Generator,
    teacher: Generator,
    discriminator: Discriminator,
    pictures: Pictures,
    ctx: Progress,
    settings: GanRecover,
    perceptual: Perceptual | None = None,
) -> list[float]:
    """Train `student` in place and leave it, frozen, with the moving average of its weights.

    Args:
        student: the pruned generator.
        teacher: the dense one; not changed.
        discriminator: that the teacher was trained with; trained in place.
        pictures: the `index`-th batch of so many real pictures in [-1, 1] [size, 3, resolution, resolution]; the same
            for the same arguments.
        ctx: progress (``generator``, ``discriminator``: losses), checkpoints, stopping.
        settings: options.
        perceptual: distance of pictures and others, per pair or a mean; None is without.

    Returns:
        The generator's loss at every step.

    Raises:
        ConfigError: the student has another style_dim or resolution than the teacher; the batch does not divide.
        NumericsError: a loss is NaN or infinite.
        RunError: the checkpoint is of another model.
        Interrupted: a stop was asked for; the step in progress was finished and checkpointed.
    """
    mine, theirs = student.config, teacher.config
    if (mine.resolution, mine.style_dim) != (theirs.resolution, theirs.style_dim):
        raise ConfigError("student and teacher are of different resolution or style_dim")
    group = discriminator.config.stddev_group
    if settings.batch > group and settings.batch % group:
        raise ConfigError(f"recover.batch={settings.batch} is neither at most {group} nor a multiple of it")
    game = _Game(student, teacher, discriminator, pictures, settings, perceptual)
    saved = ctx.load_checkpoint()
    if saved is not None:
        game.load_(saved.step, saved.tensors, saved.meta)
    while game.done < settings.steps:
        loss, critic = game.step_()
        if not (math.isfinite(loss) and math.isfinite(critic)):
            raise NumericsError(f"the loss is {loss} (discriminator {critic}); a lower learning rate may help")
        ctx.progress(game.done, settings.steps, generator=loss, discriminator=critic)
        if game.done % settings.every == 0 or game.done == settings.steps or ctx.stop_requested:
            ctx.save_checkpoint(game.done, game.tensors(), {"losses": game.losses})
        ctx.stop_if_requested()
    student.load_state_dict(game.average.state_dict())
    student.eval().requires_grad_(False)
    discriminator.eval().requires_grad_(False)
    return game.losses


def mapping_only(generator: Generator, seed: int = 0) -> Generator:
    """A generator of the same widths whose synthesis starts anew: the ablation of inheriting what pruning left."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        fresh = Generator(generator.config)
    kept = {n: t for n, t in generator.state_dict().items() if n.startswith(("style.", "latent_avg", "noises."))}
    fresh.load_state_dict(fresh.state_dict() | kept)
    parameter = generator.latent_avg
    return fresh.to(parameter.device, parameter.dtype).eval().requires_grad_(False)


def _adam(weights: Mapping[str, nn.Parameter], rate: float, every: int | None) -> torch.optim.Adam:
    """Adam, corrected for a regulariser that comes every so many steps, None if it never comes."""
    if every is None:
        return torch.optim.Adam(weights.values(), lr=rate, betas=BETAS)
    lr, betas = lazy_adam(every, rate)
    return torch.optim.Adam(weights.values(), lr=lr, betas=betas)


def _averaged(values: Tensor) -> Tensor:
    """Make `values` their mean over all processes, in place."""
    if dist.is_initialized():
        dist.all_reduce(values)
        values /= dist.get_world_size()
    return values


class _Game:
    """Both networks with their optimizers, and the average: the state of the loop."""

    def __init__(
        self,
        student: Generator,
        teacher: Generator,
        discriminator: Discriminator,
        pictures: Pictures,
        settings: GanRecover,
        perceptual: Perceptual | None,
    ) -> None:
        self.student, self.teacher, self.discriminator = student, teacher, discriminator
        self.pictures, self.settings, self.perceptual = pictures, settings, perceptual
        self.average = copy.deepcopy(student).eval().requires_grad_(False)
        self.trained = {n: p for n, p in student.named_parameters() if not n.startswith("style.")}
        self.critics = dict(discriminator.named_parameters())
        self.adam = {
            "g": _adam(self.trained, settings.lr, settings.path_every if settings.path else None),
            "d": _adam(self.critics, settings.lr, settings.r1_every if settings.r1 else None),
        }
        self.path_mean = torch.zeros((), device=student.latent_avg.device)
        self.directions = style_directions(teacher)
        self.stages = stage_modules(teacher)
        self.losses: list[float] = []

    @property
    def done(self) -> int:
        """Finished steps."""
        return len(self.losses)

    def step_(self) -> tuple[float, float]:
        """One step of both networks; the losses of generator and discriminator, without regularisers."""
        s, step = self.settings, self.done
        rank, world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
        index = step * world + rank
        with self._seeded(index):
            critic = self._train_discriminator_(index, s.r1 > 0 and step % s.r1_every == 0)
            loss = self._train_generator_()
            if s.path and step % s.path_every == 0:
                self._regularise_paths_()
        decay = min(0.5 ** (s.batch * world / _HALF_LIFE), (1 + step) / (10 + step))  # short runs forget sooner
        averages = dict(self.average.named_parameters())
        for name, parameter in self.trained.items():
            averages[name].lerp_(parameter.detach(), 1 - decay)
        both = _averaged(torch.tensor([loss, critic], dtype=torch.float64, device=self.path_mean.device)).tolist()
        self.losses.append(both[0])
        return both[0], both[1]

    def _train_discriminator_(self, index: int, regularise: bool) -> float:
        s = self.settings
        self._only(self.discriminator)
        real = self.pictures(index, s.batch).to(self.path_mean.device)
        with torch.no_grad(), self._computing():
            fake = self.student(self._latents(s.batch), space="w", noise=self._noise(s.batch))
        with self._computing():
            loss = discriminator_loss(self.discriminator(real), self.discriminator(fake))
        total = loss
        if regularise:
            total = loss + s.r1 / 2 * s.r1_every * r1_penalty(self.discriminator, real)
        self._update_("d", total)
        return loss.item()

    def _train_generator_(self) -> float:
        s = self.settings
        self._only(self.student)
        w, noise = self._latents(s.batch), self._noise(s.batch)
        if s.relation:
            offsets = drawn_offsets(self.directions, s.batch, torch.default_generator)
            w, noise = torch.cat([w, w + offsets[:, None]]), [torch.cat([n, n]) for n in noise]
        with self._computing():
            with torch.no_grad(), features(self.teacher, self.stages) as theirs:
                wanted = self.teacher(w, space="w", noise=noise)[: s.batch]
            with features(self.student, self.stages) as mine:
                made = self.student(w, space="w", noise=noise)[: s.batch]
            loss = generator_loss(self.discriminator(made)) + s.l1 * (made - wanted).abs().mean()
            if self.perceptual is not None:
                loss = loss + s.lpips * self.perceptual(made, wanted).mean()
        if s.relation:
            halves = [[f[0].split(s.batch) for f in found.values()] for found in (mine, theirs)]
            (a, b), (c, d) = ([list(side) for side in zip(*pairs, strict=True)] for pairs in halves)
            loss = loss + s.relation * relation_loss(a, b, c, d)
        self._update_("g", loss)
        return loss.item()

    def _regularise_paths_(self) -> None:
        s = self.settings
        count = max(1, s.batch // 2)
        w = self._latents(count).requires_grad_()
        lengths = path_lengths(self.student(w, space="w", noise=self._noise(count)), w)
        penalty, mean = path_penalty(lengths, self.path_mean)
        self.path_mean = _averaged(mean)
        self._update_("g", s.path * s.path_every * penalty)

    @torch.no_grad()
    def _latents(self, count: int) -> Tensor:
        """w+ of `count` samples; sometimes with another w from some layer on."""
        net, layers = self.student, self.student.config.latents
        device = self.path_mean.device
        first, second = (net.mapping(torch.randn(count, net.config.style_dim).to(device)) for _ in range(2))
        mixed = torch.rand(()).item() < self.settings.mixing
        return net.mix(first, second, int(torch.randint(1, layers, ())) if mixed else layers).clone()

    def _noise(self, count: int) -> list[Tensor]:
        """The same noise for student and teacher, so that their pictures can be alike."""
        return [torch.randn(count, *b.shape[1:]).to(b) for b in self.student.noises.buffers()]

    def _only(self, network: nn.Module) -> None:
        """Let gradients go into the weights of one network alone."""
        for parameter in self.critics.values():
            parameter.requires_grad_(network is self.discriminator)
        for parameter in self.trained.values():
            parameter.requires_grad_(network is self.student)

    def _update_(self, key: str, loss: Tensor) -> None:
        self.adam[key].zero_grad()
        loss.backward()
        for weight in (self.trained if key == "g" else self.critics).values():
            if weight.grad is not None:
                _averaged(weight.grad)
        self.adam[key].step()

    def _computing(self) -> AbstractContextManager[Any]:
        if self.settings.autocast is None:
            return nullcontext()
        return torch.autocast(self.path_mean.device.type, dtype=self.settings.autocast)

    @contextmanager
    def _seeded(self, index: int) -> Iterator[None]:
        with torch.random.fork_rng(devices=[self.path_mean.device] if self.path_mean.is_cuda else []):
            torch.manual_seed(self.settings.seed * 1_000_003 + index)
            yield

    def tensors(self) -> dict[str, Tensor]:
        """What a checkpoint holds."""
        out = {"path_mean": self.path_mean}
        averages = dict(self.average.named_parameters())
        out |= {f"average.{name}": averages[name] for name in self.trained}
        for key, weights in (("g", self.trained), ("d", self.critics)):
            for name, weight in weights.items():
                out[f"{key}.{name}"] = weight
                out |= {f"{key}.{state}.{name}": t for state, t in self.adam[key].state.get(weight, {}).items()}
        return out

    @torch.no_grad()
    def load_(self, step: int, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
        """Continue after `step`. RunError if the checkpoint is of another model."""
        for key, weights in (("g", self.trained), ("d", self.critics)):
            for weight in weights.values() if step else ():  # Adam makes its state at the first step
                zeros = {state: torch.zeros_like(weight) for state in ("exp_avg", "exp_avg_sq")}
                self.adam[key].state[weight] = {"step": torch.zeros(()), **zeros}
        mine = self.tensors()
        other = sorted(n for n in mine if n not in tensors or tensors[n].shape != mine[n].shape)
        if other or len(meta.get("losses", ())) != step:
            raise RunError(f"the checkpoint after step {step} is of another model or other options: {other[:3]}")
        for name, tensor in mine.items():
            tensor.copy_(tensors[name])
        self.losses = [float(loss) for loss in meta["losses"]]
