"""Recovery of a pruned denoiser: distillation on the latents that the dense pipeline itself passes through."""

from __future__ import annotations

import re
from dataclasses import replace

import torch
from torch import Tensor, nn

from gencompress.config import DistilRecover
from gencompress.core.features import feature_error, features
from gencompress.core.recover import distil_
from gencompress.core.resize import ScatterLinear
from gencompress.core.subject import Progress
from gencompress.core.trajectory import roll
from gencompress.domains.diffusion.domain import Diffusion

_BLOCK = re.compile(r"(down_blocks|up_blocks|transformer_blocks|single_transformer_blocks)\.\d+|mid_block")


def recover_(pruned: Diffusion, dense: Diffusion, settings: DistilRecover, ctx: Progress) -> list[float]:
    """Train the denoiser of `pruned` in place until it predicts what that of `dense` does; the loss at every step.

    The loss is the relative squared error of the guided output plus that of the block features (BK-SDM, arXiv
    2305.15798), at every step of calibration trajectories in turn. With ``lora_rank`` the weights are frozen, adapters
    of that rank are trained on every linear and convolution layer, and merged at the end.

    Raises what `distil_` raises.
    """
    student = pruned.denoiser
    student.requires_grad_(settings.lora_rank == 0)
    if settings.lora_rank:
        _add_adapters_(student, settings.lora_rank)
    loss = _Distillation(pruned, dense, settings.batch)
    losses = distil_(student, loss, ctx, steps=settings.steps, lr=settings.lr, ema=settings.ema)
    if settings.lora_rank:
        _merge_adapters_(student)
    student.requires_grad_(False)
    return losses


class _Distillation:
    """The loss of the index-th batch: step ``index % steps`` of trajectories ``index // steps``."""

    def __init__(self, pruned: Diffusion, dense: Diffusion, batch: int) -> None:
        self.dense, self.batch = dense, batch
        self.student = replace(dense.denoising, module=pruned.denoiser)
        mine, theirs = blocks(pruned.denoiser), blocks(dense.denoiser)
        self.names = mine if len(mine) == len(theirs) else []  # where blocks are gone, only the output compares
        self._data = -1

    def __call__(self, index: int) -> Tensor:
        data, step = divmod(index, self.dense.denoising.steps)
        if data != self._data:
            self._given = self.dense.subject.trajectories(data, self.batch)
            self._states, self._data = roll(self.dense.denoising, self._given), data
        latents = self._states[step][0]
        with torch.no_grad(), features(self.dense.denoiser, self.names) as theirs:
            wanted = self.dense.denoising.predict(step, latents, self._given)
        with features(self.student.module, self.names) as mine:
            made = self.student.predict(step, latents, self._given)
        loss = feature_error([(made,)], [(wanted,)])
        if self.names:
            loss = loss + feature_error((mine[n] for n in self.names), (theirs[n] for n in self.names))
        return loss


def blocks(denoiser: nn.Module) -> list[str]:
    """Paths of the blocks whose outputs are distilled, in module order."""
    return [name for name, _ in denoiser.named_modules() if _BLOCK.fullmatch(name)]


def _add_adapters_(denoiser: nn.Module, rank: int) -> None:
    from peft import LoraConfig, inject_adapter_in_model

    targets = [name for name, module in denoiser.named_modules() if _adaptable(module)]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # a resumed run starts from the same adapters
        inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=rank, target_modules=targets), denoiser)


def _adaptable(module: nn.Module) -> bool:
    if isinstance(module, nn.Conv2d):
        return module.groups == 1 and module.weight.numel() > 0
    return isinstance(module, nn.Linear) and not isinstance(module, ScatterLinear) and module.weight.numel() > 0


def _merge_adapters_(denoiser: nn.Module) -> None:
    """Add the low-rank products to the weights and put the plain layers back."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    for name, module in list(denoiser.named_modules()):
        if isinstance(module, BaseTunerLayer):
            module.merge()
            parent, _, leaf = name.rpartition(".")
            setattr(denoiser.get_submodule(parent), leaf, module.get_base_layer())
