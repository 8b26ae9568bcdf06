"""Checkpoints as people hold them, made without the code that makes them: NVIDIA's pickle and rosinality's file.

The classes that NVIDIA's pickle names exist only while it is written.
"""

from __future__ import annotations

import pickle
import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn

from tests.domains.stylegan import reference

FILTER = torch.outer(torch.tensor([1.0, 3, 3, 1]), torch.tensor([1.0, 3, 3, 1])) / 64


class EasyDict(dict[str, Any]):
    """Stands in for a class of the same name in NVIDIA's files."""


class Persistent(nn.Module):
    """A module that pickles itself as theirs do: its source text, the name of its class, and its attributes."""

    def __init__(self, kind: str, **attributes: Any) -> None:
        super().__init__()
        self.kind = kind
        self._init_args: tuple[Any, ...] = ()
        self._init_kwargs = EasyDict(attributes)
        for name, value in attributes.items():
            setattr(self, name, value)

    def __reduce__(self) -> Any:
        source = "raise SystemError('the source text in the file was executed')"
        state = {name: value for name, value in self.__dict__.items() if name != "kind"}
        meta = EasyDict(type="class", version=6, module_src=source, class_name=self.kind, state=state)
        return sys.modules["torch_utils.persistence"]._reconstruct_persistent_obj, (meta,)


@contextmanager
def their_modules() -> Iterator[None]:
    """The modules that their pickles name."""
    names = ("torch_utils", "torch_utils.persistence", "dnnlib", "dnnlib.util")
    made = {name: types.ModuleType(name) for name in names}

    def _reconstruct_persistent_obj(meta: Any) -> Any:
        raise SystemError("their reader was called")

    _reconstruct_persistent_obj.__module__ = "torch_utils.persistence"
    _reconstruct_persistent_obj.__qualname__ = "_reconstruct_persistent_obj"
    made["torch_utils.persistence"]._reconstruct_persistent_obj = _reconstruct_persistent_obj  # type: ignore
    made["dnnlib.util"].EasyDict = EasyDict  # type: ignore[attr-defined]
    before = EasyDict.__module__
    sys.modules.update(made)
    EasyDict.__module__ = "dnnlib.util"
    try:
        yield
    finally:
        EasyDict.__module__ = before
        for name in names:
            del sys.modules[name]


def _linear(inputs: int, outputs: int, activation: str = "linear", lr: float = 1.0, bias: float = 0.0) -> Persistent:
    gains = {"weight_gain": lr / np.sqrt(inputs), "bias_gain": lr}  # the first is a number of numpy
    layer = Persistent("FullyConnectedLayer", activation=activation, **gains)
    layer.weight = nn.Parameter(torch.randn(outputs, inputs) / lr)
    layer.bias = nn.Parameter(torch.randn(outputs) / lr * 0.1 + bias)
    return layer


def _synthesis_layer(inputs: int, outputs: int, size: int, up: int, dim: int, clamp: float | None) -> Persistent:
    layer = Persistent("SynthesisLayer", resolution=size, up=up, activation="lrelu", conv_clamp=clamp, padding=1,
                       use_noise=True, act_gain=np.sqrt(2))  # fmt: skip
    layer.affine = _linear(dim, inputs, bias=1.0)
    layer.weight = nn.Parameter(torch.randn(outputs, inputs, 3, 3))
    layer.noise_strength = nn.Parameter(torch.randn([]) * 0.3)
    layer.bias = nn.Parameter(torch.randn(outputs) * 0.1)
    layer.register_buffer("resample_filter", FILTER.clone())
    layer.register_buffer("noise_const", torch.randn(size, size))
    return layer


def _to_rgb(inputs: int, dim: int, clamp: float | None) -> Persistent:
    layer = Persistent("ToRGBLayer", conv_clamp=clamp, weight_gain=1 / np.sqrt(inputs))
    layer.affine = _linear(dim, inputs, bias=1.0)
    layer.weight = nn.Parameter(torch.randn(3, inputs, 1, 1))
    layer.bias = nn.Parameter(torch.randn(3) * 0.1)
    return layer


