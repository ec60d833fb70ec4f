"""What a reward function is handed is its own: changing it changes neither the data nor what others are handed."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest

from rekindle.tokens.rewards import Reward, Rewards, from_areal, from_openrlhf, from_trl, from_verl
from rekindle.tokens.rollouts import Example
from tests.tokens.rewarded import rollouts

META = {
    "messages": [{"role": "user", "content": "2+3"}],
    "answer": ["5"],
    "extra_info": {"split": "train", "more": [1]},
    "data_source": ["x"],
    "messages_column": [{"role": "assistant", "content": "5"}],
}
RULE = {**META, "reward_model": {"ground_truth": ["5"], "style": "rule"}}


def spoiling(seen: list[Any], *names: str) -> Any:
    """Notes the arguments `names` as they come, then adds to each list and object in them."""

    def spoil(value: Any) -> None:
        if isinstance(value, dict):
            for inner in value.values():
                spoil(inner)
            value["spoiled"] = True
        elif isinstance(value, list):
            for inner in value:
                spoil(inner)
            value.append("spoiled")

    def call(given: dict[str, Any]) -> None:
        seen.append(deepcopy({name: given[name] for name in names}))
        for name in names:
            spoil(given[name])

    return call


def made(kind: str, seen: list[Any]) -> Reward:
    """A function of the convention `kind` that changes all it is handed."""
    columns = ("extra_info", "answer", "data_source", "reward_model", "messages")

    def trl(prompts: Any, completions: Any, **more: Any) -> list[float]:
        spoiling(seen, "prompts", *columns)({"prompts": prompts, **more})
        return [1.0] * len(completions)

    def areal(prompt: Any, completions: Any, **more: Any) -> float:
        spoiling(seen, *columns)(more)
        return 1.0

    def verl(data_source: Any, solution_str: str, ground_truth: Any, extra_info: Any) -> float:
        spoiling(seen, "source", "truth", "info")({"source": data_source, "truth": ground_truth, "info": extra_info})
        return 1.0

    def batch(data_sources: Any, solution_strs: Any, ground_truths: Any, extra_infos: Any) -> list[float]:
        given = {"sources": data_sources, "truths": ground_truths, "infos": extra_infos}
        spoiling(seen, *given)(given)
        return [1.0] * len(solution_strs)

    def openrlhf(queries: Any, prompts: Any, labels: Any) -> list[float]:
        spoiling(seen, "labels")({"labels": labels})
        return [1.0] * len(queries)

    make = {"trl": from_trl, "areal": from_areal, "verl": from_verl, "batch": from_verl, "openrlhf": from_openrlhf}
    functions = {"trl": trl, "areal": areal, "verl": verl, "batch": batch, "openrlhf": openrlhf}
    return make[kind](functions[kind], name=kind)


@pytest.mark.parametrize("kind", ["trl", "areal", "verl", "batch", "openrlhf"])
def test_a_function_that_changes_its_arguments_changes_nothing_else(kind: str) -> None:
    example = Example("a", "2+3", "5", deepcopy(RULE))
    both = rollouts([example, example], ["5", "6"])
    seen: list[Any] = []
    given = Rewards((made(kind, seen),))
    given(both)
    first, count = seen[0], len(seen)
    given(both)
    assert len(seen) == 2 * count > 0
    rows = [seen[0], seen[1]] if kind in ("areal", "verl") else [seen[0]]
    assert all(row == first for row in rows), "the rows of a group share one example"
    assert seen[:count] == seen[count:], "and so do steps"
    assert example.meta == RULE


def test_functions_do_not_see_what_others_did() -> None:
    example = Example("a", "2+3", "5", deepcopy(RULE))
    one: list[Any] = []
    other: list[Any] = []
    second = made("trl", other)
    Rewards((made("trl", one), Reward("second", second.function, 1.0, second.convention)))(rollouts([example], ["5"]))
    assert one == other and len(one) == 1
    assert one[0]["prompts"] == [RULE["messages"]] and one[0]["messages"] == [RULE["messages_column"]]
    assert one[0]["extra_info"] == [RULE["extra_info"]]
