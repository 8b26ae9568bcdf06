"""Turn a dense module into the pruned architecture, from explicit shapes.

Self-contained on purpose: `portable` exports carry a copy of this file, so it imports torch alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn


class ScatterLinear(nn.Linear):
    """A Linear of which only some outputs are computed; the others are zero.

    ``y[..., index] = x @ weight.T + bias`` in an output of `full_features` channels. `index` [out_features] is a
    buffer, so it travels in the state dict.
    """

    index: Tensor

    def __init__(
        self, in_features: int, out_features: int, full_features: int, bias: bool = True, **kwargs: Any
    ) -> None:
        super().__init__(in_features, out_features, bias=bias, **kwargs)
        self.full_features = full_features
        device = self.weight.device
        self.register_buffer("index", torch.arange(out_features, dtype=torch.int64, device=device))
        self.computed = nn.Identity()  # its output is where gates on the remaining units act

    def reset_parameters(self) -> None:
        """Leave the weights alone: they come from the dense layer."""

    def forward(self, input: Tensor) -> Tensor:
        """[..., in_features] -> [..., full_features]."""
        y = self.computed(super().forward(input))
        out = y.new_zeros(*y.shape[:-1], self.full_features)
        return out.index_copy(-1, self.index, y)


def resize_(module: nn.Module, spec: Mapping[str, Mapping[str, Any]]) -> None:
    """Give parameters of `module` the shapes in `spec`, uninitialised, and set the attributes that follow.

    Args:
        spec: by module path, parameter name -> shape (list) and attribute name -> value (int); ``scatter`` turns a
            Linear into a `ScatterLinear` with that many outputs.

    Raises:
        ValueError: a path, parameter or attribute does not exist, naming it.
    """
    for path, entry in spec.items():
        try:
            target = module.get_submodule(path)
        except AttributeError as error:
            raise ValueError(f"the pruning config names {path!r}, which this architecture does not have") from error
        if "scatter" in entry:
            target = _scattered(module, path, target, int(entry["scatter"]), entry["weight"][0])
        for name, value in entry.items():
            if name == "scatter":
                continue
            if isinstance(value, list):
                _reshape(target, path, name, value)
            elif hasattr(target, name):
                setattr(target, name, value)
            else:
                raise ValueError(f"the pruning config sets {path}.{name}, which this architecture does not have")
        _follow(target)


def _scattered(root: nn.Module, path: str, linear: nn.Module, full: int, kept: int) -> ScatterLinear:
    weight = linear.weight
    assert isinstance(weight, Tensor)
    like = {"device": weight.device, "dtype": weight.dtype}
    thin = ScatterLinear(weight.shape[1], kept, full, bias=linear.bias is not None, **like)
    parent, _, name = path.rpartition(".")
    setattr(root.get_submodule(parent), name, thin)
    return thin


def _reshape(module: nn.Module, path: str, name: str, shape: list[int]) -> None:
    old = getattr(module, name, None)
    if not isinstance(old, Tensor) or len(shape) != old.ndim:
        raise ValueError(f"the pruning config reshapes {path}.{name} to {shape}, but there is no {len(shape)}-d tensor")
    empty = torch.empty(shape, dtype=old.dtype, device=old.device)
    setattr(module, name, nn.Parameter(empty, requires_grad=old.requires_grad))


def _follow(module: nn.Module) -> None:
    """Bring the sizes that torch's own layers keep beside their weights in step."""
    weight = getattr(module, "weight", None)
    if not isinstance(weight, Tensor):
        return
    if isinstance(module, nn.Linear):
        module.out_features, module.in_features = weight.shape
    elif isinstance(module, nn.modules.conv._ConvNd) and not module.transposed:
        module.out_channels, module.in_channels = weight.shape[0], weight.shape[1] * module.groups
    elif isinstance(module, nn.GroupNorm):
        module.num_channels = weight.shape[0]
    elif isinstance(module, nn.LayerNorm):
        module.normalized_shape = tuple(weight.shape)
