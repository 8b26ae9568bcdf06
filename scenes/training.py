"""What the two training recipes share: the v target, a time-boxed schedule, EMA, atomic folders and checkpoints."""

from __future__ import annotations

import math
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from gencompress.errors import ConfigError, Interrupted, NumericsError

EVERY_LOG = 50
EVERY_CHECKPOINT_S = 120.0


def make_scheduler() -> Any:
    """DDIM with the cosine schedule (Nichol & Dhariwal 2021) and trailing steps (Lin et al. 2024): 10-20 steps do."""
    from diffusers import DDIMScheduler

    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_schedule="squaredcos_cap_v2",
        prediction_type="v_prediction",
        timestep_spacing="trailing",
        clip_sample=False,
        steps_offset=1,  # unused by trailing steps; 0 makes Stable Diffusion pipelines warn
    )


def denoising_loss(clean: Tensor, alphas: Tensor, rng: torch.Generator, predict: Callable[..., Tensor]) -> Tensor:
    """Weighted squared error of `predict(noisy, timestep)` against v for a batch [B, C, H, W].

    v = sqrt(a) eps - sqrt(1 - a) x (Salimans & Ho 2022, sec. 4). What a few steps and little training need is the
    coarse picture, so low noise counts less: weight min(1, 5 (1 - a)), which is (SNR + 1) clipped at 5 as in Hang et
    al. 2023, and timesteps with density ~ t^(1/3). They are stratified over the batch, which lowers the variance.
    """
    batch = clean.shape[0]
    position = (torch.arange(batch) + torch.rand(batch, generator=rng)) / batch
    t = (position**0.75 * len(alphas)).long().clamp_(max=len(alphas) - 1)
    a = alphas[t].view(-1, 1, 1, 1)
    eps = torch.randn(clean.shape, generator=rng)
    made = predict(a.sqrt() * clean + (1 - a).sqrt() * eps, t)
    error = (made - (a.sqrt() * eps - (1 - a).sqrt() * clean)).square().mean(dim=(1, 2, 3), keepdim=True)
    return (error * (5 * (1 - a)).clamp(max=1)).mean()


@dataclass
class Schedule:
    """A training phase of `minutes` wall time: learning rate by elapsed share, so that a phase ends when promised."""

    minutes: float
    lr: float
    lr_end: float
    warmup: int = 100
    elapsed: float = 0.0
    step: int = 0
    _tick: float = field(default_factory=time.monotonic)

    @property
    def done(self) -> bool:
        """Whether the time is used up."""
        return self.elapsed >= 60 * self.minutes

    def start(self) -> None:
        """Start the clock (again) now; time before is not counted."""
        self._tick = time.monotonic()

    def advance(self) -> float:
        """Count one step and return the learning rate for it (linear warm-up, then cosine)."""
        now = time.monotonic()
        self.elapsed += now - self._tick
        self._tick = now
        self.step += 1
        share = min(self.elapsed / (60 * self.minutes), 1.0)
        cosine = self.lr_end + (self.lr - self.lr_end) * 0.5 * (1 + math.cos(math.pi * share))
        return cosine * min(1.0, self.step / self.warmup)


