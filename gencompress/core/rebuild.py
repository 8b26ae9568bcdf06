"""From a plan and an empty copy of the architecture to the pruned module: what every removal of a network shares."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from gencompress.core.group import Groups
from gencompress.core.plan import Plan, fingerprint
from gencompress.core.prune import narrow, removed_blocks, renamed

Spec = dict[str, dict[str, Any]]


def require_fitting(plan: Plan, groups: Groups, tensors: Mapping[str, Tensor], *, other_weights: bool = False) -> None:
    """Raise `PlanError` unless `plan` was made for `groups`, and for these weights if it names any.

    Args:
        plan: what stays.
        groups: groups of the model.
        tensors: its state dict.
        other_weights: weights of equal shapes are enough (another fine-tune of the same base).
    """
    plan.check_groups(groups)
    if plan.source.get("weights") or plan.source.get("shapes"):
        plan.check_source(fingerprint(tensors), other_weights=other_weights)


def merged_spec(before: Mapping[str, Any] | None, spec: Spec, removed: Mapping[str, list[int]]) -> Spec:
    """`spec` on top of that of an earlier pruning, whose module paths move with the removed blocks.

    Args:
        before: ``{"modules": spec}`` of the earlier pruning; None if there was none.
        spec: `gencompress.core.prune.resize_spec` of this one.
        removed: `gencompress.core.prune.removed_blocks` of this one.
    """
    modules: Spec = {}
    for path, entry in (before["modules"] if before else {}).items():
        moved = renamed(path, removed)
        if moved is not None:
            modules[moved] = dict(entry)
    for path, entry in spec.items():
        modules.setdefault(path, {}).update(entry)
    return modules


def fill_(new: nn.Module, old: nn.Module, groups: Groups, plan: Plan) -> None:
    """Give `new`, the pruned architecture on the meta device, the weights that `plan` leaves of `old`.

    No tensor is shared with `old`. Which weights want gradients, buffers that no state dict holds, and the mode (train
    or eval) are carried over.
    """
    tensors, removed = old.state_dict(), removed_blocks(groups, plan)
    narrowed = _owned(tensors, narrow(tensors, groups, plan))
    new.load_state_dict(narrowed, assign=True)
    flags = {renamed(name, removed): p.requires_grad for name, p in old.named_parameters()}
    for name, parameter in new.named_parameters():
        parameter.requires_grad_(flags[name])
    buffers = {renamed(name, removed): buffer for name, buffer in old.named_buffers()}
    for name, buffer in new.named_buffers():
        if name not in narrowed:
            parent, _, leaf = name.rpartition(".")
            setattr(new.get_submodule(parent), leaf, buffers[name].to(buffer.dtype).clone())
    new.train(old.training)


def _owned(tensors: Mapping[str, Tensor], narrowed: dict[str, Tensor]) -> dict[str, Tensor]:
    """`narrowed` with clones of those tensors that narrowing left untouched, hence shared with the input."""
    given = {id(tensor) for tensor in tensors.values()}
    return {name: tensor.clone() if id(tensor) in given else tensor for name, tensor in narrowed.items()}
