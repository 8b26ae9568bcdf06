"""Axes: a .ply is in the frame of its cameras (right, down, front); some formats prescribe another one.

Letters say where x, y and z point: RDF of .ply, .splat and SOG, RUB of .spz, LUF of glTF.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gencompress.formats import quaternions
from gencompress.formats.scene import Array, SplatScene
from gencompress.formats.spherical_harmonics import mixing

Matrix = NDArray[np.float64]
_IN_RDF = {"R": (1, 0, 0), "L": (-1, 0, 0), "D": (0, 1, 0), "U": (0, -1, 0), "F": (0, 0, 1), "B": (0, 0, -1)}


def from_axes(letters: str) -> Matrix:
    """The matrix [3, 3] that takes points in a frame, "RUB" say, to that of the .ply; its transpose leads back."""
    return np.array([_IN_RDF[letter] for letter in letters], np.float64).T


def turn(scene: SplatScene, matrix: Matrix, scale: float = 1.0, shift: NDArray[Any] | None = None) -> SplatScene:
    """The scene with its points p moved to ``scale * matrix @ p + shift``; `matrix` is orthogonal, a mirror too."""
    means = turn_means(scene.means, matrix) * np.float32(scale)
    return replace(
        scene,
        means=means if shift is None else means + np.asarray(shift, np.float32),
        quats=turn_quats(scene.quats, matrix),
        log_scales=scene.log_scales + np.float32(np.log(scale)),
        sh_rest=turn_harmonics(scene.sh_rest, matrix),
    )


def turn_means(means: Array, matrix: Matrix) -> Array:
    """Centres [N, 3] in the new frame."""
    return means @ matrix.T.astype(np.float32)


def turn_quats(quats: Array, matrix: Matrix) -> Array:
    """Rotations wxyz [N, 4] in the new frame.

    A splat looks the same with any of its own axes reversed. So a matrix that reverses axes may reverse those of the
    splat too, which leaves no rotation what it was; and any other mirror turns a splat as its negative does.
    """
    x, y, z = np.diag(matrix)
    if np.array_equal(matrix, np.diag((x, y, z))):
        return quats * np.array([1, y * z, x * z, x * y], np.float32)
    rotation = matrix * np.sign(np.linalg.det(matrix))
    return quaternions.product(quaternions.of_matrix(rotation), quats)


def turn_harmonics(sh_rest: Array, matrix: Matrix) -> Array:
    """Higher coefficients [N, K, 3] in the new frame."""
    k = sh_rest.shape[1]
    if not k:
        return sh_rest
    mix = mixing(matrix, int((k + 1) ** 0.5) - 1).astype(np.float32)
    if np.array_equal(mix, np.diag(np.diag(mix))):
        return sh_rest * np.diag(mix)[:, None]
    return np.matmul(mix, sh_rest)
