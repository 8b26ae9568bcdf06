"""The networks of NVIDIA's StyleGAN2-ADA (arXiv 2006.06676) in PyTorch, tensor by tensor.

Their layers multiply weights with gains that they keep as attributes; ours compute gains from the widths. Where the
two differ, the ratio goes into the weights.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from gencompress.domains.stylegan.config import DiscriminatorConfig, GeneratorConfig
from gencompress.domains.stylegan.fir import kernel
from gencompress.errors import ModelError
from gencompress.formats.checkpoints import load_tensors
from gencompress.formats.pickles import StoredModule
from gencompress.formats.storage import StoredTensor

_MAX_MODULES, _MAX_DEPTH, _MAX_NAME = 2_000, 6, 60
_FILTER = "resample_filter"


@dataclass
class _Source:
    """A network of the file: its tensors and the attributes of its modules, by path; tensors are taken one by one."""

    path: Path
    tensors: dict[str, Tensor]
    attributes: dict[str, Mapping[str, Any]]
    taken: set[str] = field(default_factory=set)

    def take(self, name: str) -> Tensor:
        """A tensor in fp32. ModelError if there is none."""
        if name not in self.tensors:
            raise ModelError(f"{self.path}: {name} is missing: not a StyleGAN2 network of the default architecture")
        self.taken.add(name)
        return self.tensors[name].float()

    def number(self, module: str, name: str, otherwise: float) -> float:
        """An attribute of a module."""
        value = self.attributes.get(module, {}).get(name, otherwise)
        if type(value) not in (int, float) or not -1e9 < value < 1e9:
            raise ModelError(f"{self.path}: {module}.{name} is no number")
        return float(value)

    def finish(self) -> None:
        """Raise ModelError if tensors are left that nobody took."""
        left = sorted(name for name in set(self.tensors) - self.taken if not name.endswith(_FILTER))
        if left:
            raise ModelError(f"{self.path}: {left[0]} is in no StyleGAN2 network of the default architecture")
        for name, tensor in self.tensors.items():
            if name.endswith(_FILTER) and not _same_filter(tensor):
                raise ModelError(f"{self.path}: {name} is not the filter [1, 3, 3, 1]; other filters are not supported")


def nvidia_generator(path: Path, module: StoredModule) -> tuple[GeneratorConfig, dict[str, Tensor]]:
    """Config and state dict of a `Generator`. ModelError if the network is of another kind."""
    source = _open(path, module)
    if any(name.startswith("synthesis.input.") or ".magnitude_ema" in name for name in source.tensors):
        raise ModelError(f"{path}: a StyleGAN3 network, which is not supported; StyleGAN2 is")
    resolutions = _resolutions(source, "synthesis.b")
    n_mlp = sum(name.startswith("mapping.fc") and name.endswith(".weight") for name in source.tensors)
    lr_mlp = source.number("mapping.fc0", "bias_gain", 0.01)
    out: dict[str, Tensor] = {"latent_avg": source.take("mapping.w_avg")}
    for i in range(n_mlp):
        out |= _linear(source, f"mapping.fc{i}", f"style.{i + 1}", lr_mlp)
    out["input.input"] = source.take("synthesis.b4.const")[None]
    layers = [(size, conv) for size in resolutions for conv in ((1,) if size == 4 else (0, 1))]
    for i, (size, conv) in enumerate(layers):
        target = "conv1" if i == 0 else f"convs.{i - 1}"
        out |= _styled(source, f"synthesis.b{size}.conv{conv}", target, i)
    for i, size in enumerate(resolutions):
        out |= _to_rgb(source, f"synthesis.b{size}.torgb", "to_rgb1" if i == 0 else f"to_rgbs.{i - 1}")
    source.finish()
    widths = [out["input.input"].shape[1]]
    widths += [out[f"{'conv1' if i == 0 else f'convs.{i - 1}'}.conv.weight"].shape[1] for i in range(len(layers))]
    dim = out["latent_avg"].numel()
    clamp = _clamp(source, f"synthesis.b{resolutions[-1]}.conv1")
    config = GeneratorConfig.of_file(
        path,
        resolution=resolutions[-1],
        channels=tuple(widths),
        clamp=clamp,
        style_dim=dim,
        n_mlp=n_mlp,
        lr_mlp=lr_mlp,
    )
    return config, out


def nvidia_discriminator(path: Path, module: StoredModule) -> tuple[DiscriminatorConfig, dict[str, Tensor]]:
    """Config and state dict of a `Discriminator`. ModelError if the network is of another kind."""
    source = _open(path, module)
    resolutions = _resolutions(source, "b")[::-1]
    out = _plain(source, f"b{resolutions[0]}.fromrgb", "convs.0", 0)
    for i, size in enumerate(resolutions[:-1], start=1):
        out |= _plain(source, f"b{size}.conv0", f"convs.{i}.conv1", 0)
        out |= _plain(source, f"b{size}.conv1", f"convs.{i}.conv2", 1)
        out |= _plain(source, f"b{size}.skip", f"convs.{i}.skip", 1)
    out |= _plain(source, "b4.conv", "final_conv", 0)
    out |= _linear(source, "b4.fc", "final_linear.0") | _linear(source, "b4.out", "final_linear.1")
    source.finish()
    widths = [out["convs.0.0.weight"].shape[0]]
    widths += [out[f"convs.{i}.conv2.1.weight"].shape[0] for i in range(1, len(resolutions))]
    group = source.number("b4.mbstd", "group_size", 4)
    clamp = _clamp(source, "b4.conv")
    config = DiscriminatorConfig.of_file(
        path, resolution=resolutions[0], channels=tuple(widths), clamp=clamp, stddev_group=int(group)
    )
    return config, out


def _open(path: Path, module: StoredModule) -> _Source:
    stored: dict[str, StoredTensor] = {}
    attributes: dict[str, Mapping[str, Any]] = {}
    for prefix, state in _walk(path, module):
        attributes[prefix.removesuffix(".")] = state
        for kind in ("_parameters", "_buffers"):
            members = state.get(kind)
            if not isinstance(members, dict):
                raise ModelError(f"{path}: a module of the network has no {kind}")
            stored |= {f"{prefix}{_named(path, n)}": t for n, t in members.items() if isinstance(t, StoredTensor)}
    for prefix, state in attributes.items():
        if state.get("c_dim"):
            raise ModelError(f"{path}: a class-conditional network, which is not supported")
        if state.get("activation") not in (None, "lrelu", "linear"):
            raise ModelError(f"{path}: {prefix}.activation is {str(state['activation'])[:40]!r}; lrelu is supported")
    return _Source(path, load_tensors(path, stored), attributes)


def _walk(path: Path, module: StoredModule) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every module with its path, which ends in a dot, the whole network first. A file can name one of them twice."""
    todo, count = [("", module)], 1
    while todo:
        prefix, current = todo.pop()
        yield prefix, current.state
        children = current.state.get("_modules")
        if not isinstance(children, dict):
            raise ModelError(f"{path}: a module of the network has no _modules")
        count += len(children)
        if count > _MAX_MODULES or prefix.count(".") >= _MAX_DEPTH:
            raise ModelError(f"{path}: more modules, or deeper ones, than a StyleGAN2 network has")
        todo += [(f"{prefix}{_named(path, n)}.", m) for n, m in children.items() if isinstance(m, StoredModule)]


