"""Removal at the paper's sizes from shapes alone, plans of other models, and the domain's own conveniences."""

from __future__ import annotations

import copy

import pytest
import torch

from gencompress.core.plan import Plan
from gencompress.criteria.magnitude import magnitude_scores
from gencompress.domains.stylegan.config import standard_generator
from gencompress.domains.stylegan.domain import StyleGan
from gencompress.domains.stylegan.export import export_networks
from gencompress.domains.stylegan.groups import groups_of, producer
from gencompress.domains.stylegan.load import Networks
from gencompress.domains.stylegan.model import Generator
from gencompress.domains.stylegan.removal import remove
from gencompress.errors import PlanError
from tests.domains.stylegan.tiny import CHANNELS, DIM, normal, tiny_discriminator, tiny_generator


def full_size(resolution=256):
    return StyleGan(Networks(Generator.on_meta(standard_generator(resolution))))


def without(groups, ratio):
    """The first channels of every layer, as many as the paper keeps: all but ``int(ratio * channels)``."""
    keep = {g.name: torch.arange(g.size - int(ratio * g.size)) for g in groups}
    return Plan(keep, {g.name: g.size for g in groups})


def convolutions(channels):
    """MACs of convolutions and steps to RGB by hand; the doubling ones multiply at the size of their input."""
    total = 0
    for i in range(1, len(channels)):
        out, doubles = 4 * 2 ** (i // 2), i % 2 == 0
        total += channels[i - 1] * channels[i] * 9 * (out // 2 if doubles else out) ** 2
        total += 0 if doubles else channels[i] * 3 * out**2
    return total


def test_macs_of_ffhq_256_are_the_published_ones():
    """45.1 G dense, 4.1 G with 70 % of every layer's channels removed (DCP-GAN, arXiv 2403.13548)."""
    gan = full_size()
    cost, plan = gan.cost("macs", filters=False), without(gan.groups, 0.7)
    small = gan.prune(plan).generator
    assert small.config.channels == (*[154] * 10, 77, 77, 39, 39)
    for counts, config, published in ((cost.sizes, gan.generator.config, 45.1), (plan.counts, small.config, 4.1)):
        total = cost.total(counts)
        assert total / 1e9 == pytest.approx(published, rel=0.02)
        assert total == pytest.approx(convolutions(config.channels), rel=0.005)  # the rest are styles and norms
    assert sum(p.numel() for p in small.parameters()) / 1e6 == pytest.approx(5.6, abs=0.1)


def test_filters_are_counted_apart():
    gan = full_size()
    with_filters = gan.cost("macs").dense - gan.cost("macs", filters=False).dense
    c = gan.generator.config.channels
    blurs = sum(c[i] * 16 * (4 * 2 ** (i // 2)) ** 2 for i in range(2, len(c), 2))
    pictures = sum(3 * 16 * (4 * 2**i) ** 2 for i in range(6))
    assert with_filters == blurs + pictures


@pytest.mark.parametrize("resolution", [8, 64, 1024])
def test_every_resolution_has_a_group_per_feature_set(resolution):
    gan = full_size(resolution)
    assert [g.name for g in gan.groups] == [producer(i) for i in range(len(gan.generator.config.channels))]
    assert [g.size for g in gan.groups] == list(gan.generator.config.channels)
    gan.groups.check({n: tuple(t.shape) for n, t in gan.generator.state_dict().items()})


def test_every_weight_with_channels_belongs_to_a_group():
    """Nothing that has a dimension of channels is left behind."""
    generator = tiny_generator()
    owned = {(s.tensor, s.dim) for g in groups_of(generator) for s in g.slices}
    for name, tensor in generator.state_dict().items():
        for dim, size in enumerate(tensor.shape):
            free = name.startswith(("style.", "noises.", "latent_avg")) or name.endswith(("kernel", "noise.weight"))
            plain = size in (1, 3, DIM) or (name, dim) in {("input.input", 2), ("input.input", 3)}
            assert free or plain or (name, dim) in owned, (name, dim)


def test_what_was_frozen_stays_frozen_and_the_input_is_untouched():
    generator = tiny_generator()
    generator.conv1.conv.weight.requires_grad_()
    before = copy.deepcopy(generator.state_dict())
    small = remove(generator, groups_of(generator), without(groups_of(generator), 0.5))
    assert [n for n, p in small.named_parameters() if p.requires_grad] == ["conv1.conv.weight"]
    assert not small.training and all(torch.equal(before[n], t) for n, t in generator.state_dict().items())
    pointers = {t.data_ptr() for t in generator.state_dict().values()}
    assert not pointers & {t.data_ptr() for t in small.state_dict().values()}


def test_plans_of_others_are_refused():
    gan = StyleGan(Networks(tiny_generator()))
    plan = without(gan.groups, 0.5)
    with pytest.raises(PlanError, match="other weights"):
        remove(tiny_generator(seed=1), gan.groups, Plan(plan.keep, plan.sizes, source=gan.source))
    fine_tuned = Plan(plan.keep, plan.sizes, source=gan.source)
    assert remove(tiny_generator(seed=1), gan.groups, fine_tuned, other_weights=True).config.channels[0] == 4
    other = groups_of(tiny_generator((7, 6, 8, 5)))
    with pytest.raises(PlanError, match="other groups"):
        remove(gan.generator, gan.groups, without(other, 0.5))
    empty = Plan({**plan.keep, "conv1": torch.tensor([], dtype=torch.int64)}, plan.sizes)
    with pytest.raises(PlanError, match="keeps no channel of 'conv1'"):
        gan.prune(empty)


def test_the_domain(tmp_path):
    gan = StyleGan(Networks(tiny_generator(), tiny_discriminator()))
    scores = magnitude_scores(dict(gan.generator.named_parameters()), gan.groups)
    assert {name: len(s) for name, s in scores.items()} == {producer(i): c for i, c in enumerate(CHANNELS)}
    plan = without(gan.groups, 0.5)
    small = gan.prune(plan)
    export_networks(small.networks, plan, tmp_path / "out", card="A card.\n")
    loaded = StyleGan.load(tmp_path / "out")
    assert Plan.from_json((tmp_path / "out" / "plan.json").read_text()) == plan
    assert (tmp_path / "out" / "README.md").read_text() == "A card.\n"
    assert loaded.generator.config == small.generator.config and loaded.discriminator is not None
    pictures = loaded.images([3, 4, 5], batch=2)
    assert pictures.dtype == torch.uint8 and pictures.shape == (3, 3, 16, 16)
    alone = small.images([5], batch=1)[0].int()
    assert int((pictures[2].int() - alone).abs().max()) <= 1
    assert torch.equal(gan.latents([7]), small.latents([1, 7])[1:])
    half = gan.images([3], 1, truncation=0.5).float() / 127.5 - 1
    expected = gan.generator(gan.generator.truncate(gan.generator.mapping(gan.latents([3])), 0.5), space="w").clamp(
        -1, 1
    )
    assert float((half - expected).abs().max()) <= 1 / 127.5
    assert torch.isfinite(gan.discriminator(normal(2, 3, 16, 16))).all()
