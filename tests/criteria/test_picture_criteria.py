"""Scores of channels that make pictures, against gradients taken one by one and by differences."""

from __future__ import annotations

import pytest
import torch

from gencompress.core.group import Groups
from gencompress.criteria.content_aware import content_aware_scores, salted
from gencompress.criteria.diversity import diversity_scores, principal_directions
from gencompress.criteria.taylor import taylor_scores
from gencompress.domains.stylegan.domain import StyleGan
from gencompress.domains.stylegan.load import Networks
from gencompress.domains.stylegan.subject import StyleGanSubject
from gencompress.errors import ConfigError, DataError, Interrupted, ModelError, NumericsError
from tests.criteria.toy import Recorder, frozen_copy, untouched
from tests.domains.stylegan.tiny import DIM, normal, tiny_discriminator, tiny_generator


@pytest.fixture(scope="module")
def gan():
    return StyleGan(Networks(tiny_generator((4, 5, 6, 3)).double(), tiny_discriminator((4, 6)).double()))


def absolute(subject, group, gradient):
    """Mean over outputs and kernel of |gradient| of the weight [1, O, I, k, k] that reads a group."""
    assert subject.reader(group).dim == 2
    return gradient.abs().mean((0, 1, 3, 4))


def by_hand(subject, groups, samples, directions, step, seed):
    """The score as the formula says, one latent, direction and group after the other."""
    axes, parts = principal_directions(subject.latents(0, 10_000))
    generator = torch.Generator().manual_seed(seed)
    total = {g.name: 0 for g in groups}
    for index in range(samples):
        w = subject.latents(1 + index, 1)
        drawn = torch.multinomial(parts, directions, replacement=True, generator=generator)
        found = {g.name: [] for g in groups}
        for k in drawn:
            for group in groups:
                weight = dict(subject.module.named_parameters())[subject.reader(group).tensor]
                weight.requires_grad_()
                moved = subject.pictures(w + step * axes[k]).detach()
                (gradient,) = torch.autograd.grad((subject.pictures(w) - moved).abs().sum(), weight)
                weight.requires_grad_(False)
                found[group.name].append(absolute(subject, group, gradient))
        for name, rows in found.items():
            g = torch.stack(rows)
            total[name] = total[name] + (g - g.mean(0)).square().sum(0)
    return total


def close(ours, theirs, tolerance=1e-9):
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert ours[name].shape == theirs[name].shape
        assert torch.allclose(ours[name], theirs[name], rtol=tolerance, atol=0), name


def test_diversity_is_the_variance_over_directions(gan):
    subject, before = gan.subject(), frozen_copy(gan.generator)
    scores = diversity_scores(subject, gan.groups, 3, Recorder(), directions=4, step=2.0, seed=5)
    assert untouched(gan.generator, before)
    assert not any(p.requires_grad for p in gan.generator.parameters())
    close(scores, by_hand(subject, gan.groups, 3, 4, 2.0, 5))
    assert all(bool((s > 0).all()) for s in scores.values())


def test_gradients_of_the_change_are_those_of_differences(gan):
    """Central differences at every weight of the last step to RGB; the moved picture does not move with the weights."""
    subject, group = gan.subject(), gan.groups[3]
    axes, parts = principal_directions(subject.latents(0, 10_000))
    drawn = torch.multinomial(parts, 2, replacement=True, generator=torch.Generator().manual_seed(0))
    w, weight = subject.latents(1, 1), gan.generator.to_rgbs[0].conv.weight
    moved = [subject.pictures(w + 5.0 * axes[k]) for k in drawn]
    rows = []
    for other in moved:
        gradient = torch.zeros_like(weight)
        for place in range(weight.numel()):
            ends = []
            for sign in (1, -1):
                weight.view(-1)[place] += sign * 1e-6
                ends.append((subject.pictures(w) - other).abs().sum())
                weight.view(-1)[place] -= sign * 1e-6
            gradient.view(-1)[place] = (ends[0] - ends[1]) / 2e-6
        rows.append(absolute(subject, group, gradient))
    g = torch.stack(rows)
    scores = diversity_scores(subject, Groups((group,)), 1, Recorder(), directions=2)
    close(scores, {group.name: (g - g.mean(0)).square().sum(0)}, 1e-4)


def test_principal_directions():
    axes, scale = torch.linalg.qr(normal(4, 4, dtype=torch.float64))[0], torch.tensor([3.0, 0.5, 2.0, 1.0])
    latents = normal(20_000, 4, seed=2, dtype=torch.float64) * scale @ axes.T + 7
    found, parts = principal_directions(latents)
    order = torch.argsort(scale)  # ascending
    assert torch.allclose((found * axes.T[order]).sum(1).abs(), torch.ones(4, dtype=torch.float64), atol=1e-3)
    assert torch.allclose(parts, scale[order].square().double() / scale.square().sum(), atol=0.01)
    assert torch.allclose(found @ found.T, torch.eye(4, dtype=torch.float64), atol=1e-12)


