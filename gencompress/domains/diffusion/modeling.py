"""Pruned versions of diffusers' denoisers: the stock class, built from its stock config, then narrowed.

``config["pruning"]`` holds the shapes that differ, so `from_pretrained`, `save_pretrained`, ``low_cpu_mem_usage`` and
dtypes all work as for any diffusers model. Portable exports carry this file and `gencompress.core.resize` as one
component file, so it needs torch and diffusers alone.
"""

from __future__ import annotations

import functools
import inspect
from pathlib import Path
from typing import Any

import diffusers
from torch import Tensor, nn

from gencompress.core.resize import resize_

PRUNING_VERSION = 1


def pruned_class(native: str, module: str, source: str | None = None) -> type[nn.Module]:
    """A subclass ``Pruned<native>`` that takes one more config key, `pruning`.

    Args:
        native: name of a diffusers model class.
        module: what `save_pretrained` of a pipeline records as the library of the class.
        source: text of a component file that `save_pretrained` puts beside the weights as ``<module>.py``.
    """
    base: Any = getattr(diffusers, native)

    @functools.wraps(base.__init__)
    def __init__(self: Any, *args: Any, pruning: dict[str, Any] | None = None, **kwargs: Any) -> None:
        base.__init__(self, *args, **kwargs)
        self.register_to_config(pruning=pruning)
        if pruning is not None:
            if pruning.get("version") != PRUNING_VERSION:
                raise ValueError(f"config.json: pruning version {pruning.get('version')!r}, expected {PRUNING_VERSION}")
            resize_(self, pruning["modules"])
            bypass_empty_(self)
            repack_(self)

    def save_pretrained(self: Any, save_directory: Any, *args: Any, **kwargs: Any) -> None:
        base.save_pretrained(self, save_directory, *args, **kwargs)
        if source is not None:
            Path(save_directory, f"{module}.py").write_text(source, encoding="utf-8")

    # diffusers keeps those config keys that it finds in the signature, and passes `save_pretrained` those options
    stock = inspect.signature(base.__init__)
    extra = inspect.Parameter("pruning", inspect.Parameter.KEYWORD_ONLY, default=None)
    named = [p for p in stock.parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
    rest = [p for p in stock.parameters.values() if p.kind is inspect.Parameter.VAR_KEYWORD]
    __init__.__signature__ = stock.replace(parameters=[*named, extra, *rest])  # type: ignore[attr-defined]
    save_pretrained.__signature__ = inspect.signature(base.save_pretrained)  # type: ignore[attr-defined]
    body = {
        "__module__": module,
        "__doc__": f"A pruned `{native}`, see its `config.pruning`.",
        "__init__": __init__,
        "save_pretrained": save_pretrained,
    }
    return type(f"Pruned{native}", (base,), body)


def bypass_empty_(model: nn.Module) -> None:
    """Let branches of which no unit is left return the bias of their last layer, which is all that remains of them.

    diffusers divides by the number of heads, and torch refuses or miscounts convolutions and norms of zero channels.
    Linear layers need no help: without inputs they return their bias.
    """
    for module in list(model.modules()):
        part: Any = module
        kind = type(module).__name__
        if kind.endswith("Attention") and hasattr(part, "to_q") and not len(part.to_q.weight):
            part.set_processor(NoHeads())
            part.set_processor = _keep_processor  # switching the attention backend later must not undo it
        elif kind == "ResnetBlock2D" and not len(part.conv1.weight):
            part.norm2.__class__ = EmptyGroupNorm
            part.conv1.__class__ = part.conv2.__class__ = EmptyConv2d
        elif kind == "GLUMBConv" and not len(part.conv_inverted.weight):
            for layer in (part.conv_inverted, part.conv_depth, part.conv_point):
                layer.__class__ = EmptyConv2d


def repack_(model: nn.Module) -> None:
    """Tell tensor parallelism where heads end and neurons begin among the inputs of FLUX's single blocks."""
    for module in model.modules():
        part: Any = module
        if hasattr(getattr(part, "proj_out", None), "_tp_packed_row_blocks"):
            neurons = len(part.proj_mlp.weight)
            part.proj_out._tp_packed_row_blocks = [part.proj_out.weight.shape[1] - neurons, neurons]


class NoHeads:
    """Attention processor of a module without heads: the output projections' biases, in the layout of the input."""

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
        image_rotary_emb: Any = None,
        **kwargs: Any,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Like diffusers' processors: one stream, or image and text stream in joint attention.

        diffusers warns of arguments that a processor does not name, hence the unused ones.
        """
        if hidden_states.ndim == 4:
            tokens = hidden_states.flatten(2).transpose(1, 2)
            out = self._project(attn, tokens).transpose(1, 2).reshape(hidden_states.shape)
        else:
            out = self._project(attn, hidden_states)
        if getattr(attn, "residual_connection", False):
            out = out + hidden_states
        out = out / getattr(attn, "rescale_output_factor", 1.0)
        if encoder_hidden_states is None or getattr(attn, "add_q_proj", None) is None:
            return out
        text = encoder_hidden_states.new_zeros(*encoder_hidden_states.shape[:2], 0)
        add_out = getattr(attn, "to_add_out", None)
        return out, text if add_out is None else add_out(text)

    @staticmethod
    def _project(attn: Any, tokens: Tensor) -> Tensor:
        """[batch, tokens, *] -> [batch, tokens, channels]; zero channels where the block itself projects (FLUX)."""
        merged = tokens.new_zeros(*tokens.shape[:2], 0)
        to_out = getattr(attn, "to_out", None)
        return merged if to_out is None else to_out[1](to_out[0](merged))


def _keep_processor(processor: Any, *args: Any, **kwargs: Any) -> None:
    """Stands in for ``set_processor`` where no other processor works."""


class EmptyConv2d(nn.Conv2d):
    """A size-preserving convolution from or to zero channels: its bias everywhere."""

    def forward(self, input: Tensor) -> Tensor:
        """[batch, in, height, width] -> [batch, out, height, width], of which `in` or `out` is 0."""
        out = input.new_zeros(input.shape[0], len(self.weight), *input.shape[2:])
        return out if self.bias is None else out + self.bias[:, None, None]


class EmptyGroupNorm(nn.GroupNorm):
    """The norm of zero channels."""

    def forward(self, input: Tensor) -> Tensor:
        """[batch, 0, height, width], unchanged."""
        return input
