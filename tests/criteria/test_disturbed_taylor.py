"""Disturbed Taylor scores on a tiny SamModel against plain autograd, finite differences and hand arithmetic."""

from __future__ import annotations

import pytest
import torch

from gencompress.criteria.disturbed_taylor import disturbed_taylor_scores
from gencompress.criteria.magnitude import magnitude_scores
from gencompress.domains.sam.domain import Sam
from gencompress.errors import ConfigError, Interrupted, NumericsError
from gencompress.run import NullContext
from tests.criteria.toy import Recorder, frozen_copy, untouched
from tests.domains.sam.tiny import SIZE, embed, tiny_sam

NOISE, SEED = 0.01, 4


def images(index, size):
    return torch.randn(size, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(50 + index))


def disturbed_loss(sam, teacher, index, size):
    """The loss of one batch, written out."""
    with torch.no_grad():
        wanted = teacher.vision_encoder(images(index, size)).last_hidden_state
    generator = torch.Generator().manual_seed(SEED * 1_000_003 + index)
    wanted = wanted + NOISE * torch.randn(wanted.shape, generator=generator)
    return (sam.vision_encoder(images(index, size)).last_hidden_state - wanted).square().mean()


def reference(sam, teacher, batches, size):
    """|w * sum of gradients| of every weight, by plain autograd."""
    for parameter in sam.vision_encoder.parameters():
        parameter.requires_grad_(True)
    named = dict(sam.vision_encoder.named_parameters())
    total = {n: torch.zeros_like(p) for n, p in named.items()}
    for index in range(batches):
        grads = torch.autograd.grad(disturbed_loss(sam, teacher, index, size), list(named.values()))
        for name, grad in zip(named, grads, strict=True):
            total[name] += grad
    return {n: (named[n] * total[n]).abs().detach() for n in named}


def by_hand(change, layers=3):
    """Scores of every kind of unit before they are made comparable: rows of producers, columns of consumers."""
    width = change["patch_embed.projection.weight"].flatten(1).sum(1) + change["neck.conv1.weight"].sum((0, 2, 3))
    scores = {}
    for i in range(layers):
        at = {n.removeprefix(f"layers.{i}."): v for n, v in change.items() if n.startswith(f"layers.{i}.")}
        width = width + at["attn.qkv.weight"].sum(0) + at["attn.proj.weight"].sum(1)
        width = width + at["mlp.lin1.weight"].sum(0) + at["mlp.lin2.weight"].sum(1)
        rows = at["attn.qkv.weight"].sum(1).reshape(3, 2, 16).sum((0, 1))
        scores[f"layers.{i}.attn"] = rows + at["attn.proj.weight"].sum(0).reshape(2, 16).sum(0)
        scores[f"layers.{i}.mlp"] = at["mlp.lin1.weight"].sum(1) + at["mlp.lin2.weight"].sum(0)
    return scores | {"residual": width}


@pytest.mark.parametrize("student_seed", [0, 1], ids=["the teacher itself", "another student"])
def test_scores_are_those_of_plain_autograd(student_seed):
    model, teacher = tiny_sam(seed=student_seed), tiny_sam()
    sam = Sam(model)
    before = frozen_copy(sam.encoder)
    subject = sam.subject(images, lambda index, size: embed(teacher.vision_encoder, images(index, size)))
    scores = disturbed_taylor_scores(subject, sam.groups, 5, 2, NullContext(), NOISE, "mean", SEED)
    assert untouched(sam.encoder, before) and not any(p.requires_grad for p in sam.encoder.parameters())
    wanted = by_hand(reference(tiny_sam(seed=student_seed), teacher, batches=3, size=2))
    assert scores.keys() == wanted.keys()
    for name, score in wanted.items():
        torch.testing.assert_close(scores[name], score / score.mean(), rtol=1e-4, atol=1e-5)


