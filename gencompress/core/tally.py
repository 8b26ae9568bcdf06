"""Sums over many rounds that survive a kill: what scoring stages checkpoint."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from gencompress.core.subject import Progress

CHECKPOINT_EVERY = 5
_GENERATOR = "generator"


class Tally:
    """Progress through `rounds`, with the tensors that the rounds add to.

    ``done`` rounds are in `sums` already when this is made: ``for index in range(tally.done, rounds)`` does the rest.

    Args:
        ctx: the stage's checkpoints.
        sums: by name; filled from the newest checkpoint, in place. The caller adds to them.
        rounds: in all.
        generator: a random generator that the rounds draw from; it continues where the checkpoint left it.
        every: rounds between checkpoints; None writes one only when a stop is asked for (sums as large as a model).
    """

    def __init__(
        self,
        ctx: Progress,
        sums: Mapping[str, Tensor],
        rounds: int,
        generator: torch.Generator | None = None,
        every: int | None = CHECKPOINT_EVERY,
    ) -> None:
        self.ctx, self.sums, self.rounds, self.generator, self.every = ctx, sums, rounds, generator, every
        self.done = 0
        saved = ctx.load_checkpoint()
        if saved is None:
            return
        self.done = saved.step
        for name, total in sums.items():
            total.copy_(saved.tensors[f"sum.{name}"])
        if generator is not None:
            generator.set_state(saved.tensors[_GENERATOR])

    def finish_round(self, **figures: float) -> None:
        """Count a round: report it with `figures`, write a checkpoint when it is due, stop if that was asked for."""
        self.done += 1
        self.ctx.progress(self.done, self.rounds, **figures)
        stop = self.ctx.stop_requested
        if stop or (self.every is not None and self.done % self.every == 0):
            tensors = {f"sum.{name}": total for name, total in self.sums.items()}
            if self.generator is not None:
                tensors[_GENERATOR] = self.generator.get_state()
            self.ctx.save_checkpoint(self.done, tensors)
        if stop:
            self.ctx.stop_if_requested()
