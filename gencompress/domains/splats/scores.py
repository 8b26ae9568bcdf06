"""A number per splat by the criterion that is asked for."""

from __future__ import annotations

from torch import Tensor

from gencompress import config as options
from gencompress.core.subject import Progress
from gencompress.criteria import contribution, opacity, spectral
from gencompress.criteria.leave_one_out import leave_one_out_scores
from gencompress.criteria.random import random_scores
from gencompress.criteria.sensitivity import sensitivity_scores
from gencompress.domains.splats.domain import Dense
from gencompress.domains.splats.groups import groups_of
from gencompress.formats import Cameras


def one_shot_scores(
    dense: Dense, cameras: Cameras, criterion: options.CriterionConfig, ctx: Progress
) -> dict[str, Tensor]:
    """Importance of every splat by group name, [N]; higher stays longer."""
    splats = dense.splats
    match criterion:
        case options.RandomCriterion():
            return random_scores(groups_of(dense.scene), criterion.seed)
        case options.OpacityCriterion():
            return opacity.opacity_scores(splats)
        case options.OpacityVolumeCriterion():
            return opacity.opacity_volume_scores(splats)
        case options.LightGaussianCriterion():
            return opacity.light_gaussian_scores(splats, splats.contributions(cameras).hits)
        case options.BlendSumCriterion():
            return contribution.blend_sum_scores(splats, cameras)
        case options.BlendMaxCriterion():
            return contribution.blend_max_scores(splats, cameras)
        case options.SensitivityCriterion():
            return sensitivity_scores(splats, cameras, ctx, criterion.probes, criterion.seed)
        case options.SpectralCriterion():
            return _spectral_scores(dense, cameras, criterion)
    raise ValueError(f"{criterion.name} is no one-shot criterion of splats")


def _spectral_scores(dense: Dense, cameras: Cameras, criterion: options.SpectralCriterion) -> dict[str, Tensor]:
    """SUNDAE's scores: positions alone as in the paper, or all attributes times the leave-one-out error."""
    if criterion.mode == "weighted":
        response = spectral.high_pass_response(dense.splats, spectral.SignalWeights(), criterion.neighbours)
        error = leave_one_out_scores(dense.splats, cameras)["splats"]
        return spectral.spectral_contribution_scores(response, error)
    response = spectral.high_pass_response(dense.splats, spectral.PAPER, criterion.neighbours)
    if criterion.mode == "paper_strict":
        return spectral.paper_strict_scores(response, criterion.gamma)
    return spectral.high_all_scores(response, criterion.gamma, criterion.seed)