class Trainer:
    """AdamW + EMA of one or more modules (an `nn.ModuleDict`), resumable from one safetensors file."""

    def __init__(self, modules: nn.ModuleDict, schedule: Schedule, checkpoint: Path, seed: int, ema: float = 0.999):
        self.modules, self.schedule, self.checkpoint, self.decay = modules, schedule, checkpoint, ema
        self.params = dict(modules.named_parameters())
        self.shadow = {name: p.detach().clone() for name, p in self.params.items()}
        self.optimizer = torch.optim.AdamW(
            self.params.values(), lr=schedule.lr, betas=(0.9, 0.99), weight_decay=1e-3, foreach=True
        )
        self.rng = torch.Generator().manual_seed(seed)
        self.loss = float("nan")  # running mean over about a hundred steps
        self._saved = time.monotonic()

    def fit(
        self, loss_of: Callable[[torch.Generator], Tensor], publish: Callable[[], None], every_minutes: float
    ) -> float:
        """Train until the schedule's time is used up; returns the running loss. Publishes EMA weights on the way.

        Raises NumericsError when the loss is not finite, Interrupted after Ctrl-C (with a checkpoint written).
        """
        try:
            self._loop(loss_of, publish, every_minutes)
        except KeyboardInterrupt:
            self.save()
            raise Interrupted(f"stopped at step {self.schedule.step}; the same command continues from there") from None
        self.save()
        publish()
        return self.loss

    def _loop(
        self, loss_of: Callable[[torch.Generator], Tensor], publish: Callable[[], None], every_minutes: float
    ) -> None:
        published = time.monotonic()
        self.schedule.start()
        while not self.schedule.done:
            loss = self._update(loss_of)
            self.loss = loss if math.isnan(self.loss) else 0.99 * self.loss + 0.01 * loss
            if self.schedule.step % EVERY_LOG == 0:
                self._log()
            if time.monotonic() - self._saved > EVERY_CHECKPOINT_S:
                self.save()
            if time.monotonic() - published > 60 * every_minutes:
                publish()
                published = time.monotonic()

    def _update(self, loss_of: Callable[[torch.Generator], Tensor]) -> float:
        rate = self.schedule.advance()
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        loss = loss_of(self.rng)
        if not torch.isfinite(loss):
            raise NumericsError(f"training loss is {loss.item()} at step {self.schedule.step}; lower the learning rate")
        loss.backward()
        nn.utils.clip_grad_norm_(self.params.values(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        decay = min(self.decay, (1 + self.schedule.step) / (10 + self.schedule.step))
        torch._foreach_lerp_(list(self.shadow.values()), [p.detach() for p in self.params.values()], 1 - decay)
        return loss.item()

    def _log(self) -> None:
        s = self.schedule
        left = max(60 * s.minutes - s.elapsed, 0)
        print(f"step {s.step}  loss {self.loss:.4f}  {s.elapsed:.0f} s  {left / 60:.1f} min left", flush=True)

    def ema_into_(self, copies: nn.ModuleDict) -> None:
        """Load the EMA weights into `copies` (the same modules, made again)."""
        copies.load_state_dict({**dict(self.modules.named_buffers()), **self.shadow}, strict=False)

    def save(self) -> None:
        """Write weights, EMA, Adam state, random state and clock, atomically."""
        state = self.optimizer.state_dict()["state"]
        tensors = {f"weight/{k}": v.detach().contiguous() for k, v in self.params.items()}
        tensors |= {f"ema/{k}": v.contiguous() for k, v in self.shadow.items()}
        for index, entry in state.items():
            tensors |= {f"adam/{index}/{k}": v.contiguous() for k, v in entry.items()}
        tensors["rng"] = self.rng.get_state()
        meta = {"step": str(self.schedule.step), "elapsed": repr(self.schedule.elapsed), "loss": repr(self.loss)}
        self.checkpoint.parent.mkdir(parents=True, exist_ok=True)
        part = self.checkpoint.with_suffix(".part")
        save_file(tensors, part, metadata=meta)
        os.replace(part, self.checkpoint)
        self._saved = time.monotonic()

    def resume(self) -> bool:
        """Continue from the checkpoint if there is one that fits. Raises ConfigError if it belongs to other modules."""
        if not self.checkpoint.is_file():
            return False
        with safe_open(self.checkpoint, framework="pt") as file:
            tensors = {k: file.get_tensor(k) for k in file.keys()}
            meta = file.metadata()
        if {k[7:] for k in tensors if k.startswith("weight/")} != set(self.params):
            raise ConfigError(f"{self.checkpoint} belongs to another model; delete it or give another --out")
        with torch.no_grad():
            for name, param in self.params.items():
                param.copy_(tensors[f"weight/{name}"])
                self.shadow[name].copy_(tensors[f"ema/{name}"])
        state: dict[int, dict[str, Tensor]] = {}
        for key, value in tensors.items():
            if key.startswith("adam/"):
                _, index, slot = key.split("/")
                state.setdefault(int(index), {})[slot] = value
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": state})
        self.rng.set_state(tensors["rng"])
        self.schedule.step, self.schedule.elapsed = int(meta["step"]), float(meta["elapsed"])
        self.loss = float(meta["loss"])
        print(f"resumed at step {self.schedule.step}, {self.schedule.elapsed:.0f} s", flush=True)
        return True


def replace_folder(target: Path, fill: Callable[[Path], None]) -> None:
    """Let `fill` write a new folder beside `target`, keep files that it did not write, then swap the two by rename."""
    target.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    part.chmod(0o755)
    try:
        fill(part)
        for file in part.rglob("*.safetensors"):
            file.chmod(0o644)  # safetensors writes for the owner alone
        old = part.with_name(part.name + "-old")
        if target.exists():
            os.replace(target, old)
        os.replace(part, target)
        shutil.rmtree(old, ignore_errors=True)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise


def save_grid(images: list, columns: int, path: Path) -> None:
    """Write PIL images of one size as a grid, row by row."""
    from PIL import Image

    width, height = images[0].size
    grid = Image.new("RGB", (columns * width, -(-len(images) // columns) * height), "white")
    for index, image in enumerate(images):
        grid.paste(image, (index % columns * width, index // columns * height))
    grid.save(path, optimize=True)
