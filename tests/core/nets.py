"""Toy networks with one of every kind of group, and removal on them without any domain."""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from torch import Tensor, nn

from gencompress.core.group import Attr, Group, Groups, Site, Slice, shapes_of
from gencompress.core.plan import Plan
from gencompress.core.prune import narrow, removed_blocks, resize_spec
from gencompress.core.resize import resize_

WIDTH, HEADS, HEAD, HIDDEN, CONTEXT = 6, 3, 4, 5, 7


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.heads = HEADS
        self.qkv = nn.Linear(WIDTH, 3 * HEADS * HEAD)
        self.out = nn.Linear(HEADS * HEAD, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, HEAD)).permute(2, 0, 3, 1, 4)
        return self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Block(nn.Module):
    """Attention and a GEGLU feed-forward, modulated by the context."""

    def __init__(self):
        super().__init__()
        self.attn = Attention()
        self.mod = nn.Linear(CONTEXT, 2 * WIDTH)
        self.up = nn.Linear(WIDTH, 2 * HIDDEN)
        self.down = nn.Linear(HIDDEN, WIDTH)

    def forward(self, hidden_states: Tensor, context: Tensor) -> Tensor:
        shift, scale = self.mod(context)[:, None].chunk(2, -1)
        x = hidden_states + self.attn(hidden_states * (1 + scale) + shift)
        value, gate = self.up(x).chunk(2, -1)
        return x + self.down(value * F.gelu(gate))


class Stage(nn.Module):
    def __init__(self, depth: int):
        super().__init__()
        self.blocks = nn.ModuleList([Block() for _ in range(depth)])

    def forward(self, hidden_states: Tensor, context: Tensor) -> Tensor:
        for block in self.blocks:
            hidden_states = block(hidden_states, context)
        return hidden_states


class Transformer(nn.Module):
    def __init__(self, stages: int = 3, depth: int = 2):
        super().__init__()
        self.stages = nn.ModuleList([Stage(depth) for _ in range(stages)])
        self.head = nn.Linear(WIDTH, 2)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        for stage in self.stages:
            x = stage(x, context)
        return self.head(x)

    @staticmethod
    def inputs(batch: int = 2, seed: int = 0) -> tuple[Tensor, Tensor]:
        noise = torch.Generator().manual_seed(seed)
        return torch.randn(batch, 8, WIDTH, generator=noise), torch.randn(batch, CONTEXT, generator=noise)

    def groups(self) -> Groups:
        items = []
        for s, stage in enumerate(self.stages):
            items.append(
                Group(f"stages.{s}", "depth", 1, (), (residual(f"stages.{s}"),), min_keep=0, stack=f"stages.{s}.")
            )
            for b in range(len(stage.blocks)):
                items += block_groups(f"stages.{s}.blocks.{b}", shapes_of(self.state_dict()))
        return Groups(tuple(items))


def residual(module: str) -> Site:
    return Site(module, "residual")


def block_groups(path: str, shapes: dict[str, tuple[int, ...]]) -> list[Group]:
    """Heads, hidden units, modulation and the block as a whole, for the widths that the block has."""
    heads = shapes[f"{path}.attn.out.weight"][1] // HEAD
    hidden = shapes[f"{path}.down.weight"][1]
    modulation = shapes[f"{path}.mod.weight"][0]
    fused = {"block": HEAD, "repeat": 3, "pitch": heads * HEAD}
    halves = {"repeat": 2, "pitch": hidden}
    at = f"{path}.mod.computed" if f"{path}.mod.index" in shapes else f"{path}.mod"
    return [
        Group(
            f"{path}.attn",
            "head",
            heads,
            (
                Slice(f"{path}.attn.qkv.weight", 0, **fused),
                Slice(f"{path}.attn.qkv.bias", 0, **fused),
                Slice(f"{path}.attn.out.weight", 1, block=HEAD),
            ),
            (Site(f"{path}.attn.out", "input", block=HEAD),),
            (Attr(f"{path}.attn", "heads", 1),),
            work=(f"{path}.attn",),
        ),
        Group(
            f"{path}.ff",
            "ffn",
            hidden,
            (
                Slice(f"{path}.up.weight", 0, **halves),
                Slice(f"{path}.up.bias", 0, **halves),
                Slice(f"{path}.down.weight", 1),
            ),
            (Site(f"{path}.down", "input"),),
        ),
        Group(
            f"{path}.mod",
            "adaln",
            modulation,
            (Slice(f"{path}.mod.weight", 0), Slice(f"{path}.mod.bias", 0)),
            (Site(at, "output"),),
            scatter=(f"{path}.mod",),
        ),
        Group(path, "depth", 1, (), (residual(path),), min_keep=0, stack=f"{path}."),
    ]


