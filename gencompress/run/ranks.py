"""Several processes in one run (`accelerate launch`, `torchrun`): rank 0 decides and writes, all hear of it.

With one process every method is a no-op, and torch is not imported.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TypeVar

from gencompress.errors import GencompressError, RunError

T = TypeVar("T")


class Ranks:
    """This process among those of the run, from the environment that the launchers set."""

    def __init__(self) -> None:
        self.rank = int(os.environ.get("RANK", "0"))
        self.count = int(os.environ.get("WORLD_SIZE", "1"))

    @property
    def main(self) -> bool:
        """Whether this process is the one that writes."""
        return self.rank == 0

    def on_main(self, decide: Callable[[], T]) -> T:
        """What `decide` returns or raises on rank 0, on every rank. The others wait for it.

        The value travels by torch.distributed between processes of one launch, so it must be small.
        """
        if self.count == 1:
            return decide()
        import torch.distributed as dist

        self._connect()
        box: list[tuple[T | None, str | None]] = [(None, None)]
        if self.main:
            try:
                box = [(decide(), None)]
            except GencompressError as error:
                dist.broadcast_object_list([(None, str(error))], src=0)
                raise
        dist.broadcast_object_list(box, src=0)
        value, failure = box[0]
        if failure is not None:
            raise RunError(failure)
        return value  # type: ignore[return-value]  # None only where decide returned None

    def any(self, flag: bool) -> bool:
        """Whether `flag` is true on some rank. Every rank must ask, in the same order."""
        if self.count == 1:
            return flag
        import torch.distributed as dist

        self._connect()
        flags: list[bool] = [False] * self.count
        dist.all_gather_object(flags, flag)
        return any(flags)

    def _connect(self) -> None:
        import torch.distributed as dist

        if not dist.is_initialized():
            from accelerate import PartialState

            PartialState()  # chooses the device of this rank and NCCL or gloo for it
