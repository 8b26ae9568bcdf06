"""Turn a dense module into the pruned architecture, from explicit shapes.

Self-contained on purpose: `portable` exports carry a copy of this file, so it imports torch alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ScatterLinear(nn.Module):
    """A Linear of which only some outputs are computed; the others are zero.

    ``y[..., index] = x @ weight.T + bias`` in an output of `full_features` channels. `index` [out_features] is a
    buffer, so it travels in the state dict. It is no `nn.Linear`, so that peft, which could not add a LoRA of the
    computed outputs to the full ones, refuses it when the adapter is attached and not at the first forward.
    """

    index: Tensor
    bias: Tensor | None

    def __init__(
        self, in_features: int, out_features: int, full_features: int, bias: bool = True, **kwargs: Any
    ) -> None:
        super().__init__()
        self.in_features, self.out_features, self.full_features = in_features, out_features, full_features
        self.weight = nn.Parameter(torch.empty(out_features, in_features, **kwargs))  # values come from the dense layer
        self.register_parameter("bias", nn.Parameter(torch.empty(out_features, **kwargs)) if bias else None)
        self.register_buffer("index", torch.arange(out_features, dtype=torch.int64, device=self.weight.device))
        self.computed = nn.Identity()  # its output is where gates on the remaining units act

    def forward(self, input: Tensor) -> Tensor:
        """[..., in_features] -> [..., full_features]."""
        y = self.computed(F.linear(input, self.weight, self.bias))
        out = y.new_zeros(*y.shape[:-1], self.full_features)
        return out.index_copy(-1, self.index, y)


def resize_(module: nn.Module, spec: Mapping[str, Mapping[str, Any]]) -> None:
    """Give tensors of `module` the shapes in `spec`, uninitialised, and set the attributes that follow.

    Removal only shrinks, so a spec from a foreign file can neither claim memory nor set anything but smaller integers.

    Args:
        module: the dense architecture, or one pruned before.
        spec: by module path, tensor name -> shape (list) and attribute name -> value (int); ``scatter``, the number of
            dense outputs, turns a Linear into a `ScatterLinear`.

    Raises:
        ValueError: a path, tensor or attribute does not exist or cannot be shrunk as asked, naming it.
    """
    if not isinstance(spec, Mapping):
        raise ValueError(f"the pruning config must map module paths to sizes, not be of type {type(spec).__name__}")
    for path, entry in spec.items():
        try:
            target = module.get_submodule(path)
        except AttributeError as error:
            raise ValueError(f"the pruning config names {path!r}, which this architecture does not have") from error
        if not isinstance(entry, Mapping):
            raise ValueError(f"the pruning config of {path!r} must map names to sizes")
        if "scatter" in entry:
            target = _scattered(module, path, target, entry)
        for name, value in entry.items():
            if isinstance(value, (list, tuple)):
                _reshape(target, path, name, list(value))
            elif name != "scatter":
                _set_smaller(target, path, name, value)
        _follow(target)


def _scattered(root: nn.Module, path: str, linear: nn.Module, entry: Mapping[str, Any]) -> ScatterLinear:
    if not isinstance(linear, nn.Linear):
        raise ValueError(f"the pruning config scatters the outputs of {path!r}, which is no plain Linear")
    shape = entry.get("weight")
    if entry["scatter"] != linear.out_features or not isinstance(shape, (list, tuple)):
        raise ValueError(
            f"the pruning config of {path!r} needs scatter={linear.out_features} and the shape of 'weight'"
        )
    kept = _shrunk(shape, linear.weight.shape, path, "weight")[0]
    like = {"device": linear.weight.device, "dtype": linear.weight.dtype}
    thin = ScatterLinear(linear.in_features, kept, linear.out_features, bias=linear.bias is not None, **like)
    thin.requires_grad_(linear.weight.requires_grad)
    parent, _, name = path.rpartition(".")
    setattr(root.get_submodule(parent), name, thin)
    return thin


def _reshape(module: nn.Module, path: str, name: str, shape: Sequence[Any]) -> None:
    old = getattr(module, name, None)
    if not isinstance(old, Tensor) or len(shape) != old.ndim:
        raise ValueError(f"the pruning config reshapes {path}.{name} to {shape}, but there is no {len(shape)}-d tensor")
    empty = torch.empty(_shrunk(shape, old.shape, path, name), dtype=old.dtype, device=old.device)
    is_buffer = name in module._buffers
    setattr(module, name, empty if is_buffer else nn.Parameter(empty, requires_grad=old.requires_grad))


def _shrunk(shape: Sequence[Any], old: Sequence[int], path: str, name: str) -> list[int]:
    if len(shape) != len(old) or not all(type(n) is int and 0 <= n <= m for n, m in zip(shape, old, strict=True)):
        raise ValueError(f"the pruning config reshapes {path}.{name} from {list(old)} to {shape}, which is not smaller")
    return list(shape)


def _set_smaller(module: nn.Module, path: str, name: str, value: Any) -> None:
    old = getattr(module, name, None)
    if type(old) is not int:
        raise ValueError(f"the pruning config sets {path}.{name}, which is no integer of this architecture")
    if type(value) is not int or not 0 <= value <= old:
        raise ValueError(f"the pruning config sets {path}.{name} to {value!r}, which is not in [0, {old}]")
    setattr(module, name, value)


def _follow(module: nn.Module) -> None:
    """Bring the sizes that torch's own layers keep beside their weights in step."""
    weight = getattr(module, "weight", None)
    if not isinstance(weight, Tensor):
        return
    if isinstance(module, (nn.Linear, ScatterLinear)):
        module.out_features, module.in_features = weight.shape
        if isinstance(module, ScatterLinear):
            module.index = module.index[: module.out_features].clone()  # values come with the weights
    elif isinstance(module, nn.modules.conv._ConvNd):
        first, second = weight.shape[0], weight.shape[1] * module.groups
        module.out_channels, module.in_channels = (second, first) if module.transposed else (first, second)
    elif isinstance(module, nn.GroupNorm):
        module.num_channels = weight.shape[0]
    elif isinstance(module, nn.modules.batchnorm._NormBase):
        module.num_features = weight.shape[0]
    elif isinstance(module, (nn.LayerNorm, nn.RMSNorm)):
        module.normalized_shape = tuple(weight.shape)
    elif isinstance(module, nn.Embedding):
        module.num_embeddings, module.embedding_dim = weight.shape
