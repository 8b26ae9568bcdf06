"""Leave-one-out error of splats, exact; and what a removal costs in rounds that score the survivors again.

Removing splat i changes the render C by -d_i. What that costs is judged against the renders T of the input:

    |C - d_i - T|^2 - |C - T|^2 = |d_i|^2 - 2 d_i . (C - T)

In the first round C = T and the cost is the plain leave-one-out error |d_i|^2 (GaussianPOP). Later the second term
tells which removals make the damage done so far worse, and which would repair it. It holds for one splat at a time,
but a round removes many: if all that promise to repair the same damage go, they overshoot it by far. So what makes
things worse counts by half, and what promises a repair hardly at all.
"""

from __future__ import annotations

from torch import Tensor

from gencompress.formats.cameras import Cameras
from gencompress.kernels import Contributions
from gencompress.kernels.splats import Splats

WORSE, REPAIR = 0.5, 0.1  # weights of the second term by its sign, found on two scenes (benchmarks/splats_quality.py)


def leave_one_out_scores(splats: Splats, cameras: Cameras) -> dict[str, Tensor]:
    """Squared error over pixels, channels and views if a splat alone goes: ``{"splats": [N]}`` >= 0, 0 if unseen."""
    return {"splats": splats.contributions(cameras).leave_one_out}


def removal_costs(found: Contributions) -> Tensor:
    """What the removal of each splat costs in a round that removes many [N]; negative if it repairs.

    Args:
        found: contributions against the renders of the input as target.
    """
    return found.leave_one_out - WORSE * found.toward.clamp_max(0) - REPAIR * found.toward.clamp_min(0)
