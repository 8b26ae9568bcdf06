"""Graph-spectral scores of splats (SUNDAE, arXiv 2405.00676): what differs from its neighbours stays.

The graph joins every splat to its nearest neighbours with self-tuning weights; the random walk P on it averages a
signal over neighbours, and ``||((I - P) Z)_i||`` is the high-pass response of splat i. By itself the response does not
rank splats better than random numbers do, as it knows nothing of what is seen; it is a measure of redundancy that
multiplies a score which does.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gencompress.formats.scene import SH_C0
from gencompress.kernels.neighbours import RandomWalk
from gencompress.kernels.splats import Splats

NEIGHBOURS = 16


@dataclass(frozen=True)
class SignalWeights:
    """How much every standardised attribute counts in the signal on the graph; zero leaves it out."""

    position: float = 1.0
    color: float = 1.0
    opacity: float = 1.0
    scale: float = 1.0


PAPER = SignalWeights(1.0, 0.0, 0.0, 0.0)  # the paper filters centres alone


def high_pass_response(splats: Splats, weights: SignalWeights = PAPER, neighbours: int = NEIGHBOURS) -> Tensor:
    """High-pass response ``||((I - P) Z)_i||`` of every splat [N], >= 0.

    Args:
        splats: what is scored.
        weights: of position, constant colour, opacity and logarithmic size in Z. Colour, opacity and size are
            standardised to unit variance per column, positions by their largest deviation, so that the scene keeps its
            proportions.
        neighbours: of every splat in the graph, before it is made symmetric.
    """
    if len(splats) < 2:
        return torch.zeros(len(splats))
    walk = RandomWalk.among(splats.means.cpu().numpy(), neighbours)
    signal = _signal(splats, weights)
    signal -= walk @ signal
    return torch.from_numpy(np.sqrt(np.einsum("nd,nd->n", signal, signal))).to(splats.means.device)


def paper_strict_scores(response: Tensor, gamma: float = 0.5) -> dict[str, Tensor]:
    """Band-limited sampling as the paper's code does it: ``{"splats": [N]}``, ranks.

    For every budget K the `gamma` K highest responses and the (1 - `gamma`) K lowest stay, and the middle goes.

    Args:
        response: `high_pass_response` [N].
        gamma: part of the budget that goes to high responses, in [0, 1].
    """
    n = len(response)
    descending = response.argsort(descending=True, stable=True)
    places = torch.arange(1, n + 1)
    high = (places * gamma).round().long()  # of the first K places, how many are taken from the top
    from_top = high.diff(prepend=high.new_zeros(1)).bool()
    taken = torch.where(from_top, high - 1, n - (places - high))
    scores = torch.empty(n)
    scores[descending[taken]] = torch.arange(n, 0, -1, dtype=torch.float32)
    return {"splats": scores}


def high_all_scores(response: Tensor, gamma: float = 0.5, seed: int = 0) -> dict[str, Tensor]:
    """Stochastic sampling, high-pass plus all-pass: ``{"splats": [N]}``, perturbed log-probabilities.

    The K highest scores are a draw of K splats without replacement with probabilities
    ``gamma * response / sum + (1 - gamma) / N`` (Gumbel top-k).

    Args:
        response: `high_pass_response` [N].
        gamma: part of the probability that follows the response, in [0, 1].
        seed: of the draw.
    """
    total = response.double().sum().clamp_min(1e-300)
    probability = gamma * response.double() / total + (1 - gamma) / len(response)
    uniform = torch.rand(len(response), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    gumbel = -torch.log(-torch.log(uniform.clamp_min(1e-300)))
    return {"splats": (probability.clamp_min(1e-300).log() + gumbel.to(probability)).float()}


def spectral_contribution_scores(response: Tensor, contribution: Tensor) -> dict[str, Tensor]:
    """High-pass response times what a splat contributes to the views: ``{"splats": [N]}``.

    Args:
        response: `high_pass_response` [N].
        contribution: blend weights or errors [N], >= 0.
    """
    return {"splats": response.to(contribution) * contribution}


def _signal(splats: Splats, weights: SignalWeights) -> NDArray[np.float32]:
    """The columns Z [N, D] whose weight is not zero."""
    columns = []
    if weights.position:
        centred = splats.means - splats.means.mean(dim=0)
        columns.append(centred.mul_(weights.position / centred.std(dim=0).max().clamp_min(1e-12)))
    for weight, attribute in ((weights.color, _color), (weights.opacity, _opacity), (weights.scale, _log_scale)):
        if weight:
            part = attribute(splats)
            columns.append(weight * (part - part.mean(dim=0)) / part.std(dim=0).clamp_min(1e-12))
    return torch.cat(columns, dim=1).cpu().numpy()


def _color(splats: Splats) -> Tensor:
    return 0.5 + SH_C0 * splats.colors[:, 0]


def _opacity(splats: Splats) -> Tensor:
    return splats.opacities[:, None]


def _log_scale(splats: Splats) -> Tensor:
    return splats.scales.clamp_min(1e-12).log()