def test_the_gradient_is_that_of_finite_differences():
    sam = Sam(tiny_sam())
    sam.encoder.double()
    teacher = tiny_sam()
    teacher.vision_encoder.double()
    weight = sam.encoder.layers[1].mlp.lin1.weight.requires_grad_(True)

    def loss():
        with torch.no_grad():
            wanted = teacher.vision_encoder(images(0, 1).double()).last_hidden_state
        noise = NOISE * torch.randn(wanted.shape, generator=torch.Generator().manual_seed(7))
        return (sam.encoder(images(0, 1).double()).last_hidden_state - wanted - noise).square().mean()

    (grad,) = torch.autograd.grad(loss(), weight)
    for row, column in ((0, 0), (7, 30), (40, 3)):
        step = torch.zeros_like(weight)
        step[row, column] = 1e-4
        with torch.no_grad():
            weight += step
            above = loss()
            weight -= 2 * step
            below = loss()
            weight += step
        assert float((above - below) / 2e-4) == pytest.approx(float(grad[row, column]), rel=1e-4, abs=1e-9)


def test_zscores_order_as_means_do():
    sam = Sam(tiny_sam())
    subject = sam.subject(images)
    means = disturbed_taylor_scores(subject, sam.groups, 2, 1, NullContext())
    zscores = disturbed_taylor_scores(subject, sam.groups, 2, 1, NullContext(), normalise="zscore")
    for name, score in zscores.items():
        assert torch.equal(score.argsort(), means[name].argsort())
        assert float(score.mean()) == pytest.approx(0, abs=1e-5) and float(score.std(correction=0)) == pytest.approx(1)
        assert float(means[name].mean()) == pytest.approx(1) and bool((means[name] > 0).all())


def test_scores_repeat_and_depend_on_the_seed():
    sam = Sam(tiny_sam())
    one, same, other = (
        disturbed_taylor_scores(sam.subject(images), sam.groups, 2, 2, NullContext(), seed=s) for s in (0, 0, 1)
    )
    assert all(torch.equal(one[n], same[n]) and not torch.equal(one[n], other[n]) for n in one)


def test_interrupted_and_resumed_scores_are_those_of_one_go():
    sam = Sam(tiny_sam())
    whole = disturbed_taylor_scores(sam.subject(images), sam.groups, 6, 2, Recorder())
    context = Recorder(stop_after=2)
    with pytest.raises(Interrupted):
        disturbed_taylor_scores(sam.subject(images), sam.groups, 6, 2, context)
    rest = Recorder(saved=context.saved)
    parts = disturbed_taylor_scores(sam.subject(images), sam.groups, 6, 2, rest)
    assert all(torch.equal(parts[n], whole[n]) for n in whole) and rest.steps == [(3, 3)]


@pytest.mark.parametrize(
    ("options", "kinds", "says"),
    [
        ({"noise": 0.0}, None, "without it the gradient of an equal student is 0"),
        ({"normalise": "rms"}, None, "criterion.normalise='rms'"),
        ({}, ("ffn", "depth"), r"cannot score whole blocks \(layers.0\)"),
    ],
)
def test_impossible_options_are_refused(options, kinds, says):
    sam = Sam(tiny_sam(), kinds)
    with pytest.raises(ConfigError, match=says):
        disturbed_taylor_scores(sam.subject(images), sam.groups, 1, 1, NullContext(), **options)


def test_nan_weights_are_a_typed_error():
    sam = Sam(tiny_sam())
    sam.encoder.layers[0].mlp.lin1.weight[0, 0] = torch.nan
    with pytest.raises(NumericsError, match="NaN"):
        disturbed_taylor_scores(sam.subject(images), sam.groups, 1, 1, NullContext())


def test_magnitude_of_a_head_dimension_by_hand():
    sam = Sam(tiny_sam(), ("head_dim",))
    attn = sam.encoder.layers[0].attn
    rows = torch.arange(6) * 16 + 5  # dimension 5 of q, k and v of both heads
    parts = [attn.qkv.weight[rows], attn.qkv.bias[rows], attn.proj.weight[:, [5, 21]]]
    parts += [attn.rel_pos_h[:, 5], attn.rel_pos_w[:, 5]]
    norm = torch.cat([p.flatten() for p in parts]).norm()
    scores = magnitude_scores(dict(sam.encoder.named_parameters()), sam.groups, "raw")
    assert float(scores["layers.0.attn"][5]) == pytest.approx(float(norm), rel=1e-5)
