"""The Pareto front, and one method's curve through its own best points."""

from __future__ import annotations

from collections.abc import Sequence

Point = tuple[float, float]


def pareto_front(points: Sequence[Point]) -> list[int]:
    """Indices of the points (rate, quality) that no other beats, by ascending rate; quality is higher-is-better.

    A point is beaten by one of no higher rate and no lower quality that is better in one of them. Equal points stay
    together or go together.
    """
    order = sorted(range(len(points)), key=lambda i: (points[i][0], -points[i][1]))
    front: list[int] = []
    for i in order:
        rate, quality = points[i]
        best = points[front[-1]] if front else None
        if best is None or quality > best[1] or (rate, quality) == best:
            front.append(i)
    return front
