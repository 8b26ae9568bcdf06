"""SAM at its published sizes, planned on the meta device: no weight is allocated."""

from __future__ import annotations

import functools

import pytest
import torch

from gencompress.config import sam_kinds
from gencompress.core.budget import Budget, solve_ratio
from gencompress.core.rounds import best_units, uniform_counts
from gencompress.domains.sam.domain import Sam
from gencompress.run.launch import compose
from tests.domains.sam.tiny import VIT_B, VIT_H, VIT_L, full_size


@functools.cache
def sam(size, kinds=None):
    return Sam(full_size(*size), kinds, uniform=True)


def at_ratio(dense, keep, metric="params"):
    scores = {g.name: torch.zeros(g.size) for g in dense.groups}
    return solve_ratio(dense.groups, scores, keep, dense.cost(metric))


def millions(model) -> float:
    return sum(p.numel() for p in model.parameters()) / 1e6


def without_tables(model) -> float:
    tables = ("pos_embed", "rel_pos_h", "rel_pos_w")
    return sum(p.numel() for n, p in model.named_parameters() if n.rsplit(".", 1)[1] not in tables) / 1e6


@pytest.mark.parametrize(("size", "published", "macs"), [(VIT_B, 93, 372), (VIT_L, 312, 1315), (VIT_H, 641, 2736)])
def test_dense_sizes_are_the_published_ones(size, published, macs):
    """SlimSAM's table; its MACs leave out attention products and include the mask decoder."""
    dense = sam(size)
    assert millions(dense.model) == pytest.approx(published, rel=0.01)
    assert dense.cost("macs", attention=False).dense / 1e9 == pytest.approx(macs, rel=0.02)


@pytest.mark.parametrize(
    ("keep", "published", "widths"), [(0.5, 26, (384, 12, 1536)), (0.23, 9.1, (168, 12, 704))], ids=["50", "77"]
)
def test_slimsam_sizes_are_the_published_ones(keep, published, widths):
    """The published figures are met if position tables are left out: with them it is 28.0 and 9.8 M."""
    small = sam(VIT_B).prune(at_ratio(sam(VIT_B), keep))
    config = small.encoder.config
    assert (config.hidden_size, config.num_attention_heads, config.mlp_dim) == widths
    assert without_tables(small.model) == pytest.approx(published, rel=0.02)


@pytest.mark.parametrize(("keep", "all_macs", "linear"), [(1, 486.0, 368.7), (0.5, 153.5, 94.8)])
def test_macs_with_and_without_attention(keep, all_macs, linear):
    """Figures of torch's FlopCounterMode on transformers' encoder at 1024 px."""
    dense = sam(VIT_B)
    counts = at_ratio(dense, keep).counts
    assert dense.cost("macs").total(counts) / 1e9 == pytest.approx(all_macs, abs=0.05)
    assert dense.cost("macs", attention=False).total(counts) / 1e9 == pytest.approx(linear, abs=0.05)


def test_three_heads_of_64_dimensions():
    """The size for hardware: whole heads go, the head dimension stays."""
    dense = sam(VIT_B, ("width", "head", "ffn"))
    plan = at_ratio(dense, 0.25)
    config = dense.prune(plan).encoder.config
    assert (config.hidden_size, config.num_attention_heads, config.mlp_dim) == (192, 3, 768)
    assert plan.budget["reached"] / 1e6 == pytest.approx(7.0, abs=0.05)
    assert dense.cost("macs").total(plan.counts) / 1e9 == pytest.approx(55, abs=1)


@pytest.mark.parametrize(("size", "widths"), [(VIT_L, (512, 16, 2048)), (VIT_H, (640, 16, 2560))])
def test_larger_encoders_halve_into_stock_configs(size, widths):
    dense = sam(size)
    plan = at_ratio(dense, 0.5)
    small = dense.prune(plan)
    config = small.encoder.config
    assert (config.hidden_size, config.num_attention_heads, config.mlp_dim) == widths
    assert sum(p.numel() for p in small.encoder.parameters()) == plan.budget["reached"]


@pytest.mark.parametrize(
    ("preset", "widths"),
    [("slimsam_50", (384, 12, 1536)), ("slimsam_77", (168, 12, 672)), ("slimsam_heads", (192, 3, 768))],
)
def test_presets_give_the_widths_that_they_promise(preset, widths):
    config, _ = compose([f"+experiment={preset}", "model.path=facebook/sam-vit-base", "data.images=pictures"])
    dense = sam(VIT_B, sam_kinds(config.domain))
    counts = uniform_counts(dense.groups, Budget.of(config.budget), dense.cost(config.budget.metric))
    scores = {g.name: torch.zeros(g.size) for g in dense.groups}
    small = dense.prune(best_units(dense.groups, scores, counts)).encoder.config
    assert (small.hidden_size, small.num_attention_heads, small.mlp_dim) == widths
