"""torch-pruning (VainF/Torch-Pruning 1.6) as a baseline: the same denoiser, the same budget, its own units and ranking.

torch-pruning finds by tracing which channels belong together (Fang et al. 2023, DepGraph, arXiv 2301.12900). Left alone
it also prunes the widths that residuals and skip connections share, which destroys the pictures, so only the interior
is open to it: ResNet interiors, whole attention heads, feed-forward neurons. Unlike ours, its ResNet units cut across
norm groups (one channel out of each), so the statistics of GroupNorm change. It never touches the time MLP.

Of its result only the module in memory is used: `save_pretrained` writes it, `from_pretrained` cannot read it.
"""

from __future__ import annotations

import copy
from typing import Any, Literal

import torch_pruning
from torch import nn

from gencompress.domains.diffusion.costs import example_inputs, trace
from gencompress.domains.diffusion.domain import Diffusion
from gencompress.errors import BudgetError

RATIOS = [n / 10 for n in range(1, 10)]  # of the channels and heads that are left, taken by one round of pruning ...
HALVINGS = 7  # ... and how often the last round is halved, so that it ends at the budget
TAYLOR_BATCHES, BATCH = 20, 16  # the calibration data of our own Taylor scores in the quality benchmark
Importance = Literal["magnitude", "taylor"]


def torch_pruned(
    model: Diffusion, keep: float, metric: Literal["params", "macs"], importance: Importance
) -> tuple[Diffusion, int]:
    """Prune with torch-pruning to the budget that `gencompress.core.budget.Budget(metric, keep)` stands for.

    Of its settings those that did best on `emoji32_ddpm`: rounds of pruning and ranking anew, not one shot; magnitudes
    normalised by the mean of a layer and ranked over all layers, which is its default; Taylor scores as they are,
    ranked over layers of a kind (isomorphic pruning, ECCV 2024). By default the Taylor row is 3 to 14 dB worse; not
    normalised but ranked over all layers, it does not get down to 0.7 of the parameters.

    Args:
        model: stays as it is; a UNet pipeline, its kinds of groups define what counts as prunable.
        keep: share of the prunable cost that may remain, in (0, 1).
        metric: what is counted, by our own counters on the pruned module.
        importance: group L2 norm, or |w * dL/dw| of the denoising loss.

    Returns:
        The pruned pipeline and its cost, at most ``dense - (1 - keep) * prunable``. Its steps are coarser than ours,
        so it may end a few percent below.

    Raises:
        BudgetError: a round takes nothing off any more, or all heads of a layer.
    """
    cost = model.cost(metric)
    limit = cost.dense - (1 - keep) * cost.prunable
    module: Any = copy.deepcopy(model.denoiser).requires_grad_(True)  # torch-pruning traces along the autograd graph
    if importance == "taylor":
        _accumulate_gradients_(model.with_denoiser(module))
    ratio, pruned, reached = _round(module, cost.dense, importance, metric)
    while reached > limit:
        module = pruned
        ratio, pruned, reached = _round(module, reached, importance, metric)
    low, high = 0.0, ratio
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        candidate, cost_there = _pruned(module, middle, importance, metric)
        low, high = (low, middle) if cost_there <= limit else (middle, high)
        if reached <= cost_there <= limit:
            pruned, reached = candidate, cost_there
    pruned.zero_grad(set_to_none=True)
    return model.with_denoiser(pruned.requires_grad_(False)), reached


def _round(
    module: nn.Module, before: int, importance: Importance, metric: Literal["params", "macs"]
) -> tuple[float, nn.Module, int]:
    """The least of `RATIOS` that takes something off, what it leaves, and the cost of that.

    A round may take off nothing, as torch-pruning leaves a layer dense that it would empty.
    """
    for ratio in RATIOS:
        pruned, reached = _pruned(module, ratio, importance, metric)
        if reached < before:
            return ratio, pruned, reached
    raise BudgetError(f"torch-pruning does not get below {before} {metric}: ask for a larger keep")


