"""reasoning-gym's own scorers, as a worker process calls them: they may be slow, and raise on what a model writes."""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any

from rekindle.tokens.grading.harmless import harmless


def score(name: str, config: str, answer: str, entry: dict[str, Any]) -> float:
    """The score of `answer` to an item of the generator `name`, usually 0 to 1. config: its settings as JSON.

    0 without asking the scorer for an answer that it would evaluate as Python and that could do something.
    """
    if not harmless(name, answer, entry):
        return 0.0
    return float(_generator(name, config).score_answer(answer, entry))


@lru_cache(maxsize=8)
def _generator(name: str, config: str) -> Any:
    from reasoning_gym import create_dataset

    return create_dataset(name, **json.loads(config), size=1, seed=0)
