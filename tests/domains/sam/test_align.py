"""The loss of alignment: zero for a perfect student, weights as published, and what each round compares."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gencompress.core.recover import distil_
from gencompress.core.rounds import best_units
from gencompress.criteria.random import random_scores
from gencompress.domains.sam.align import Alignment, Inner, Weights, inner_names, inner_weight
from gencompress.domains.sam.domain import Sam
from gencompress.domains.sam.subject import embeddings
from gencompress.run.stage import NullContext
from tests.domains.sam.tiny import SIZE, tiny_sam, tiny_sam2

MODELS = {"sam": tiny_sam, "sam2": tiny_sam2}
NARROWS: dict[Inner, tuple[str, ...]] = {"bottleneck": ("width",), "blocks": ("head_dim", "ffn")}


def images(index: int, size: int) -> Tensor:
    return torch.randn(size, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(index))


def halved(model: Any, kinds: tuple[str, ...]) -> nn.Module:
    sam = Sam(model, kinds)
    plan = best_units(sam.groups, random_scores(sam.groups, 0), {g.name: g.size // 2 for g in sam.groups})
    return sam.prune(plan).encoder


def alignment(student: nn.Module, dense: nn.Module, inner: Inner, weights: Weights = "dynamic") -> Alignment:
    @torch.no_grad()
    def targets(index: int, size: int) -> Tensor:
        return embeddings(dense, images(index, size))

    return Alignment(student, images, targets, 2, 20, guide=dense, inner=inner, weights=weights)


def keeper(to: dict[str, Tensor], name: str) -> Any:
    """A hook that keeps the output of a module."""

    def keep(module: nn.Module, args: Any, out: Any) -> None:
        to[name] = out[0] if isinstance(out, tuple) else out

    return keep


def test_dynamic_weights_are_those_of_the_paper() -> None:
    epochs = [n / 20 for n in range(20)]
    assert [inner_weight(p, "bottleneck", "dynamic") for p in epochs] == [0.5] * 10 + [0.0] * 10
    blocks = [inner_weight(p, "blocks", "dynamic") for p in epochs]
    assert blocks == pytest.approx([(10 - n) / 11 for n in range(11)] + [0.0] * 9)
    assert {inner_weight(p, "blocks", "fixed") for p in epochs} == {0.5}
    assert {inner_weight(p, "bottleneck", "none") for p in epochs} == {0.0}


@pytest.mark.parametrize("name", MODELS)
def test_the_features_of_every_layer_are_compared(name: str) -> None:
    encoder = MODELS[name]().vision_encoder
    layers = encoder.layers if name == "sam" else encoder.backbone.blocks
    inside, blocks = inner_names(encoder, "bottleneck"), inner_names(encoder, "blocks")
    assert len(inside) == len(blocks) == 2 * len(layers)
    assert all(n.endswith(("attn.qkv", "mlp.act", "mlp.activation")) for n in inside)
    assert sum(n.endswith(".attn") for n in blocks) == len(layers)


@pytest.mark.parametrize("inner", NARROWS)
@pytest.mark.parametrize("name", MODELS)
def test_no_loss_for_the_dense_encoder_and_some_for_a_pruned_one(name: str, inner: Inner) -> None:
    model = MODELS[name]()
    dense = model.vision_encoder
    loss = alignment(copy.deepcopy(dense), dense, inner)
    assert float(loss(0)) == float(loss(19)) == 0
    pruned = halved(model, NARROWS[inner])
    assert float(alignment(pruned, dense, inner)(0)) > 0.01


@pytest.mark.parametrize("inner", NARROWS)
def test_the_loss_is_the_weighted_sum_of_relative_errors(inner: Inner) -> None:
    model = tiny_sam()
    dense, pruned = model.vision_encoder, halved(tiny_sam(), NARROWS[inner])
    seen: dict[str, dict[str, Tensor]] = {"dense": {}, "pruned": {}}
    for label, encoder in (("dense", dense), ("pruned", pruned)):
        for name in inner_names(encoder, inner):

            def keep(
                module: nn.Module, args: Any, out: Any, to: dict[str, Tensor] = seen[label], name: str = name
            ) -> None:
                to[name] = out[0] if isinstance(out, tuple) else out

            encoder.get_submodule(name).register_forward_hook(keep)
    got = {index: float(alignment(pruned, dense, inner)(index)) for index in (0, 5, 19)}

    def relative(a: Tensor, b: Tensor) -> float:
        return float((a - b).square().mean() / b.square().mean())

    for index, loss in got.items():
        made, wanted = (embeddings(encoder, images(index, 2)) for encoder in (pruned, dense))
        whole = relative(made, wanted)
        features = [relative(seen["pruned"][name], seen["dense"][name]) for name in inner_names(dense, inner)]
        part = inner_weight(index / 20, inner, "dynamic")
        close = sum(features) / len(features) + (whole if inner == "blocks" else 0)
        assert loss == pytest.approx((1 - part) * whole + part * close, rel=1e-5)


@pytest.mark.parametrize("inner", NARROWS)
def test_training_on_it_brings_the_embeddings_closer(inner: Inner) -> None:
    model = tiny_sam()
    pruned = halved(model, NARROWS[inner]).requires_grad_(True)
    loss = alignment(pruned, model.vision_encoder, inner)
    before = float(loss(19).detach())
    distil_(pruned, loss, NullContext(), steps=20, lr=3e-3, ema=0.0)
    assert float(loss(19).detach()) < 0.8 * before