class Convolutions(nn.Module):
    """Interior channels in whole norm groups, through a norm with statistics, a depthwise and a transposed layer."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 12, 3, padding=1)
        self.norm = nn.GroupNorm(4, 12)
        self.depthwise = nn.Conv2d(12, 12, 3, padding=1, groups=12)
        self.batch_norm = nn.BatchNorm2d(12)
        self.up = nn.ConvTranspose2d(12, 8, 4, stride=2, padding=1)
        self.last = nn.Conv2d(8, 3, 1)
        self.batch_norm.running_mean.normal_()
        self.batch_norm.running_var.uniform_(0.5, 2)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        x = self.batch_norm(self.depthwise(F.silu(self.norm(self.first(x)))))
        return self.last(F.silu(self.up(x)))

    @staticmethod
    def inputs(batch: int = 2, seed: int = 0) -> tuple[Tensor]:
        return (torch.randn(batch, 3, 6, 5, generator=torch.Generator().manual_seed(seed)),)

    def groups(self) -> Groups:
        channels = self.first.out_channels
        names = ["first.weight", "first.bias", "depthwise.weight", "depthwise.bias", "norm.weight", "norm.bias"]
        names += [f"batch_norm.{n}" for n in ("weight", "bias", "running_mean", "running_var")]
        mid = Group(
            "mid",
            "resnet",
            channels // 3,
            (*(Slice(n, 0, block=3) for n in names), Slice("up.weight", 0, block=3)),
            (Site("up", "input", dim=1, block=3),),
            (Attr("norm", "num_groups", 1), Attr("depthwise", "groups", 3)),
        )
        late = Group(
            "late",
            "resnet",
            self.up.out_channels,
            (Slice("up.weight", 1), Slice("up.bias", 0), Slice("last.weight", 1)),
            (Site("last", "input", dim=1),),
        )
        return Groups((mid, late))


def remove(net: nn.Module, groups: Groups, plan: Plan) -> nn.Module:
    """The pruned network: blocks taken out of their lists, layers resized, weights narrowed."""
    new = copy.deepcopy(net)
    removed = removed_blocks(groups, plan)
    for container in sorted(removed, key=len, reverse=True):
        parent, _, name = container.rpartition(".")
        kept = [m for i, m in enumerate(new.get_submodule(container)) if i not in removed[container]]
        setattr(new.get_submodule(parent), name, nn.ModuleList(kept))
    tensors = net.state_dict()
    resize_(new, resize_spec(groups, plan, shapes_of(tensors)))
    new.load_state_dict(narrow(tensors, groups, plan))
    return new


def plan_of(groups: Groups, keep: dict[str, list[int]] | None = None) -> Plan:
    """A plan that keeps `keep`, and everything of the groups that it does not name."""
    keep = keep or {}
    kept = {g.name: torch.tensor(keep.get(g.name, list(range(g.size))), dtype=torch.int64) for g in groups}
    return Plan(kept, {g.name: g.size for g in groups})


@st.composite
def plans(draw: st.DrawFn, groups: Groups) -> Plan:
    """Any plan that leaves every group at least its `min_keep`."""
    keep = {}
    for g in groups:
        bits = draw(st.integers(0, 2**g.size - 1))
        chosen = [u for u in range(g.size) if bits >> u & 1]
        others = [u for u in range(g.size) if not bits >> u & 1]
        keep[g.name] = sorted(chosen + others[: max(0, g.min_keep - len(chosen))])
    return plan_of(groups, keep)


def distance(a: Tensor, b: Tensor) -> float:
    """Relative difference of two outputs."""
    return float((a - b).norm() / b.norm())
