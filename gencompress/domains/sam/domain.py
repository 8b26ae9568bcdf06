"""A SAM model with everything the core asks of it: groups, costs, calibration data, removal."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from torch import nn

from gencompress.core.cost import CostModel, Metric
from gencompress.core.group import Groups
from gencompress.core.plan import Plan, fingerprint
from gencompress.domains.sam.configs import require_stock
from gencompress.domains.sam.costs import cost_model
from gencompress.domains.sam.groups import groups_of
from gencompress.domains.sam.removal import remove, with_encoder
from gencompress.domains.sam.subject import Batch, SamSubject


@dataclass(frozen=True)
class Sam:
    """A `SamModel` or `Sam2Model`, and the kinds of units that may be removed from its image encoder.

    Args:
        model: opened by `gencompress.domains.sam.load.load_sam`, or built in memory.
        kinds: kinds of groups (`groups_of`); None for widths.
        uniform: results load with plain transformers; budgets must be ``uniform``, or plans come from `solve_ratio`.
    """

    model: Any
    kinds: tuple[str, ...] | None = None
    uniform: bool = False

    @property
    def encoder(self) -> nn.Module:
        """The network that is pruned."""
        encoder: nn.Module = self.model.vision_encoder
        return encoder

    @cached_property
    def groups(self) -> Groups:
        """Prunable groups of the encoder."""
        return groups_of(self.encoder, self.kinds, uniform=self.uniform)

    @cached_property
    def source(self) -> dict[str, str | None]:
        """Fingerprint of the encoder's weights."""
        return fingerprint(self.encoder.state_dict())

    def cost(self, metric: Metric, *, attention: bool = True) -> CostModel:
        """Exact cost of the encoder for every plan; MACs with or without the products of attention."""
        return cost_model(self.encoder, self.groups, metric, attention=attention)

    def subject(self, images: Batch, targets: Batch | None = None) -> SamSubject:
        """Calibration data for criteria; the teacher, whose embeddings `targets` gives, is by default this model."""
        return SamSubject(self.encoder, images, targets)

    def prune(self, plan: Plan) -> Sam:
        """The model without the units that `plan` drops; this one stays as it is.

        Raises:
            ModelError: ``uniform`` was asked for, but `plan` leaves widths that no stock config describes.
            PlanError: the plan is for other groups or weights.
        """
        small = remove(self.encoder, self.groups, plan)
        if self.uniform:
            require_stock(small)
        return replace(self, model=with_encoder(self.model, small))