def test_a_channel_that_answers_all_directions_alike_scores_nothing():
    """The style of channel 2 is zero, so its weights never get a gradient."""
    generator = tiny_generator((4, 5, 6, 3)).double()
    generator.to_rgbs[0].conv.modulation.weight[2] = 0
    generator.to_rgbs[0].conv.modulation.bias[2] = 0
    gan = StyleGan(Networks(generator))
    scores = diversity_scores(gan.subject(), gan.groups, 2, Recorder(), directions=3)
    assert scores["convs.1"][2] == 0 and bool((scores["convs.1"][:2] > 0).all())


def test_content_aware_is_the_gradient_at_salted_pixels(gan):
    subject, before = gan.subject(), frozen_copy(gan.generator)

    def left(pictures):
        mask = torch.zeros_like(pictures[:, :1])
        mask[..., :4] = 1
        return mask

    scores = content_aware_scores(subject, gan.groups, 5, 2, Recorder(), region=left, share=0.3, seed=4)
    assert untouched(gan.generator, before)
    generator, expected = torch.Generator().manual_seed(4), {g.name: 0 for g in gan.groups}
    for index in range(3):
        w = subject.latents(index, 2)
        target = subject.pictures(w)
        target = salted(target, left(target), 0.3, generator)
        assert torch.equal(target[..., 4:], subject.pictures(w)[..., 4:])
        for group in gan.groups:
            weight = dict(gan.generator.named_parameters())[subject.reader(group).tensor].requires_grad_()
            (gradient,) = torch.autograd.grad((subject.pictures(w) - target).abs().mean(), weight)
            weight.requires_grad_(False)
            expected[group.name] = expected[group.name] + absolute(subject, group, gradient)
    close(scores, expected)
    whole = content_aware_scores(subject, gan.groups, 2, 2, Recorder(), share=1.0)
    assert all(bool((s > 0).all()) for s in whole.values())


def test_salt_and_pepper():
    pictures, ones = normal(4, 3, 64, 64), torch.ones(4, 1, 64, 64)
    found = salted(pictures, ones, 0.1, torch.Generator().manual_seed(0))
    hit = (found != pictures).any(1)
    assert abs(float(hit.float().mean()) - 0.1) < 0.01
    values = found.movedim(1, -1)[hit]
    assert bool((values == values[:, :1]).all()) and abs(float(values.mean())) < 0.1
    assert set(values.unique().tolist()) == {-1.0, 1.0}


@pytest.mark.parametrize("criterion", ["diversity", "content"])
def test_a_stopped_score_continues_where_it_was(gan, criterion):
    def score(ctx):
        if criterion == "diversity":
            return diversity_scores(gan.subject(), gan.groups, 7, ctx, directions=3)
        return content_aware_scores(gan.subject(), gan.groups, 14, 2, ctx)

    whole, stopped = score(Recorder()), Recorder(stop_after=3)
    with pytest.raises(Interrupted):
        score(stopped)
    assert stopped.saved.step == 3
    resumed = score(Recorder(saved=stopped.saved))
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)


def test_the_subject(gan):
    subject = gan.subject()
    assert torch.equal(subject.latents(3, 2), gan.subject().latents(3, 2))
    assert not torch.equal(subject.latents(3, 2), gan.subject(seed=1).latents(3, 2))
    assert subject.latents(0, 2).shape == (2, DIM) and not subject.latents(0, 2).requires_grad
    readers = [subject.reader(g).tensor for g in gan.groups]
    assert readers == ["conv1.conv.weight", "convs.0.conv.weight", "convs.1.conv.weight", "to_rgbs.0.conv.weight"]
    losses = subject.losses(0, 4)
    logits = gan.discriminator(gan.generator(subject.latents(0, 4), space="w"))[:, 0]
    assert torch.allclose(losses, torch.log1p(torch.exp(-logits)))
    scores = taylor_scores(subject, gan.groups, 4, 2, Recorder())
    assert {name: len(s) for name, s in scores.items()} == {g.name: g.size for g in gan.groups}
    with pytest.raises(ModelError, match="no discriminator"):
        StyleGanSubject(Networks(gan.generator)).losses(0, 1)


def test_wrong_options_are_refused(gan):
    subject = gan.subject()
    with pytest.raises(ConfigError, match="directions=1"):
        diversity_scores(subject, gan.groups, 1, Recorder(), directions=1)
    with pytest.raises(ConfigError, match="step=0"):
        diversity_scores(subject, gan.groups, 1, Recorder(), step=0)
    with pytest.raises(ConfigError, match="share=0"):
        content_aware_scores(subject, gan.groups, 1, 1, Recorder(), share=0)
    with pytest.raises(DataError, match="region"):
        content_aware_scores(subject, gan.groups, 1, 1, Recorder(), region=lambda x: x)


def test_scores_that_are_no_numbers_are_refused():
    generator = tiny_generator((4, 5, 6, 3)).double()
    generator.conv1.activate.bias[0] = float("nan")
    gan = StyleGan(Networks(generator))
    with pytest.raises(NumericsError):
        diversity_scores(gan.subject(), gan.groups, 1, Recorder(), directions=2)
