"""Score every unit once by a cheap criterion, then removal, repair, evaluation, export."""

from __future__ import annotations

from gencompress.config import EcoDiffCriterion
from gencompress.domains.diffusion import stages
from gencompress.domains.diffusion.domain import Diffusion
from gencompress.errors import ConfigError
from gencompress.pipelines.finish import finish
from gencompress.run import Run


def one_shot(run: Run) -> None:
    """Random, magnitude, Taylor (Diff-Pruning), Fisher or end-to-end Gauss-Newton scores."""
    if isinstance(run.config.criterion, EcoDiffCriterion):
        raise ConfigError("recipe=one_shot learns no masks: choose another criterion=NAME, or recipe=ecodiff")
    dense = Diffusion.load(run.config)
    scores = run.stage("scores", stages.score, dense, run.config, load=stages.read_scores)
    finish(run, dense, scores)
