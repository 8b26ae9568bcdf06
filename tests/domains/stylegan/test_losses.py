"""Losses of training and of distillation against their formulas, with gradients by differences."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from gencompress.core.features import features
from gencompress.domains.stylegan.domain import StyleGan
from gencompress.domains.stylegan.load import Networks
from gencompress.domains.stylegan.losses import (
    discriminator_loss,
    generator_loss,
    lazy_adam,
    path_lengths,
    path_penalty,
    r1_penalty,
)
from gencompress.domains.stylegan.relation import drawn_offsets, relation_loss, stage_modules, style_directions
from tests.domains.stylegan.test_removal import without
from tests.domains.stylegan.tiny import DIM, normal, tiny_discriminator, tiny_generator

double = {"dtype": torch.float64}


def test_adversarial_losses():
    real, fake = normal(5, 1, **double), normal(5, 1, seed=2, **double)
    chance = lambda logits: torch.sigmoid(logits)  # noqa: E731  # that a picture is real
    assert torch.isclose(generator_loss(fake), -chance(fake).log().mean())
    assert torch.isclose(discriminator_loss(real, fake), -chance(real).log().mean() - (1 - chance(fake)).log().mean())


def test_r1_is_the_squared_gradient():
    class Quadratic(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.tensor(3.0, **double))

        def forward(self, x):
            return (self.scale * x.square()).sum((1, 2, 3))[:, None]

    critic, pictures = Quadratic(), normal(4, 3, 2, 2, **double)
    penalty = r1_penalty(critic, pictures)
    assert torch.isclose(penalty, (6 * pictures).square().sum((1, 2, 3)).mean())
    penalty.backward()
    assert torch.isclose(critic.scale.grad, 2 * (2 * pictures).square().sum((1, 2, 3)).mean() * 3)
    assert not pictures.requires_grad


def differences(network, weight, loss, places):
    """Central differences of `loss` at a few places of a weight."""
    found = []
    for place in places:
        ends = []
        for sign in (1, -1):
            with torch.no_grad():
                weight.view(-1)[place] += sign * 1e-6
            ends.append(loss().item())
            with torch.no_grad():
                weight.view(-1)[place] -= sign * 1e-6
        found.append((ends[0] - ends[1]) / 2e-6)
    return torch.tensor(found, **double)


def test_r1_of_the_discriminator_has_the_gradient_of_differences():
    discriminator = tiny_discriminator().double().requires_grad_()
    pictures, weight = normal(4, 3, 16, 16, **double), discriminator.convs[1].conv2[1].weight
    (gradient,) = torch.autograd.grad(r1_penalty(discriminator, pictures), weight)
    expected = differences(discriminator, weight, lambda: r1_penalty(discriminator, pictures), range(0, 200, 37))
    assert torch.allclose(gradient.flatten()[0:200:37], expected, rtol=1e-4, atol=1e-6)


def test_path_lengths_of_a_linear_map():
    """For a linear map the gradient is known: J^T y."""
    matrix, w = normal(3 * 4 * 4, 6, **double), normal(2, 6, seed=2, **double).requires_grad_()
    lengths = path_lengths((w @ matrix.T).reshape(2, 3, 4, 4), w, torch.Generator().manual_seed(3))
    y = torch.empty(2, 3, 4, 4, **double).normal_(generator=torch.Generator().manual_seed(3)).flatten(1) / 4
    assert torch.allclose(lengths, (y @ matrix).norm(dim=1))
    plus = w.detach()[:, None].expand(-1, 5, -1).clone().requires_grad_()
    shared = path_lengths((plus.sum(1) @ matrix.T).reshape(2, 3, 4, 4), plus, torch.Generator().manual_seed(3))
    assert torch.allclose(shared, lengths)  # every layer has the same gradient, and their squares are averaged


def test_path_penalty_and_its_gradient():
    generator = tiny_generator().double().requires_grad_()
    w, weight = normal(2, DIM, **double).requires_grad_(), generator.convs[1].conv.weight

    def loss():
        lengths = path_lengths(generator(w, space="w"), w, torch.Generator().manual_seed(1))
        return path_penalty(lengths, torch.tensor(2.0, **double))[0]

    (gradient,) = torch.autograd.grad(loss(), weight)

    def detached_mean():
        lengths = path_lengths(generator(w, space="w"), w, torch.Generator().manual_seed(1))
        return (lengths - mean).square().mean()

    lengths = path_lengths(generator(w, space="w"), w, torch.Generator().manual_seed(1))
    _, mean = path_penalty(lengths, torch.tensor(2.0, **double))
    assert torch.isclose(mean, 0.99 * 2 + 0.01 * lengths.mean()) and not mean.requires_grad
    expected = differences(generator, weight, detached_mean, range(0, 300, 59))
    assert torch.allclose(gradient.flatten()[0:300:59], expected, rtol=1e-4, atol=1e-6)


def test_adam_with_lazy_regularisation():
    assert lazy_adam(16, 2e-3) == (2e-3 * 16 / 17, (0.0, 0.99 ** (16 / 17)))


def test_stages_are_the_last_convolutions_of_each_resolution():
    assert stage_modules(tiny_generator()) == ["convs.1", "convs.3"]
    assert stage_modules(tiny_generator((2,) * 14)) == ["convs.1", "convs.3", "convs.5", "convs.7"]


def test_directions_change_styles_most():
    generator = tiny_generator().double()
    directions = style_directions(generator, top=3)
    assert directions.shape == (9, DIM) and torch.allclose(directions.norm(dim=1), torch.ones(9, **double))
    stages = [["conv1"], ["convs.0", "convs.1"], ["convs.2", "convs.3"]]
    for stage, rows in zip(stages, directions.reshape(3, 3, DIM), strict=True):
        a = np.concatenate([generator.get_submodule(p).conv.modulation.weight.numpy() for p in stage])
        a = a / np.linalg.norm(a, axis=1, keepdims=True)
        sizes = np.linalg.svd(a)[1]
        assert np.allclose(np.linalg.norm(a @ rows.numpy().T, axis=0), sizes[:3])
        assert np.allclose(rows.numpy() @ rows.numpy().T, np.eye(3))


def test_offsets():
    directions = style_directions(tiny_generator(), top=2)
    moves = drawn_offsets(directions, 4000, torch.Generator().manual_seed(0))
    cosines = (moves / moves.norm(dim=1, keepdim=True)) @ directions.T
    assert torch.allclose(cosines.abs().max(1).values, torch.ones(4000), atol=1e-5)
    assert set(cosines.abs().argmax(1).tolist()) == set(range(6))
    assert float(moves.norm(dim=1).square().mean().sqrt()) == pytest.approx(5, rel=0.05)
    assert torch.equal(moves, drawn_offsets(directions, 4000, torch.Generator().manual_seed(0)))


def test_the_relation_loss_is_its_formula():
    shapes = [(3, 4, 2, 2), (3, 2, 4, 4)]
    s, sm, t, tm = ([normal(*shape, seed=10 * k + i, **double) for i, shape in enumerate(shapes)] for k in range(4))
    t[0] = normal(3, 9, 2, 2, seed=77, **double)  # the teacher is wider
    tm[0] = normal(3, 9, 2, 2, seed=78, **double)

    def relation(a, b):
        a, b = a.flatten(1).numpy(), b.flatten(1).numpy()
        cosines = (a @ b.T) / np.outer(np.linalg.norm(a, axis=1), np.linalg.norm(b, axis=1))
        return np.exp(cosines) / np.exp(cosines).sum(1, keepdims=True)

    expected = 0.0
    for i in range(2):
        p, q = relation(t[i], tm[i]), relation(s[i], sm[i])
        expected += (p * np.log(p / q)).sum() / 3
    assert float(relation_loss(s, sm, t, tm)) == pytest.approx(expected)
    assert float(relation_loss(t, tm, t, tm)) == pytest.approx(0, abs=1e-12)


def test_a_pruned_student_learns_the_relations_of_its_teacher():
    teacher = StyleGan(Networks(tiny_generator().double()))
    student = copy.deepcopy(teacher.prune(without(teacher.groups, 0.5)).generator).requires_grad_()
    w = teacher.generator.mapping(normal(4, DIM, **double))
    moved = w + drawn_offsets(style_directions(teacher.generator), 4, torch.Generator().manual_seed(0))

    def seen(generator):
        with features(generator, stage_modules(generator)) as found:
            generator(torch.cat([w, moved]), space="w")
        return [f[0][:4] for f in found.values()], [f[0][4:] for f in found.values()]

    optimizer = torch.optim.Adam([p for n, p in student.named_parameters() if not n.startswith("style.")], lr=3e-3)
    losses = []
    for _ in range(15):
        loss = relation_loss(*seen(student), *seen(teacher.generator))
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < 0.5 * losses[0]
