"""A share of gates held at a target during training, by the augmented Lagrangian of HollowNeRF (arXiv 2308.10122).

    min over weights and gates, max over m >= 0:   loss + rho / 2 * max(g, 0)^2 + m * g,   g = mean(gates) - keep

After every step on the weights the multiplier takes one of its own, ``m <- max(m + rate * g, 0)``. It grows as long as
too many gates are open and falls once they are few enough, so the share that is kept is the only thing to choose.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from gencompress.errors import ConfigError, NumericsError

# The multiplier that too open gates reach over a whole training, per unit of g. The gradient of one gate is m divided
# by their number: the scale at which that stands up to the gradients of a mean squared error over pixels.
MULTIPLIER = 0.5
QUADRATIC = 0.05


@dataclass
class SparsityConstraint:
    """The multiplier and what it enforces.

    Args:
        keep: mean of the gates to reach, in (0, 1].
        steps: of the training, over which the multiplier grows.
        multiplier: m.

    Raises:
        ConfigError: `keep` or `steps` is out of range.
    """

    keep: float
    steps: int
    multiplier: float = 0.0

    def __post_init__(self) -> None:
        if not 0 < self.keep <= 1:
            raise ConfigError(f"keep={self.keep} must be greater than 0 and at most 1")
        if self.steps < 1:
            raise ConfigError(f"steps={self.steps} must be at least 1")

    def penalty(self, gates: Tensor) -> Tensor:
        """What is added to the loss, a scalar with gradient; `gates` are in [0, 1], of any shape."""
        excess = gates.mean() - self.keep
        return QUADRATIC / 2 * excess.clamp(min=0) ** 2 + self.multiplier * excess

    def ascend_(self, share: float) -> None:
        """One step of the multiplier after a step on the gates, whose mean is `share` now.

        Raises:
            NumericsError: `share` is NaN; the multiplier stays.
        """
        if not 0 <= share <= 1:
            raise NumericsError(f"the mean of the gates is {share}, not within 0 and 1")
        self.multiplier = max(0.0, self.multiplier + MULTIPLIER / self.steps * (share - self.keep))
