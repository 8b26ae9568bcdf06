"""Features of blocks, and how far those of a pruned model are from the dense one's."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from gencompress.errors import ConfigError

Features = tuple[Tensor, ...]


@contextmanager
def features(module: nn.Module, names: Iterable[str]) -> Iterator[dict[str, Features]]:
    """What the named submodules return at the latest forward, by name, while the context is open; with gradient.

    Each entry holds all tensors of the output: two streams, or a block's output and what it hands to the skips.

    Raises:
        ConfigError: a name is no submodule.
    """
    seen: dict[str, Features] = {}
    with ExitStack() as attached:
        for name in names:

            def keep(_: nn.Module, args: Any, out: Any, name: str = name) -> None:
                seen[name] = tuple(_tensors(out))

            try:
                handle = module.get_submodule(name).register_forward_hook(keep)
            except AttributeError as error:
                raise ConfigError(f"there are no features of {name!r}, the model has no such part") from error
            attached.callback(handle.remove)
        yield seen


def _tensors(out: Any) -> Iterator[Tensor]:
    if isinstance(out, Tensor):
        yield out
    elif isinstance(out, (tuple, list)):
        for part in out:
            yield from _tensors(part)


def feature_error(student: Iterable[Features], teacher: Iterable[Features]) -> Tensor:
    """Mean over all tensors of the squared error relative to the teacher's mean square, a scalar.

    Feature distillation as in BK-SDM (arXiv 2305.15798), but relative, so that a block with large activations counts
    no more than others.

    Args:
        student: features of the pruned model, by block.
        teacher: those of the dense model, of the same shapes, in the same order.
    """
    errors = []
    for mine, theirs in zip(student, teacher, strict=True):
        for s, t in zip(mine, theirs, strict=True):
            wanted = t.detach().float()
            errors.append((s.float() - wanted).square().mean() / wanted.square().mean().clamp_min(1e-12))
    return torch.stack(errors).mean()
