"""Multiply-accumulates of one forward pass, per weight and per attention module, without running any arithmetic.

Works on the meta device, so a 12-billion-parameter transformer is traced in seconds without its weights.
"""

from __future__ import annotations

import copy
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from gencompress.core.cost import Work
from gencompress.errors import BudgetError

_CONVS = {F.conv1d, F.conv2d, F.conv3d}
_TRANSPOSED = {F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d}
_PRODUCTS = {torch.matmul, torch.linalg.matmul, Tensor.matmul, torch.bmm, Tensor.bmm, torch.mm, Tensor.mm}
_ADDED_PRODUCTS = {torch.baddbmm, Tensor.baddbmm, torch.addmm, Tensor.addmm}
_OPAQUE = {F.multi_head_attention_forward, F.bilinear}  # do products inside, out of this tracer's sight


def trace_work(module: nn.Module, forward: Callable[[], Any]) -> Work:
    """Count the MACs of ``forward()``, one call of `module` on a sample of batch 1.

    Linear and convolution weights are counted by the positions they are applied to, scaled-dot-product attention and
    other products of two activations as the work of the module that runs them. Element-wise work is not counted, as
    is the custom of the field.

    Args:
        module: whose parameters and submodules are named in the result.
        forward: calls `module` once; on the meta device it costs nothing.

    Raises:
        BudgetError: the pass uses an operation whose products cannot be attributed (``nn.MultiheadAttention``).
    """
    counter = _Counter({id(p): name for name, p in module.named_parameters()})
    with torch.no_grad(), counter.following(module), counter:
        forward()
    return Work(positions=dict(counter.positions), products=dict(counter.products))


def on_meta(module: nn.Module) -> nn.Module:
    """A copy of `module` in evaluation mode whose parameters and buffers have shapes and dtypes, but no data."""
    blank: dict[int, Any] = {}
    for parameter in module.parameters():
        empty = torch.empty_like(parameter, device="meta")
        blank[id(parameter)] = nn.Parameter(empty, requires_grad=parameter.requires_grad)
    for buffer in module.buffers():
        blank[id(buffer)] = torch.empty_like(buffer, device="meta")
    return copy.deepcopy(module, blank).eval()


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

        def leave(*_: Any) -> None:
            self.path.pop()

        handles = []
        for name, child in module.named_modules():
            handles.append(child.register_forward_pre_hook(lambda m, a, name=name: self.path.append(name)))
            handles.append(child.register_forward_hook(leave))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run `func` and count it if it multiplies matrices."""
        kwargs = kwargs or {}
        out = func(*args, **kwargs)

        def given(position: int, name: str) -> Any:
            return args[position] if len(args) > position else kwargs[name]

        if func is F.linear:
            x, weight = given(0, "input"), given(1, "weight")
            self._weighted(weight, x.numel() * weight.shape[:-1].numel())
        elif func in _CONVS or func in _TRANSPOSED:
            x, weight = given(0, "input"), given(1, "weight")
            grid = x if func in _TRANSPOSED else out
            channels = grid.shape[1 - weight.ndim]  # the batch dimension may be missing
            self._weighted(weight, grid.numel() // max(channels, 1) * weight.numel())
        elif func is F.scaled_dot_product_attention:
            q, k, v = given(0, "query"), given(1, "key"), given(2, "value")
            self._unweighted(q.shape[:-1].numel() * k.shape[-2] * (q.shape[-1] + v.shape[-1]))
        elif func in _PRODUCTS or func in _ADDED_PRODUCTS:
            first = 0 if func in _PRODUCTS else 1
            self._product(args[first], args[first + 1], out)
        elif func is torch.einsum:
            self._unweighted(_einsum_macs(out, *args))
        elif func in _OPAQUE:
            raise BudgetError(f"{self.path[-1] or 'the model'} calls {func.__name__}, whose MACs cannot be traced")
        return out

    def _product(self, left: Tensor, right: Tensor, out: Tensor) -> None:
        macs = out.numel() * left.shape[-1]
        weights = [t for t in (left, right) if id(t) in self.names]
        if len(weights) == 1:
            self._weighted(weights[0], macs)
        else:
            self._unweighted(macs)

    def _weighted(self, weight: Tensor, macs: int) -> None:
        name = self.names.get(id(weight))
        if name is None:  # a weight made on the fly shrinks as its module says, if at all
            self._unweighted(macs)
        elif weight.numel():
            self.positions[name] += macs // weight.numel()

    def _unweighted(self, macs: int) -> None:
        self.products[self.path[-1]] += macs


def _einsum_macs(out: Tensor, equation: Any, *operands: Any) -> int:
    """Output elements times the sizes of the summed indices; nothing is summed in transpositions and outer products."""
    tensors = operands[0] if len(operands) == 1 and not isinstance(operands[0], Tensor) else operands
    if not isinstance(equation, str) or len(tensors) > 2:
        raise BudgetError(f"the MACs of an einsum of {len(tensors)} operands cannot be traced; write it as matmuls")
    inputs, arrow, result = equation.replace(" ", "").partition("->")
    if len(tensors) < 2:
        return 0
    sizes: dict[str, int] = {}
    for labels, tensor in zip(inputs.split(","), tensors, strict=True):
        head, _, tail = labels.partition("...")
        sizes.update(zip(head, tensor.shape, strict=False))
        sizes.update(zip(reversed(tail), reversed(tensor.shape), strict=False))
    summed = [n for i, n in sizes.items() if (i not in result if arrow else inputs.count(i) > 1)]
    return out.numel() * math.prod(summed) if summed else 0
