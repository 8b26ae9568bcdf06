"""How much of a view a splat fills, seen from somewhere in or around the scene: what its errors are weighed by."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gencompress.formats import activations
from gencompress.formats.scene import SplatScene

_CAP = 0.95  # quantile: no few splats decide alone
_FLOOR = 0.05  # of the mean: no splat counts for nothing


def view_distances(scene: SplatScene) -> NDArray[np.float64]:
    """Square of the distance [N] from which a splat is typically seen: that of the middle of the scene, but farther."""
    means = scene.means.astype(np.float64)
    squares = ((means - np.median(means, axis=0)) ** 2).sum(1)
    return np.maximum(squares + np.median(squares), 1e-30)


def prominence(scene: SplatScene) -> NDArray[np.float64]:
    """Opacity times the solid angle [N] of the splat's largest cross-section, capped."""
    scales = np.sort(activations.scale(scene.log_scales), axis=1).astype(np.float64)
    angles = activations.opacity(scene.logits) * scales[:, 1] * scales[:, 2] / view_distances(scene)
    capped = np.minimum(angles, np.quantile(angles, _CAP))
    return capped + max(_FLOOR * float(capped.mean()), 1e-300)
