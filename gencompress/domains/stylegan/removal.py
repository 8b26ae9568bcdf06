"""Physical removal: a plan turns a generator into a narrower one, and leaves the input as it was."""

from __future__ import annotations

from dataclasses import replace

from gencompress.core.group import Groups
from gencompress.core.plan import Plan
from gencompress.core.rebuild import fill_, require_fitting
from gencompress.domains.stylegan.groups import producer
from gencompress.domains.stylegan.model import Generator
from gencompress.errors import PlanError


def remove(generator: Generator, groups: Groups, plan: Plan, *, other_weights: bool = False) -> Generator:
    """The generator without the channels that `plan` drops, as a new module that shares no tensor with the old one.

    Its config has the new widths, so it saves and opens like a dense one, and may be pruned again.

    Args:
        generator: dense or pruned before.
        groups: groups of `generator`, from `groups_of`.
        plan: the channels to keep; its source is checked against the weights if it names one.
        other_weights: apply the plan to another fine-tune of the generator that it was made for.

    Raises:
        PlanError: the plan is for other groups or other weights, or leaves no channel of a layer.
    """
    require_fitting(plan, groups, generator.state_dict(), other_weights=other_weights)
    for name, count in plan.counts.items():
        if not count:
            raise PlanError(f"the plan keeps no channel of {name!r}; a generator needs one in every layer")
    widths = tuple(plan.counts[producer(i)] for i in range(len(generator.config.channels)))
    new = Generator.on_meta(replace(generator.config, channels=widths))
    fill_(new, generator, groups, plan)
    return new
