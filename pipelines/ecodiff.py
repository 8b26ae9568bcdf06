"""EcoDiff: masks learned through the whole denoising run, then removal, repair, evaluation, export."""

from __future__ import annotations

from gencompress.config import EcoDiffCriterion
from gencompress.domains.diffusion import stages
from gencompress.domains.diffusion.domain import Diffusion
from gencompress.errors import ConfigError
from gencompress.pipelines.finish import finish
from gencompress.run import Run


def ecodiff(run: Run) -> None:
    """Learnable sparsity for vision generative models (arXiv 2412.02852), always on budget."""
    if not isinstance(run.config.criterion, EcoDiffCriterion):
        raise ConfigError(f"criterion={run.config.criterion.name} learns no masks: add recipe=one_shot")
    dense = Diffusion.load(run.config)  # a stock diffusers pipeline, frozen

    # a cheap score to start from: how much each gate moves the final latents, through the whole run
    warm = run.stage("warm_start", stages.warm_start, dense, run.config, load=stages.read_scores)

    # hard-concrete gates, trained so that the final latents stay those of the dense model while the expected cost is
    # ramped down to the budget; one denoising step is held in memory at a time
    scores = run.stage("scores", stages.learn_masks, dense, warm or None, run.config, load=stages.read_scores)

    # the masks do not know that compensation follows: where the score they started from does better with it, take that
    if warm:
        candidates = {stages.LEARNED: scores, run.config.criterion.warm_start: warm}
        scores = run.stage("choose", stages.choose, dense, candidates, run.config, load=stages.read_scores)

    finish(run, dense, scores)
