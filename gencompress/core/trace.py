"""Multiply-accumulates of one forward pass, per weight and per attention module, without running any arithmetic.

Works on the meta device, so a 12-billion-parameter transformer is traced in seconds without its weights.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from gencompress.core.cost import Work

_CONVS = {F.conv1d, F.conv2d, F.conv3d}
_TRANSPOSED = {F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d}
_PRODUCTS = {torch.matmul, torch.bmm, Tensor.matmul, Tensor.bmm, Tensor.__matmul__}


def trace_work(module: nn.Module, forward: Callable[[], Any]) -> Work:
    """Count the MACs of ``forward()``, one call of `module` on a sample of batch 1.

    Linear and convolution weights are counted by the positions they are applied to, scaled-dot-product attention and
    other products of two activations as the work of the module that runs them. Element-wise work is not counted, as
    is the custom of the field.
    """
    counter = _Counter({id(p): name for name, p in module.named_parameters()})
    with torch.no_grad(), counter.following(module), counter:
        forward()
    return Work(positions=dict(counter.positions), products=dict(counter.products))


class _Counter(TorchFunctionMode):
    def __init__(self, names: dict[int, str]) -> None:
        super().__init__()
        self.names = names
        self.positions: Counter[str] = Counter()
        self.products: Counter[str] = Counter()
        self.path: list[str] = [""]

    @contextmanager
    def following(self, module: nn.Module) -> Iterator[None]:
        """Keep `path` at the innermost module that is running."""
        handles = []
        for name, child in module.named_modules():
            handles.append(child.register_forward_pre_hook(lambda m, a, name=name: self.path.append(name)))
            handles.append(child.register_forward_hook(lambda m, a, o: (self.path.pop(), None)[1]))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def __torch_function__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        if func is F.linear:
            weight = args[1] if len(args) > 1 else kwargs["weight"]
            self._weighted(weight, args[0].numel() // max(weight.shape[1], 1))
        elif func in _CONVS or func in _TRANSPOSED:
            weight = args[1] if len(args) > 1 else kwargs["weight"]
            grid = args[0] if func in _TRANSPOSED else out
            self._weighted(weight, grid.numel() // max(grid.shape[1], 1))
        elif func is F.scaled_dot_product_attention:
            q, k, v = (args[i] if len(args) > i else kwargs[n] for i, n in enumerate(("query", "key", "value")))
            self.products[self.path[-1]] += q.shape[:-1].numel() * k.shape[-2] * (q.shape[-1] + v.shape[-1])
        elif func in _PRODUCTS:
            self.products[self.path[-1]] += out.numel() * args[0].shape[-1]
        elif func is torch.baddbmm:
            self.products[self.path[-1]] += out.numel() * args[1].shape[-1]
        return out

    def _weighted(self, weight: Tensor, positions: int) -> None:
        name = self.names.get(id(weight))
        if name is None:
            self.products[self.path[-1]] += weight.numel() * positions
        else:
            self.positions[name] += positions