def _accumulate_gradients_(model: Diffusion) -> None:
    """Leave the denoising loss's gradient, summed over all steps of the run, in the parameters."""
    for index in range(TAYLOR_BATCHES):
        model.subject.losses(index, BATCH).mean().backward()


def _pruned(
    dense: nn.Module, ratio: float, importance: Importance, metric: Literal["params", "macs"]
) -> tuple[nn.Module, int]:
    """A copy of `dense` from which one round took `ratio` of the channels and of the heads, and its cost."""
    module: Any = copy.deepcopy(dense)
    for ours, theirs in zip(module.parameters(), dense.parameters(), strict=True):
        ours.grad = None if theirs.grad is None else theirs.grad.clone()  # deepcopy drops it
    roots, heads, halves = _roots(module)
    layers = [m for m in module.modules() if isinstance(m, (nn.Conv2d, nn.Linear)) and m not in roots]
    torch_pruning.pruner.BasePruner(
        module,
        example_inputs(module),
        _scorer(importance),
        global_pruning=True,
        isomorphic=importance == "taylor",
        pruning_ratio=ratio,
        ignored_layers=layers,
        num_heads=dict(heads),
        prune_num_heads=True,
        prune_head_dims=False,
        head_pruning_ratio=ratio,
        # Value and gate of a GEGLU neuron are ranked as one unit; otherwise either half drags the other along. All
        # dictionaries are given because the defaults are shared by all pruners of a process.
        out_channel_groups=dict.fromkeys(halves, 2),
        in_channel_groups={},
    ).step()
    _repair_(module, heads)
    return module, _cost(module, metric)


def _scorer(importance: Importance) -> Any:
    if importance == "taylor":
        return torch_pruning.importance.GroupTaylorImportance(normalizer=None)
    return torch_pruning.importance.GroupMagnitudeImportance()


def _roots(unet: nn.Module) -> tuple[set[nn.Module], dict[nn.Module, int], set[nn.Module]]:
    """Layers whose outputs may be pruned, heads of those that are split into heads, and projections of GEGLU."""
    from diffusers.models.activations import GEGLU
    from diffusers.models.attention import FeedForward
    from diffusers.models.attention_processor import Attention
    from diffusers.models.resnet import ResnetBlock2D

    roots: set[nn.Module] = set()
    heads: dict[nn.Module, int] = {}
    halves: set[nn.Module] = set()
    for module in unet.modules():
        part: Any = module
        if isinstance(module, ResnetBlock2D):
            roots |= {part.conv1, part.time_emb_proj}
        elif isinstance(module, Attention):
            heads |= dict.fromkeys((part.to_q, part.to_k, part.to_v), part.heads)
        elif isinstance(module, FeedForward):
            roots.add(part.net[0].proj)
            if isinstance(part.net[0], GEGLU):
                halves.add(part.net[0].proj)
    return roots | set(heads), heads, halves


def _repair_(unet: nn.Module, heads: dict[nn.Module, int]) -> None:
    """Tell the attention modules how many heads they have left, which torch-pruning does not.

    The count comes from the widths: the pruner's own one is off where it decided to empty a module and then did not.
    """
    from diffusers.models.attention_processor import Attention

    for module in unet.modules():
        if isinstance(module, Attention):
            attn: Any = module
            if not attn.to_q.out_features:
                raise BudgetError("torch-pruning takes all heads of a layer: ask for a larger keep")
            width = attn.inner_dim // heads[attn.to_q]
            attn.inner_dim = attn.inner_kv_dim = attn.to_q.out_features
            attn.heads = attn.sliceable_head_dim = attn.inner_dim // width


def _cost(module: nn.Module, metric: Literal["params", "macs"]) -> int:
    """Parameters, or MACs of one forward at batch 1, as `gencompress.core.cost.CostModel` counts them."""
    sizes = {name: p.numel() for name, p in module.named_parameters()}
    if metric == "params":
        return sum(sizes.values())
    work = trace(module)
    return sum(sizes[name] * n for name, n in work.positions.items()) + sum(work.products.values())
