"""Groups of a SAM encoder: who owns what, what goes together, and what is refused."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from gencompress.core.budget import solve_ratio
from gencompress.core.gate import gated
from gencompress.core.group import shapes_of
from gencompress.core.plan import Plan, fingerprint
from gencompress.criteria.random import random_scores
from gencompress.domains.sam.configs import require_stock
from gencompress.domains.sam.domain import Sam
from gencompress.domains.sam.families import FAMILIES
from gencompress.domains.sam.groups import groups_of
from gencompress.domains.sam.removal import remove
from gencompress.errors import BudgetError, ConfigError, ModelError, PlanError
from tests.domains.sam.tiny import embed, pixels, tiny_sam, tiny_sam2
from tests.laws.denoisers import relative


def keep(groups, **units):
    """A plan by kind: the units to keep of every group of that kind; the others keep everything."""
    kept = {g.name: torch.tensor(units.get(g.kind, range(g.size)), dtype=torch.int64) for g in groups}
    return Plan(kept, {g.name: g.size for g in groups})


@pytest.mark.parametrize("kinds", [("width", "head_dim", "ffn"), ("width", "head", "ffn", "depth")])
def test_every_weight_of_the_encoder_is_owned_but_the_rest_of_the_neck(kinds):
    encoder = tiny_sam().vision_encoder
    groups, shapes = groups_of(encoder, kinds), shapes_of(encoder.state_dict())
    groups.check(shapes)
    owned = {s.tensor for g in groups for s in g.slices}
    rest = {n for n in shapes if n.startswith("neck.") and n != "neck.conv1.weight"}
    tables = {n for n in shapes if "rel_pos" in n} if "head" in kinds else set()
    assert set(shapes) - owned == rest | tables


def test_relative_positions_are_sliced_and_rescaled_with_the_queries():
    """The scale trap: attention divides by the root of the head dimension, and tables are added to undivided logits."""
    encoder = tiny_sam().vision_encoder
    groups = groups_of(encoder, ["head_dim"])
    kept = [1, 2, 5, 11]
    small = remove(encoder, groups, keep(groups, head_dim=kept))
    factor = (4 / 16) ** 0.5
    old, new = encoder.layers[0].attn, small.layers[0].attn
    rows = [head * 16 + dim for head in range(2) for dim in kept]
    for part, scale in enumerate((factor, 1, 1)):  # q, k, v
        weight, bias = old.qkv.weight.reshape(3, 32, 32)[part, rows], old.qkv.bias.reshape(3, 32)[part, rows]
        assert torch.equal(new.qkv.weight.reshape(3, 8, 32)[part], weight * scale)
        assert torch.equal(new.qkv.bias.reshape(3, 8)[part], bias * scale)
    assert torch.equal(new.rel_pos_h, old.rel_pos_h[:, kept] / factor)
    assert torch.equal(new.rel_pos_w, old.rel_pos_w[:, kept] / factor)
    assert new.scale == 4**-0.5


def test_whole_heads_keep_their_scale_and_tables():
    encoder = tiny_sam().vision_encoder
    groups = groups_of(encoder, ["head"])
    small = remove(encoder, groups, keep(groups, head=[1]))
    attn = small.layers[0].attn
    assert (attn.num_attention_heads, attn.scale) == (1, encoder.layers[0].attn.scale)
    assert torch.equal(attn.rel_pos_h, encoder.layers[0].attn.rel_pos_h)
    assert torch.equal(attn.qkv.weight.reshape(3, 16, 32), encoder.layers[0].attn.qkv.weight.reshape(3, 32, 32)[:, 16:])


def test_layers_behind_a_removed_one_move_up_and_keep_their_windows():
    encoder = tiny_sam(num_hidden_layers=4, global_attn_indexes=[1, 3]).vision_encoder
    groups = groups_of(encoder, ["depth"])
    plan = Plan({g.name: torch.arange(int(i != 1)) for i, g in enumerate(groups)}, {g.name: 1 for g in groups})
    small = remove(encoder, groups, plan)
    assert not hasattr(small.config, "pruning")
    assert (small.config.num_hidden_layers, small.config.global_attn_indexes) == (3, [2])
    assert [layer.window_size for layer in small.layers] == [3, 3, 0]
    assert (encoder.config.num_hidden_layers, encoder.config.global_attn_indexes) == (4, [1, 3])


def test_stages_of_sam2_lose_blocks_but_never_their_first():
    encoder = tiny_sam2().vision_encoder
    groups = groups_of(encoder, ["depth"])
    assert [g.name for g in groups] == [f"backbone.blocks.{i}" for i in (2, 4, 5, 7)]
    gone = ("backbone.blocks.2", "backbone.blocks.5")
    plan = Plan({g.name: torch.arange(int(g.name not in gone)) for g in groups}, {g.name: 1 for g in groups})
    small = remove(encoder, groups, plan)
    backbone = small.config.backbone_config
    assert not hasattr(small.config, "pruning")
    assert (backbone.blocks_per_stage, backbone.global_attention_blocks) == ([1, 1, 2, 2], [3])
    assert [block.window_size for block in small.backbone.blocks] == [4, 4, 2, 0, 4, 2]
    assert encoder.config.backbone_config.blocks_per_stage == [1, 2, 3, 2]


def test_every_weight_of_a_sam2_encoder_is_owned_but_the_biases_of_the_neck():
    encoder = tiny_sam2().vision_encoder
    groups, shapes = groups_of(encoder), shapes_of(encoder.state_dict())
    groups.check(shapes)
    rest = set(shapes) - {s.tensor for g in groups for s in g.slices}
    assert rest == {f"neck.convs.{i}.bias" for i in range(4)}


def test_stages_of_equal_width_are_not_taken_for_a_stock_config():
    """Stock Sam2 projects and pools between stages only where their widths differ."""
    encoder = tiny_sam2(num_attention_heads_per_stage=[1, 1, 4, 8]).vision_encoder
    groups = groups_of(encoder)
    kept = {g.name: torch.arange(g.size) for g in groups}
    kept |= {"residual.1": torch.arange(16)}
    kept |= {f"backbone.blocks.{i}.attn": torch.arange(16) for i in (1, 2)}
    kept |= {f"backbone.blocks.{i}.mlp": torch.arange(64) for i in (1, 2)}
    plan = Plan(kept, {g.name: g.size for g in groups})
    small = remove(encoder, groups, plan)
    assert "pruning" in small.config.to_dict()
    with gated(encoder, groups, plan.masks()):
        assert relative(embed(small, pixels()), embed(encoder, pixels())) <= 1e-5
    with pytest.raises(ModelError, match="next to each other are equally wide, 16, 16, 64, 128"):
        require_stock(small)


@pytest.mark.parametrize(
    ("build", "kind"),
    [(tiny_sam, kind) for kind in FAMILIES["SamVisionEncoder"].kinds]
    + [(tiny_sam2, kind) for kind in FAMILIES["Sam2VisionModel"].kinds],
)
def test_gates_per_sample_follow_their_sample_through_the_windows(build, kind):
    encoder = build().vision_encoder
    groups = groups_of(encoder, [kind])
    generator = torch.Generator().manual_seed(3)
    gates = {g.name: torch.rand(2, g.size, generator=generator) for g in groups}
    with gated(encoder, groups, gates):
        together = embed(encoder, pixels(2))
    for i in range(2):
        with gated(encoder, groups, {name: gate[i] for name, gate in gates.items()}):
            assert relative(together[i : i + 1], embed(encoder, pixels(2)[i : i + 1])) <= 1e-5


def test_the_input_is_untouched_and_nothing_is_shared():
    encoder = tiny_sam().vision_encoder.train()
    encoder.neck.conv2.weight.requires_grad_(True)
    before = {k: v.clone() for k, v in encoder.state_dict().items()}
    config = encoder.config.to_dict()
    groups = groups_of(encoder)
    small = remove(encoder, groups, keep(groups, width=range(9), head_dim=[0], ffn=[]))
    assert small.training and [n for n, p in small.named_parameters() if p.requires_grad] == ["neck.conv2.weight"]
    for tensor in small.state_dict().values():
        tensor.detach().zero_()
    assert all(torch.equal(encoder.state_dict()[k], v) for k, v in before.items())
    assert encoder.config.to_dict() == config


def test_plans_for_other_weights_are_refused_unless_asked_for():
    encoder, tuned = tiny_sam().vision_encoder, tiny_sam(seed=1).vision_encoder
    groups = groups_of(encoder)
    plan = keep(groups, ffn=[0, 1])
    plan = Plan(plan.keep, plan.sizes, source=fingerprint(encoder.state_dict()))
    with pytest.raises(PlanError, match="other weights"):
        remove(tuned, groups, plan)
    assert len(remove(tuned, groups, plan, other_weights=True).layers[0].mlp.lin1.weight) == 2


@pytest.mark.parametrize(
    ("kinds", "uniform", "says"),
    [
        (["heads"], False, "unknown kind of group 'heads': did you mean 'head'"),
        (["head", "head_dim"], False, "two rounds"),
        (["head_dim", "ffn"], True, "need 'width' together with 'head_dim' or 'head'"),
        (["width"], True, "need 'width' together"),
    ],
)
def test_kinds_that_do_not_go_together_are_refused(kinds, uniform, says):
    with pytest.raises(ConfigError, match=says):
        groups_of(tiny_sam().vision_encoder, kinds, uniform=uniform)


def test_kinds_of_sam2_that_do_not_go_together_are_refused():
    encoder = tiny_sam2().vision_encoder
    with pytest.raises(ConfigError, match="Sam2VisionModel has no groups of kind 'head'; it offers width"):
        groups_of(encoder, ["head"])
    with pytest.raises(ConfigError, match="one MLP ratio, so uniform results need 'width' together with 'ffn'"):
        groups_of(encoder, ["width", "head_dim"], uniform=True)


def test_other_architectures_and_adapters_are_refused():
    with pytest.raises(ModelError, match="cannot prune a Linear"):
        groups_of(nn.Linear(2, 2))
    from peft import LoraConfig, inject_adapter_in_model

    encoder = inject_adapter_in_model(LoraConfig(r=2, target_modules=["qkv"]), tiny_sam().vision_encoder)
    with pytest.raises(ModelError, match="merge or unload"):
        groups_of(encoder)


def test_a_ratio_that_breaks_the_heads_is_refused_and_says_what_would_do():
    sam = Sam(tiny_sam(), uniform=True)
    with pytest.raises(BudgetError, match=r"no width of 'residual' .* 0.25 is the least"):
        solve_ratio(sam.groups, random_scores(sam.groups), 0.2, sam.cost("params"))


def test_uniform_results_are_not_made_of_what_a_stock_config_cannot_say():
    sam = Sam(tiny_sam(), uniform=True)
    uneven = keep(sam.groups, width=range(24), head_dim=range(8))
    with pytest.raises(ModelError, match="residual stream is 24 wide, but the 2 heads of a layer are 16 wide"):
        sam.prune(uneven)
    small = remove(sam.encoder, sam.groups, uneven)
    with pytest.raises(ConfigError, match="differ already"):
        groups_of(small, uniform=True)


def test_two_rounds_end_with_a_stock_config():
    """The residual stream first, attention and MLP after it, as SlimSAM does: in between a stock config will not do."""
    encoder = copy.deepcopy(tiny_sam().vision_encoder)
    first = groups_of(encoder, ["width"])
    between = remove(encoder, first, keep(first, width=range(16)))
    assert between.config.pruning["modules"]["layers.0.attn.qkv"] == {"weight": [96, 16]}
    second = groups_of(between, ["head_dim", "ffn"])
    last = remove(between, second, keep(second, head_dim=range(8), ffn=range(24)))
    assert not hasattr(last.config, "pruning")
    assert (last.config.hidden_size, last.config.num_attention_heads, last.config.mlp_dim) == (16, 2, 24)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_encoders_without_position_tables_and_biases(attention):
    encoder = tiny_sam(attention, use_rel_pos=False, use_abs_pos=False, qkv_bias=False).vision_encoder
    groups = groups_of(encoder)
    plan = keep(groups, width=range(3, 20), head_dim=[1, 4, 9], ffn=range(7))
    with gated(encoder, groups, plan.masks()):
        masked = embed(encoder, pixels())
    assert relative(embed(remove(encoder, groups, plan), pixels()), masked) <= 1e-5