def _named(path: Path, name: Any) -> str:
    if not isinstance(name, str) or len(name) > _MAX_NAME:
        raise ModelError(f"{path}: a part of the network has a name that is none")
    return name


def _resolutions(source: _Source, prefix: str) -> list[int]:
    """4, 8, ... up to the largest for which there is a block."""
    sizes = {name.removeprefix(prefix) for name in source.attributes if name.startswith(prefix)}
    largest = max((int(size) for size in sizes if size.isdecimal() and len(size) < 6), default=0)
    found = [2**n for n in range(2, largest.bit_length())]
    if largest < 8 or largest & (largest - 1) or not {str(size) for size in found} <= sizes:
        raise ModelError(f"{source.path}: the network has no blocks from 4 px upwards: not a StyleGAN2 network")
    return found


def _linear(source: _Source, name: str, target: str, lr_mult: float = 1.0) -> dict[str, Tensor]:
    weight, bias = source.take(f"{name}.weight"), source.take(f"{name}.bias")
    gain = lr_mult / math.sqrt(weight.shape[1])
    return {
        f"{target}.weight": _folded(weight, source.number(name, "weight_gain", gain) / gain),
        f"{target}.bias": _folded(bias, source.number(name, "bias_gain", lr_mult) / lr_mult),
    }


def _styled(source: _Source, name: str, target: str, index: int) -> dict[str, Tensor]:
    """Weights of these layers are normed, so they have no gain."""
    return {
        f"{target}.conv.weight": source.take(f"{name}.weight")[None],
        **_linear(source, f"{name}.affine", f"{target}.conv.modulation"),
        f"{target}.noise.weight": source.take(f"{name}.noise_strength").reshape(1),
        f"{target}.activate.bias": source.take(f"{name}.bias"),
        f"noises.noise_{index}": source.take(f"{name}.noise_const")[None, None],
        **({f"{target}.conv.blur.kernel": kernel(4.0)} if index % 2 else {}),
    }


def _to_rgb(source: _Source, name: str, target: str) -> dict[str, Tensor]:
    weight = source.take(f"{name}.weight")
    gain = 1 / math.sqrt(weight[0].numel())
    return {
        f"{target}.conv.weight": _folded(weight, source.number(name, "weight_gain", gain) / gain)[None],
        **_linear(source, f"{name}.affine", f"{target}.conv.modulation"),
        f"{target}.bias": source.take(f"{name}.bias").reshape(1, -1, 1, 1),
        **({} if target == "to_rgb1" else {f"{target}.upsample.kernel": kernel(4.0)}),
    }


def _plain(source: _Source, name: str, target: str, filters: int) -> dict[str, Tensor]:
    """A convolution of the discriminator, behind `filters` filters; shortcuts have no bias."""
    weight = source.take(f"{name}.weight")
    gain = 1 / math.sqrt(weight[0].numel())
    out = {f"{target}.{filters}.weight": _folded(weight, source.number(name, "weight_gain", gain) / gain)}
    if filters:
        out[f"{target}.0.kernel"] = kernel()
    if not name.endswith(".skip"):
        out[f"{target}.{filters + 1}.bias"] = source.take(f"{name}.bias")
    return out


def _folded(weight: Tensor, ratio: float) -> Tensor:
    return weight if abs(ratio - 1) < 1e-6 else weight * ratio


def _clamp(source: _Source, name: str) -> float | None:
    return None if source.attributes[name].get("conv_clamp") is None else source.number(name, "conv_clamp", 0)


def _same_filter(tensor: Tensor) -> bool:
    return tensor.shape == (4, 4) and bool((tensor - kernel()).abs().max() < 1e-6)
