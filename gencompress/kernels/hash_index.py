"""Where the features of a grid point stand in a hash table: the one formula that every backend uses."""

from __future__ import annotations

from typing import Any

PRIMES = (2654435761, 805459861)  # of Instant-NGP (arXiv 2201.05989, section 3)


def entry(x: Any, y: Any, z: Any, side: Any, mask: Any) -> Any:
    """Entry, within its level, of the grid point (x, y, z); integers of 64 bits or tensors of them.

    A level that fits into the table is dense: every point has an entry of its own, x running fastest. Any other is
    hashed (arXiv 2201.05989, equation 4). The low bits are those of arithmetic with 32 bits.

    Args:
        x: 0 to side - 1, and so are y and z.
        y: see x.
        z: see x.
        side: grid points per axis.
        mask: entries of the level - 1 (a power of two less one) where it is hashed, 0 where it is dense.
    """
    if mask == 0:
        return x + side * (y + side * z)
    return (x ^ (y * PRIMES[0]) ^ (z * PRIMES[1])) & mask
