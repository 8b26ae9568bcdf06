"""What an importance criterion may ask of a model: the same few things for every domain."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from torch import Tensor, nn

from gencompress.core.group import Group, Slice
from gencompress.core.trajectory import Rollout


class Subject(Protocol):
    """A trained model, on which the groups are, with a training loss on calibration data."""

    @property
    def module(self) -> nn.Module:
        """The network that is scored."""

    def losses(self, index: int, size: int) -> Tensor:
        """Training loss of every sample of the `index`-th calibration batch [size], with gradient.

        The same for the same arguments; samples are independent of each other. Of an iterated model, the time steps
        of the batch are spread over the run.
        """


class TrajectorySubject(Subject, Protocol):
    """A model that is iterated; ``rollout`` is its differentiable run from noise to sample, on the same module."""

    @property
    def rollout(self) -> Rollout:
        """Its run from noise to sample."""

    def trajectories(self, index: int, size: int) -> Any:
        """The `index`-th calibration batch of `size` trajectories, for `rollout`; the same for the same arguments."""


class DistilledSubject(Protocol):
    """A model that is judged by how near its outputs stay to those of a teacher, on inputs without labels."""

    @property
    def module(self) -> nn.Module:
        """The network that is scored, the student."""

    def outputs(self, index: int, size: int) -> Tensor:
        """What it makes of the `index`-th calibration batch of `size` inputs [size, ...], with gradient."""

    def targets(self, index: int, size: int) -> Tensor:
        """What the teacher makes of the same inputs, of the same shape, without gradient."""


class LatentSubject(Protocol):
    """A generator of pictures from latents that may be moved."""

    @property
    def module(self) -> nn.Module:
        """The network that is scored."""

    def latents(self, index: int, size: int) -> Tensor:
        """The `index`-th calibration batch of `size` latents [size, dim], without gradient; the same every time."""

    def pictures(self, latents: Tensor) -> Tensor:
        """Pictures [N, channels, height, width] of latents [N, dim], in about [-1, 1], with gradient.

        They depend on the latents alone: noise is the same for all of them and in every call.
        """

    def reader(self, group: Group) -> Slice:
        """The units of `group` in the weight that reads them."""


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
