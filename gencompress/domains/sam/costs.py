"""Costs of a SAM image encoder: the forward of one image, its traced work, and the exact cost model of its groups."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from gencompress.core.cost import CostModel, Metric, Work, cost_of
from gencompress.core.group import Groups
from gencompress.core.trace import on_meta, trace_work


def cost_model(encoder: nn.Module, groups: Groups, metric: Metric = "params", *, attention: bool = True) -> CostModel:
    """The exact cost of every plan for `groups`: of the encoder alone, without prompt encoder and mask decoder.

    Args:
        encoder: dense or pruned before.
        groups: of `encoder`.
        metric: parameters, MACs of one image, or bytes of weights.
        attention: whether MACs count the products of attention; papers on SAM often leave them out.
    """
    return cost_of(encoder, groups, metric, partial(trace, attention=attention))


def trace(encoder: nn.Module, *, attention: bool = True) -> Work:
    """MACs of one image at the encoder's resolution, found on the meta device: no weight is read or copied.

    Args:
        encoder: dense or pruned.
        attention: as in `cost_model`.
    """
    twin = on_meta(encoder)
    image = example_image(twin, "meta")
    work = trace_work(twin, lambda: twin(image))
    return work if attention else Work(work.positions, {})


def example_image(encoder: Any, device: torch.device | str = "cpu") -> Tensor:
    """Zeros of the shape and dtype of one image [1, channels, height, width]."""
    config = getattr(encoder.config, "backbone_config", encoder.config)
    size = config.image_size
    height, width = (size, size) if isinstance(size, int) else size
    dtype = next(encoder.parameters()).dtype
    return torch.zeros(1, config.num_channels, height, width, device=device, dtype=dtype)
