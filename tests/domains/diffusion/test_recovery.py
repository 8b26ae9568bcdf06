"""Recovery brings a pruned denoiser closer to the dense one, by full training and by LoRA, and leaves plain modules."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from gencompress.config import DistilRecover
from gencompress.core.budget import Budget, solve
from gencompress.core.trajectory import final_latents
from gencompress.criteria.random import random_scores
from gencompress.domains.diffusion.domain import Diffusion
from gencompress.domains.diffusion.recovery import blocks, recover_
from gencompress.run import NullContext
from tests.domains.diffusion.tiny import PROMPTS, TINY


def _pair(name: str, kinds: list[str] | None = None, keep: float = 0.6) -> tuple[Diffusion, Diffusion]:
    torch.manual_seed(0)
    prompts = None if name == "ddpm" else ["1", "2"] if name == "dit" else PROMPTS
    dense = Diffusion.of(TINY[name](), steps=2, prompts=prompts, kinds=kinds)
    cost = dense.cost("params")
    return dense, dense.prune(solve(dense.groups, random_scores(dense.groups), Budget(keep=keep), cost))


def _error(pruned: Diffusion, dense: Diffusion) -> float:
    batch = dense.subject.trajectories(99, 4)
    wanted, made = final_latents(dense.denoising, batch), final_latents(pruned.denoising, batch)
    return float((wanted - made).square().mean())


@pytest.mark.parametrize("name", ["ddpm", "sd", "dit"])
@pytest.mark.parametrize("rank", [0, 4])
def test_recovery_reduces_the_error_on_new_seeds(name: str, rank: int) -> None:
    dense, pruned = _pair(name)
    before, names = _error(pruned, dense), list(pruned.denoiser.state_dict())
    frozen = {n: t.clone() for n, t in dense.denoiser.state_dict().items()}
    losses = recover_(pruned, dense, DistilRecover(steps=30, lr=3e-3, batch=2, lora_rank=rank, ema=0), NullContext())
    assert len(losses) == 30
    assert _error(pruned, dense) < before
    assert list(pruned.denoiser.state_dict()) == names, "adapters must be merged away"
    assert not any(p.requires_grad for p in pruned.denoiser.parameters())
    assert all(torch.equal(t, frozen[n]) for n, t in dense.denoiser.state_dict().items()), "the teacher is not trained"


def test_a_model_without_some_blocks_recovers_by_its_output() -> None:
    dense, pruned = _pair("dit", kinds=["depth"], keep=0.7)
    assert len(blocks(pruned.denoiser)) < len(blocks(dense.denoiser))
    before = _error(pruned, dense)
    recover_(pruned, dense, DistilRecover(steps=30, lr=3e-3, batch=2, ema=0), NullContext())
    assert _error(pruned, dense) < before


def test_blocks_are_the_parts_that_the_family_is_built_of() -> None:
    unet: nn.Module = TINY["ddpm"]().unet
    assert {n.split(".")[0] for n in blocks(unet)} == {"down_blocks", "mid_block", "up_blocks"}