def nvidia_generator(widths: dict[int, int], dim: int = 10, layers: int = 2, clamp: float | None = 256) -> Persistent:
    """A generator as NVIDIA's file has it; `widths` by resolution, from 4 px."""
    sizes = sorted(widths)
    shape = {"z_dim": dim, "c_dim": 0, "w_dim": dim, "img_channels": 3, "img_resolution": sizes[-1]}
    generator = Persistent("Generator", **shape)
    mapping = Persistent("MappingNetwork", num_layers=layers, w_avg_beta=0.995, **shape)
    for i in range(layers):
        setattr(mapping, f"fc{i}", _linear(dim, dim, "lrelu", 0.01))
    mapping.register_buffer("w_avg", torch.randn(dim))
    synthesis = Persistent("SynthesisNetwork", block_resolutions=sizes, channels_last=False)
    for size in sizes:
        block = Persistent("SynthesisBlock", architecture="skip", in_channels=widths.get(size // 2, 0))
        block.register_buffer("resample_filter", FILTER.clone())
        if size == 4:
            block.const = nn.Parameter(torch.randn(widths[4], 4, 4))
        else:
            block.conv0 = _synthesis_layer(widths[size // 2], widths[size], size, 2, dim, clamp)
        block.conv1 = _synthesis_layer(widths[size], widths[size], size, 1, dim, clamp)
        block.torgb = _to_rgb(widths[size], dim, clamp)
        setattr(synthesis, f"b{size}", block)
    generator.synthesis, generator.mapping = synthesis, mapping
    return generator.eval().requires_grad_(False)


def _conv(inputs: int, outputs: int, size: int, clamp: float | None, bias: bool = True) -> Persistent:
    gains = {"weight_gain": 1 / np.sqrt(inputs * size**2), "act_gain": np.sqrt(2) if bias else 1}
    layer = Persistent("Conv2dLayer", activation="lrelu" if bias else "linear", conv_clamp=clamp, **gains)
    layer.weight = nn.Parameter(torch.randn(outputs, inputs, size, size))
    layer.bias = nn.Parameter(torch.randn(outputs) * 0.1) if bias else None
    layer.register_buffer("resample_filter", FILTER.clone())
    return layer


def nvidia_discriminator(widths: dict[int, int], clamp: float | None = 256, group: int = 4) -> Persistent:
    """A discriminator as NVIDIA's file has it; `widths` by resolution, from 4 px."""
    sizes = sorted(widths, reverse=True)
    network = Persistent("Discriminator", c_dim=0, img_resolution=sizes[0], img_channels=3)
    for i, size in enumerate(sizes[:-1]):
        block = Persistent("DiscriminatorBlock", architecture="resnet", resolution=size)
        block.register_buffer("resample_filter", FILTER.clone())
        if i == 0:
            block.fromrgb = _conv(3, widths[size], 1, clamp)
        block.conv0 = _conv(widths[size], widths[size], 3, clamp)
        block.conv1 = _conv(widths[size], widths[sizes[i + 1]], 3, clamp)
        block.skip = _conv(widths[size], widths[sizes[i + 1]], 1, None, bias=False)
        setattr(network, f"b{size}", block)
    block, c = Persistent("DiscriminatorEpilogue", architecture="resnet"), widths[4]
    block.mbstd = Persistent("MinibatchStdLayer", group_size=group, num_channels=1)
    block.conv = _conv(c + 1, c, 3, clamp)
    block.fc, block.out = _linear(16 * c, c, "lrelu"), _linear(c, 1)
    network.b4 = block
    return network.eval().requires_grad_(False)


def nvidia_pickle(generator: Persistent, discriminator: Persistent | None = None, protocol: int = 4) -> bytes:
    """The bytes of ``network-snapshot.pkl``."""
    content = {"training_set_kwargs": EasyDict(path="data.zip", xflip=True), "G": None, "D": discriminator,
               "G_ema": generator, "augment_pipe": None}  # fmt: skip
    with their_modules():
        return pickle.dumps(content, protocol=protocol)


def _fc(t: dict[str, Any], name: str, x: Any, lr: float = 1.0) -> Any:
    weight = t[f"{name}.weight"]
    return (weight * (lr / np.sqrt(weight.shape[1]))) @ x + t[f"{name}.bias"] * lr


def nvidia_forward(generator: Persistent, z: Any, layers: int = 2, clamp: float | None = 256) -> Any:
    """One picture as NVIDIA's network makes it, in numpy, with the gains where they have them."""
    t = {name: tensor.double().numpy() for name, tensor in generator.state_dict().items()}
    x = z * (1 / np.sqrt((z**2).mean() + 1e-8))
    for i in range(layers):
        x = reference.lrelu(_fc(t, f"mapping.fc{i}", x, 0.01))
    w, picture, x = x, None, t["synthesis.b4.const"]
    sizes = sorted({int(n.split(".")[1][1:]) for n in t if n.startswith("synthesis.b")})
    for size in sizes:
        for conv in (0, 1) if size > 4 else (1,):
            name = f"synthesis.b{size}.conv{conv}"
            style = _fc(t, f"{name}.affine", w)
            weight = t[f"{name}.weight"] * style[:, None, None]
            norm = 1 / np.sqrt((weight**2).sum((1, 2, 3)) + 1e-8)
            if conv:
                x = reference.convolve(x, weight)
            else:
                x = reference.filtered(reference.scattered(x, weight), 1, 1, 4)
            x = x * norm[:, None, None] + t[f"{name}.noise_const"] * t[f"{name}.noise_strength"]
            x = reference.clamped(reference.lrelu(x + t[f"{name}.bias"][:, None, None]), clamp)
        name = f"synthesis.b{size}.torgb"
        style = _fc(t, f"{name}.affine", w) * (1 / np.sqrt(x.shape[0]))
        y = reference.convolve(x, t[f"{name}.weight"] * style[:, None, None])
        y = reference.clamped(y + t[f"{name}.bias"][:, None, None], clamp)
        picture = y if picture is None else y + reference.filtered(reference.zeros_between(picture), 2, 1, 4)
    return picture
