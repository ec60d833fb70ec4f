"""The sections of a run's options about what it looks out for: numbers that are wrong, and signs of a collapse."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from pydantic.dataclasses import dataclass

from rekindle.train.sections import STRICT, Count, Whole

Share = Annotated[float, Field(gt=0, lt=1)]
Positive = Annotated[float, Field(gt=0)]


Limit = Annotated[float, Field(ge=0, le=1)]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Guards:
    """Above what a run warns. Shares are of a step's responses (or groups), 1 never warns; counts of steps, 0: never.

    All are house numbers, chosen so that the shipped tasks stay silent. truncated: cut off at rollout.max_tokens.
    empty: without a text. identical: groups of at least four equal responses. ungraded: rows without a grade. infra:
    grades that failed for the grader's own sake. unanswered: votes without any answer. scale: the largest |reward|.
    constant: steps in which a reward function has only ever given one value. unsolved: steps without any success since
    the start. visits: of a prompt that is never graded. gap: mean difference of log-probs between the local sampler
    and the training model in nats, None by dtype. still: steps in a row in which no update changed anything though
    there was signal; the run warns at the second and stops after so many. slow: seconds after which a reward function
    that has not come back is told of.
    """

    truncated: Limit = 0.5
    empty: Limit = 0.5
    identical: Limit = 0.5
    ungraded: Limit = 0.5
    infra: Limit = 0.05
    unanswered: Limit = 0.5
    scale: Annotated[float, Field(gt=0)] = 1e4
    constant: Count = 5
    unsolved: Count = 10
    visits: Count = 3
    gap: Annotated[float, Field(gt=0)] | None = None
    still: Count = 5
    slow: Annotated[float, Field(gt=0)] = 120.0


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Watch:
    """Signs of a collapse, looked for after `every` so many steps (0: never); `stop`: save and end the run at one.

    The start is the mean of the first `start` steps, now that of the last `smooth`. The defaults were tuned on runs of
    the package's own tasks (docs/collapse.md), but for `floor`, `truncated`, `update_kl` and `clip`: customary levels.
    entropy, spent: shares of the start's that are low, and all but gone; floor: nats that are low; slope: share that is
    left of the highest of the last `slope_steps`. dead: share of groups without a signal. majority, distinct: share of
    the commonest answer and, of the start's, of distinct answers between which votes are locked in. reward: share that
    is left of a verified run's start score. length: factor, up or down. repetition, truncated: rise of the shares.
    drop: share of its best that a held-out number loses. update_kl: k3 of an update, nats a token; clip: share of
    clipped tokens.
    """

    every: Count = 1
    stop: bool = False
    start: Whole = 3
    smooth: Whole = 3
    entropy: Share = 0.3
    spent: Share = 0.1
    floor: Annotated[float, Field(ge=0)] = 0.05
    slope: Share = 0.5
    slope_steps: Whole = 20
    dead: Share = 0.8
    majority: Share = 0.8
    distinct: Share = 0.5
    reward: Share = 0.5
    length: Annotated[float, Field(gt=1)] = 2.0
    repetition: Share = 0.2
    truncated: Share = 0.25
    drop: Share = 0.2
    update_kl: Positive = 0.05
    clip: Share = 0.4
