"""Recovery: train what the removal left, against whatever loss the domain gives, usually that to the dense model.

The loop is a function of its arguments alone: everything random in step i is drawn from a seed of its own, so a run
that was killed and resumed ends with the same bits as an undisturbed one (on CPU).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from gencompress.core.subject import Progress
from gencompress.errors import ConfigError, NumericsError, RunError


def distil_(
    module: nn.Module,
    loss_fn: Callable[[int], Tensor],
    ctx: Progress,
    *,
    steps: int,
    lr: float,
    parameters: Iterable[nn.Parameter] | None = None,
    ema: float = 0.99,
    warmup: float = 0.05,
    accumulate: int = 1,
    clip: float = 1.0,
    weight_decay: float = 0.0,
    autocast: torch.dtype | None = None,
    seed: int = 0,
    every: int = 100,
) -> list[float]:
    """Train `module` in place with AdamW and leave it with the moving average of its weights.

    Half-precision weights are trained on fp32 copies. With several processes (torch.distributed, as `accelerate
    launch` sets it up) each takes other batches and the gradients are averaged; all must start from the same weights.

    Args:
        module: the pruned model, in the mode (train or eval) in which it is to be trained.
        loss_fn: scalar loss of the `index`-th batch under `module` as it is now. It may draw from torch's default
            generators: they are seeded for every index, and left as they were.
        ctx: progress (``loss``, ``lr``), checkpoints, stopping: a `gencompress.run` StageContext or NullContext.
        steps: optimiser steps.
        lr: peak learning rate, reached after ``warmup * steps`` steps, then falling to 0 along a cosine.
        parameters: what is trained, such as the weights of LoRA adapters; by default all that require a gradient.
        ema: decay of the average, lower in the first steps (``(1 + t) / (10 + t)``); 0 is without.
        warmup: part of the steps, in [0, 1].
        accumulate: batches per step.
        clip: largest norm of the gradient.
        weight_decay: of AdamW.
        autocast: compute in this type, bfloat16 (weights stay as they are); None computes in the weights' own.
        seed: of everything random.
        every: steps between checkpoints.

    Returns:
        The loss at every step.

    Raises:
        ConfigError: an option is out of range, or there is nothing to train.
        NumericsError: a loss or gradient is NaN or infinite; the weights are those before that step, checkpointed.
        RunError: the checkpoint is of another model.
        Interrupted: a stop was asked for; the step in progress was finished and checkpointed.
    """
    _check_options(steps, lr, ema, warmup, accumulate, clip, every, autocast)
    trainer = _Trainer(module, _trained(module, parameters), ema, weight_decay)
    saved = ctx.load_checkpoint()
    if saved is not None:
        trainer.load_(saved.step, saved.tensors, saved.meta)
    rank, world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    while trainer.done < steps:
        first = trainer.done * accumulate * world + rank
        indices = range(first, first + accumulate * world, world)
        try:
            loss, gradient = _mean_gradient(loss_fn, indices, trainer.weights, autocast, seed)
        except NumericsError:
            ctx.save_checkpoint(trainer.done, trainer.tensors(), trainer.meta())
            raise
        rate = learning_rate(trainer.done, steps, lr, warmup)
        trainer.update_(loss, _clipped(gradient, clip), rate)
        ctx.progress(trainer.done, steps, loss=loss, lr=rate)
        if trainer.done % every == 0 or trainer.done == steps or ctx.stop_requested:
            ctx.save_checkpoint(trainer.done, trainer.tensors(), trainer.meta())
        ctx.stop_if_requested()
    trainer.finish_()
    return trainer.losses


def learning_rate(step: int, steps: int, peak: float, warmup: float) -> float:
    """Linear warm-up over ``warmup * steps`` steps to `peak`, then a cosine that would reach 0 at step `steps`."""
    rising = math.ceil(warmup * steps)
    if step < rising:
        return peak * (step + 1) / rising
    return peak * 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, steps - rising)))


def _check_options(
    steps: int,
    lr: float,
    ema: float,
    warmup: float,
    accumulate: int,
    clip: float,
    every: int,
    autocast: torch.dtype | None,
) -> None:
    for name, value, fits in (
        ("steps", steps, steps >= 1),
        ("lr", lr, 0 < lr < math.inf),
        ("ema", ema, 0 <= ema < 1),
        ("warmup", warmup, 0 <= warmup <= 1),
        ("accumulate", accumulate, accumulate >= 1),
        ("clip", clip, clip > 0),
        ("every", every, every >= 1),
    ):
        if not fits:
            raise ConfigError(f"recover.{name}={value} is out of range")
    if autocast not in (None, torch.bfloat16):
        raise ConfigError(f"recover.autocast={autocast}: only bfloat16, float16 would need scaled losses")


def _trained(module: nn.Module, parameters: Iterable[nn.Parameter] | None) -> dict[str, nn.Parameter]:
    """The parameters to train, by their names in `module`."""
    named = dict(module.named_parameters())
    if parameters is None:
        chosen = {name: p for name, p in named.items() if p.requires_grad}
    else:
        wanted = {id(p) for p in parameters}
        chosen = {name: p for name, p in named.items() if id(p) in wanted}
        if len(chosen) < len(wanted):
            raise ConfigError(f"{len(wanted) - len(chosen)} of the parameters to train do not belong to the model")
        frozen = next((name for name, p in chosen.items() if not p.requires_grad), None)
        if frozen is not None:
            raise ConfigError(f"{frozen!r} is to be trained, but does not require a gradient")
    if not chosen:
        raise ConfigError("there is nothing to train: no parameter requires a gradient")
    return chosen


def _mean_gradient(
    loss_fn: Callable[[int], Tensor],
    indices: range,
    weights: Mapping[str, nn.Parameter],
    autocast: torch.dtype | None,
    seed: int,
) -> tuple[float, list[Tensor]]:
    """Loss and gradient, fp32 or wider, averaged over batches and processes; both finite."""
    leaves = list(weights.values())
    device = leaves[0].device
    sums = [torch.zeros_like(p, dtype=torch.promote_types(p.dtype, torch.float32)) for p in leaves]
    loss_sum, count = torch.zeros((), device=device), len(indices)
    for index in indices:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(seed * 1_000_003 + index)
            computing = nullcontext() if autocast is None else torch.autocast(device.type, dtype=autocast)
            with computing, torch.enable_grad():
                loss = loss_fn(index)
            grads = torch.autograd.grad(loss, leaves, allow_unused=True)
        loss_sum += loss.detach().float()
        for total, grad in zip(sums, grads, strict=True):
            if grad is not None:
                total += grad
    if dist.is_initialized():
        count *= dist.get_world_size()
        for total in (loss_sum, *sums):
            dist.all_reduce(total)
    for total in sums:
        total /= count
    mean = float(loss_sum) / count
    if not math.isfinite(mean):
        raise NumericsError(f"the loss is {mean}; a lower learning rate or fp32 may help")
    if not all(bool(torch.isfinite(total).all()) for total in sums):
        bad = next(name for name, total in zip(weights, sums, strict=True) if not bool(torch.isfinite(total).all()))
        raise NumericsError(f"the gradient of {bad!r} holds NaN or infinity; a lower learning rate or fp32 may help")
    return mean, sums


def _clipped(gradient: list[Tensor], limit: float) -> list[Tensor]:
    norm = torch.stack([g.norm().float() for g in gradient]).norm()
    return [g * (limit / norm.clamp_min(limit)).to(g.dtype) for g in gradient]


class _Trainer:
    """Weights, their fp32 masters, AdamW and the moving average: the state of the loop."""

    def __init__(self, module: nn.Module, weights: dict[str, nn.Parameter], ema: float, weight_decay: float) -> None:
        self.weights = weights
        self.buffers = {name: b for name, b in module.named_buffers() if name in module.state_dict()}
        self.masters: dict[str, Tensor] = {}
        for name, weight in weights.items():
            narrow = torch.finfo(weight.dtype).bits < 32
            self.masters[name] = weight.detach().float() if narrow else weight.detach()
        self.optimizer = torch.optim.AdamW(list(self.masters.values()), weight_decay=weight_decay)
        self.ema = ema
        self.average = {name: m.clone() for name, m in self.masters.items()} if ema else {}
        self.losses: list[float] = []

    @property
    def done(self) -> int:
        """Finished steps."""
        return len(self.losses)

    @torch.no_grad()
    def update_(self, loss: float, gradient: list[Tensor], rate: float) -> None:
        """One step of AdamW and of the average."""
        for master, grad in zip(self.masters.values(), gradient, strict=True):
            master.grad = grad
        self.optimizer.param_groups[0]["lr"] = rate
        self.optimizer.step()
        self.optimizer.zero_grad()
        decay = min(self.ema, (1 + self.done) / (10 + self.done))
        for name, average in self.average.items():
            average.lerp_(self.masters[name], 1 - decay)
        self._show_(self.masters)
        self.losses.append(loss)

    def finish_(self) -> None:
        """Leave the model with the average, if there is one."""
        self._show_(self.average or self.masters)

    @torch.no_grad()
    def _show_(self, values: Mapping[str, Tensor]) -> None:
        for name, weight in self.weights.items():
            if values[name].data_ptr() != weight.data_ptr():
                weight.copy_(values[name])

    def tensors(self) -> dict[str, Tensor]:
        """What a checkpoint holds."""
        out = {f"weight.{name}": m for name, m in self.masters.items()}
        out |= {f"average.{name}": a for name, a in self.average.items()}
        out |= {f"buffer.{name}": b for name, b in self.buffers.items()}
        for name, master in self.masters.items():
            out |= {f"optimizer.{key}.{name}": value for key, value in self.optimizer.state.get(master, {}).items()}
        return out

    def meta(self) -> dict[str, Any]:
        """The small rest."""
        return {"losses": self.losses}

    @torch.no_grad()
    def load_(self, step: int, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
        """Continue after `step`."""
        if step:  # AdamW makes its state at the first step
            for master in self.masters.values():
                zeros = {key: torch.zeros_like(master) for key in ("exp_avg", "exp_avg_sq")}
                self.optimizer.state[master] = {"step": torch.zeros(()), **zeros}
        mine = self.tensors()
        other = sorted({n for n in mine if n not in tensors or tensors[n].shape != mine[n].shape})
        if other or len(meta.get("losses", ())) != step:
            raise RunError(f"the checkpoint after step {step} is of another model or other options: {other[:3]}")
        for name, tensor in mine.items():
            tensor.copy_(tensors[name])
        self.losses = [float(loss) for loss in meta["losses"]]
        self._show_(self.masters)
