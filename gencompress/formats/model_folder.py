"""A model folder as diffusers and transformers write it, config and safetensors: is all of it there, and sound?"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gencompress.errors import GencompressError, ModelError

STEMS = ("diffusion_pytorch_model", "model")  # diffusers, transformers
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
_MAX_JSON = 64 << 20  # bytes; indices of the largest sharded models take some hundred thousand


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file; ModelError names the file if it is none."""
    try:
        if path.stat().st_size > _MAX_JSON:
            raise ModelError(f"{path} is larger than {_MAX_JSON >> 20} MB; the folder is damaged")
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:  # a wrong byte, a wrong letter, a number of 5,000 digits
        raise ModelError(f"{path} is not readable JSON ({error}); the folder is damaged or half written") from error
    if not isinstance(value, dict):
        raise ModelError(f"{path} holds no JSON object; the folder is damaged")
    return value


def check_weights(part: Path) -> None:
    """Raise ModelError unless the component folder `part` has a config and complete safetensors files."""
    if not (part / "config.json").is_file():
        raise ModelError(f"{part / 'config.json'} is missing; the folder is half written")
    files = weight_files(part)
    if not files:
        pickles = sorted(p.name for p in part.iterdir() if p.suffix in PICKLES)
        if pickles:
            raise ModelError(
                f"{part / pickles[0]} is a pickle, which can run any code when it is read, so it is not opened. If you "
                f"trust where it comes from, convert it once: load it with the stock library and "
                f"use_safetensors=False, then save_pretrained(folder)"
            )
        others = sorted(p.name for p in part.glob("*.safetensors"))
        hint = f"there is only {others[0]}, a variant or a shard without its index" if others else "it is half written"
        raise ModelError(f"{part} has no {STEMS[0]}.safetensors or {STEMS[1]}.safetensors; {hint}")
    for file in files:
        _check_header(file)


def weight_files(part: Path) -> list[Path]:
    """The safetensors files of a component, following the index of a sharded one; empty if there are none.

    Raises:
        ModelError: the index names a shard that is not there.
    """
    for stem in STEMS:
        single, sharded = part / f"{stem}.safetensors", part / f"{stem}.safetensors.index.json"
        if single.is_file():
            return [single]
        if sharded.is_file():
            shards = sorted(set(_shards(sharded)))
            for shard in shards:
                if not (part / shard).is_file():
                    raise ModelError(f"{part / shard} is missing although {sharded.name} names it; it is half written")
            return [part / shard for shard in shards]
    return []


def _shards(sharded: Path) -> Iterator[str]:
    weights = read_json(sharded).get("weight_map")
    if not isinstance(weights, dict):
        raise ModelError(f"{sharded} has no weight_map; the folder is damaged")
    for name in weights.values():
        if not isinstance(name, str) or Path(name).name != name:
            raise ModelError(f"{sharded}: {name!r} is not the name of a file beside it")
        yield name


def _check_header(file: Path) -> None:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="pt") as opened:
            opened.keys()
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{file} is truncated or no safetensors file ({error})") from error


def read_weights(
    part: Path, shapes: Mapping[str, tuple[int, ...]], dtype: torch.dtype | None = None
) -> dict[str, Tensor]:
    """The tensors of a model folder of one file, which `check_weights` has seen; headers are compared before reading.

    Args:
        part: the folder.
        shapes: of every tensor by name, as config.json has them.
        dtype: to convert floating-point tensors to; None leaves them.

    Raises:
        ModelError: names or shapes differ, naming the first.
    """
    from safetensors import safe_open

    file = weight_files(part)[0]
    with safe_open(file, framework="pt") as opened:
        names = set(opened.keys())
        check_keys({"missing_keys": set(shapes) - names, "unexpected_keys": names - set(shapes)}, part)
        for name, shape in shapes.items():
            found = tuple(opened.get_slice(name).get_shape())
            if found != shape:
                raise ModelError(f"{file}: {name} has shape {list(found)}, and config.json says {list(shape)}")
        return {name: _converted(opened.get_tensor(name), dtype) for name in shapes}


def _converted(tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
    return tensor.to(dtype) if dtype is not None and tensor.is_floating_point() else tensor


def write_model(folder: Path, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Write config.json and model.safetensors into `folder`, a temporary one that `write_dir` gave."""
    from safetensors.torch import save_file

    whole = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    save_file(whole, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def check_finite(module: nn.Module, where: str) -> None:
    """Raise ModelError naming `where` and the first tensor of `module` that holds NaN or infinity."""
    for name, tensor in module.state_dict().items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise ModelError(f"{where}: {name} holds NaN or infinity")


def check_keys(info: Mapping[str, Any], folder: Path) -> None:
    """Raise ModelError if `from_pretrained`'s loading info names weights that are absent or left over."""
    for key, verb in (("missing_keys", "lack"), ("unexpected_keys", "have")):
        if info[key]:
            first = ", ".join(sorted(info[key])[:3])
            raise ModelError(f"{folder}: the weights {verb} {first}, so config.json is not that of these weights")


@contextmanager
def explained(folder: Path) -> Iterator[None]:
    """Turn what diffusers, transformers and safetensors raise for bad folders into ModelError."""
    try:
        yield
    except GencompressError:
        raise
    except (OSError, ValueError, TypeError, LookupError, ArithmeticError, AttributeError, RuntimeError) as error:
        raise ModelError(f"{folder}: {first_line(error)}") from error


def first_line(error: BaseException) -> str:
    """What an error of another library says, without its stack and advice."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
