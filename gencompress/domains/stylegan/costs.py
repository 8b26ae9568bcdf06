"""Costs of a generator: the traced work of one picture, and the exact cost model of its groups."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import nn

from gencompress.core.cost import CostModel, Metric, Work, cost_of
from gencompress.core.group import Groups
from gencompress.core.trace import on_meta, trace_work
from gencompress.domains.stylegan.fir import Blur, Upsample


def cost_model(generator: nn.Module, groups: Groups, metric: Metric = "params", *, filters: bool = True) -> CostModel:
    """The exact cost of every plan for `groups`.

    Args:
        generator: dense or pruned before.
        groups: of `generator`.
        metric: parameters, MACs of one picture from z on, or bytes of weights.
        filters: whether MACs count the low-pass filters; papers leave them out.
    """
    return cost_of(generator, groups, metric, partial(trace, filters=filters))


def trace(generator: nn.Module, *, filters: bool = True) -> Work:
    """MACs of one picture, found on the meta device: no weight is read or copied.

    Args:
        generator: dense or pruned.
        filters: as in `cost_model`.
    """
    twin: Any = on_meta(generator)
    z = torch.zeros(1, twin.config.style_dim, device="meta")
    work = trace_work(twin, lambda: twin(z))
    if filters:
        return work
    left_out = {path for path, module in twin.named_modules() if isinstance(module, (Blur, Upsample))}
    return Work(work.positions, {path: macs for path, macs in work.products.items() if path not in left_out})
