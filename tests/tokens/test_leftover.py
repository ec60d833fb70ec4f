"""Which written responses are drawn, how often, and with what advantage."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest
import torch
from torch import Tensor

from rekindle.errors import InputError
from rekindle.methods import a_lol
from rekindle.tokens.leftover import ByAdvantage, GroupMean, NoBaseline
from rekindle.tokens.reference_value import ReferenceValue
from rekindle.tokens.rollouts import Example
from rekindle.tokens.tasks.lazy import LineRows, Streamed
from rekindle.train.options import override


def example(name: str, rewards: Sequence[float], prompt: str = "", **meta: Any) -> Example:
    texts = [f"{name}{i}" for i in range(len(rewards))]
    return Example(name, prompt or name, meta={"completions": texts, "rewards": list(rewards), **meta})


@dataclass
class Data:
    """What the part asks of a run."""

    examples: Sequence[Example]
    key: Tensor = field(default_factory=lambda: torch.tensor(3))
    kept: dict[str, Tensor] = field(default_factory=dict)
    memory: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Fixed:
    """A baseline of one value, counting how often it is asked."""

    value: float
    asked: list[int] = field(default_factory=list)

    def __call__(self, run: Any, examples: Sequence[Example]) -> Mapping[str, float]:
        self.asked.append(len(examples))
        return {example.id: self.value for example in examples}


PRIORITY = torch.tensor([0.1, 0.4, 0.0, 0.2], dtype=torch.float64)
ALL = torch.ones(4, dtype=torch.bool)


def test_the_worked_priority() -> None:
    weight = ByAdvantage().weights(PRIORITY, ALL)
    torch.testing.assert_close(weight / weight.sum(), torch.tensor([1 / 7, 4 / 7, 0, 2 / 7], dtype=torch.float64))
    assert [round(x, 4) for x in (weight / weight.sum()).tolist()] == [0.1429, 0.5714, 0.0, 0.2857]


def test_strategies_differ_in_what_they_leave_out() -> None:
    advantage, good = torch.tensor([0.1, 0.4, -0.3, 0.2], dtype=torch.float64), torch.tensor([True, False, True, True])
    said = {s: ByAdvantage(strategy=s).weights(advantage, good).tolist() for s in STRATEGIES}
    assert said["good_priority"] == [0.1, 0.0, 0.0, 0.2] and said["all_priority"] == [0.1, 0.4, 0.0, 0.2]
    assert said["good_random"] == [1.0, 0.0, 0.0, 1.0] and said["all"] == [1.0] * 4


STRATEGIES: tuple[Literal["good_priority", "good_random", "all_priority", "all"], ...] = (
    "good_priority",
    "good_random",
    "all_priority",
    "all",
)


def test_each_response_is_drawn_by_its_weight_with_its_advantage() -> None:
    data = Data([example("a", [0.6, 0.9]), example("b", [0.5, 0.7])])
    part = ByAdvantage(baseline=Fixed(0.5))
    drawn = [one for _ in range(40) for one in part(data, 100)]
    share = {text: n / len(drawn) for text, n in Counter(one.meta["completions"][0] for one in drawn).items()}
    assert share.keys() == {"a0", "a1", "b1"} and sum(share.values()) == pytest.approx(1)
    assert all(share[t] == pytest.approx(w, abs=0.025) for t, w in (("a0", 1 / 7), ("a1", 4 / 7), ("b1", 2 / 7)))
    told = {one.meta["completions"][0]: one.meta["rewards"] for one in drawn}
    assert told["a1"] == [pytest.approx(0.4)] and {one.id for one in drawn} == {"a", "b"}
    assert data.examples[0].meta["rewards"] == [0.6, 0.9], "the data itself stays"


def test_draws_are_a_function_of_what_the_run_remembers() -> None:
    data, again = (Data([example("a", [0.6, 0.9, 0.2]), example("b", [0.5])]) for _ in range(2))
    part = ByAdvantage(baseline=GroupMean(), strategy="all")
    first = [one.meta for one in (*part(data, 5), *part(data, 5))]
    half = [one.meta for one in part(again, 5)]
    resumed = Data(again.examples, again.key, dict(again.kept), dict(again.memory))
    assert half + [one.meta for one in part(resumed, 5)] == first


def test_the_baseline_is_asked_once_and_remembered() -> None:
    data, baseline = Data([example("a", [0.6, 0.9])]), Fixed(0.5)
    for _ in range(3):
        ByAdvantage(baseline=baseline)(data, 4)
    assert baseline.asked == [1] and data.memory["values"] == {"a": 0.5}


def test_only_what_is_filtered_counts_as_nothing() -> None:
    data = Data([example("a", [1.0, -1.0])])
    kept = [ByAdvantage(baseline=NoBaseline(), strategy="all", filtered=f) for f in (True, False)]
    seen = [{one.meta["rewards"][0] for one in part(Data(data.examples), 40)} for part in kept]
    assert seen == [{1.0, 0.0}, {1.0, -1.0}]


def test_the_mean_is_over_every_row_of_a_prompt() -> None:
    rows = [example("a", [1.0], "q"), example("b", [0.0, 0.5], "q"), example("c", [0.25], "r")]
    assert GroupMean()(None, rows) == {"a": 0.5, "b": 0.5, "c": 0.25}


@pytest.mark.parametrize(("strategy", "texts"), [("good_priority", {"a0"}), ("all_priority", {"a0", "a1"})])
def test_rejected_responses_are_left_out_unless_they_are_asked_for(strategy: Any, texts: set[str]) -> None:
    data = [example("a", [0.4, 0.9], rejected="a1")]
    part = ByAdvantage(baseline=NoBaseline(), strategy=strategy)
    assert {one.meta["completions"][0] for one in part(Data(data), 60)} == texts


@pytest.mark.parametrize("strategy", ["good_priority", "good_random", "all_priority"])
def test_nothing_to_draw_is_told(strategy: Any) -> None:
    part = ByAdvantage(baseline=Fixed(2.0), strategy=strategy)
    with pytest.raises(
        InputError, match=r"none of the 2 responses .* is worth more .* set collect\.prompts\.strategy=all"
    ):
        part(Data([example("a", [0.6, 2.0])]), 4)
    assert len(ByAdvantage(baseline=Fixed(2.0), strategy="all")(Data([example("a", [0.6])]), 4)) == 4


def test_streamed_data_is_refused(tmp_path: Any) -> None:
    (tmp_path / "a.jsonl").write_text('{"prompt": "p"}\n')
    rows = Streamed(LineRows(tmp_path / "a.jsonl"), lambda row: example("a", [1.0]))
    with pytest.raises(InputError, match="drawing responses by their advantage needs all rows at once"):
        ByAdvantage()(Data(rows), 1)


def test_baselines_are_chosen_by_name() -> None:
    record = a_lol.method()
    for name, kind in (("group_mean", GroupMean), ("no_baseline", NoBaseline), ("reference_value", ReferenceValue)):
        record = override(record, "collect.prompts.baseline", name)
        assert isinstance(record.collect.prompts.baseline, kind)  # type: ignore[attr-defined]
