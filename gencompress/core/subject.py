"""What an importance criterion may ask of a model: the same five things for every domain."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from torch import Tensor, nn

from gencompress.core.trajectory import Rollout


class Subject(Protocol):
    """A trained model with calibration data.

    `module` holds the groups; ``rollout`` is its differentiable run from noise to sample, on the same module.
    """

    @property
    def module(self) -> nn.Module:
        """The network that is scored."""

    @property
    def rollout(self) -> Rollout:
        """Its run from noise to sample."""

    def trajectories(self, index: int, size: int) -> Any:
        """The `index`-th calibration batch of `size` trajectories, for `rollout`; the same for the same arguments."""

    def losses(self, index: int, size: int) -> Tensor:
        """Training loss of every sample of the `index`-th calibration batch [size], with gradient.

        The time steps of the batch are spread over the run; samples are independent of each other.
        """


class Progress(Protocol):
    """The part of `gencompress.run.StageContext` that long computations use; `NullContext` has it too."""

    @property
    def stop_requested(self) -> bool:
        """Whether Ctrl-C came: finish the step, checkpoint, then `stop_if_requested`."""

    def progress(self, step: int, total: int, **figures: float) -> None:
        """Report `step` of `total` with figures to show."""

    def save_checkpoint(self, step: int, tensors: Mapping[str, Tensor], meta: Mapping[str, Any] | None = None) -> None:
        """Keep the state after `step`."""

    def load_checkpoint(self) -> Any:
        """The newest intact state (``step``, ``tensors``, ``meta``) or None."""

    def stop_if_requested(self) -> None:
        """Raise `gencompress.errors.Interrupted` if Ctrl-C came."""
