"""Reinforce-Ada: rounds that end where both kinds are there, one group a prompt, half and half, the pool's baseline."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from types import SimpleNamespace

import pytest
import torch

from rekindle.core.types import Batch
from rekindle.methods import dr_grpo, reinforce_ada
from rekindle.methods.reinforce_ada import UntilBoth
from rekindle.tokens.labels import Verdicts, Verified
from rekindle.tokens.pools import HalfRight, OverPool
from rekindle.tokens.rollouts import Example, Rollouts
from tests.methods.made import VERIFIER, spoken
from tests.methods.stage import collected, group_rollouts, table_stage
from tests.methods.streams import table_of, table_run

METHOD = reinforce_ada.method()


@dataclass(eq=False)
class Teller:
    """Answers by script, `group_size` at a time: "r" right, "w" wrong; the last letter repeats."""

    script: dict[str, str]
    group_size: int = 4
    groups: int = 0

    def __post_init__(self) -> None:
        self.said = dict.fromkeys(self.script, 0)
        self.asked: list[list[str]] = []

    def sample(self, examples: Sequence[Example]) -> Rollouts:
        self.asked.append([e.id for e in examples])
        parts = []
        for e in examples:
            first, n = self.said[e.id], self.group_size
            self.said[e.id] += n
            letters = [self.script[e.id][min(i, len(self.script[e.id]) - 1)] for i in range(first, first + n)]
            rows = spoken([f"a={'5' if c == 'r' else '7'}" for c in letters], group=[self.groups] * n, truth="5")
            parts.append(replace(rows, example=[e] * n, uid=rows.uid + self.groups * n))
            self.groups += 1
        return Rollouts.concat(parts)


def judge(rollouts: Rollouts) -> Verdicts:
    return Verified()(rollouts, VERIFIER)


def drawn(script: dict[str, str], part: UntilBoth, size: int = 4) -> tuple[Teller, Rollouts]:
    teller = Teller(script, group_size=size)
    return teller, part(teller, [Example(name, "x", "5") for name in script], judge)


def test_a_prompt_is_drawn_until_it_shows_two_of_each() -> None:
    script = {"a": "rrw", "b": "r" * 8 + "w", "c": "r", "d": "w" * 12 + "r"}
    teller, pool = drawn(script, UntilBoth())
    assert teller.asked[:4] == [["a", "b", "c", "d"]] * 2 + [["b", "c", "d"]] * 2
    assert teller.asked[4:] == [["c"]] * 4, "d had four right ones by its sixteenth, c goes on to the end"
    sizes = dict(zip(*(v.tolist() for v in pool.group.unique(return_counts=True)), strict=True))
    assert sizes == {0: 8, 1: 16, 2: 32, 3: 16}
    assert len(pool.uid.unique()) == len(pool) == 72
    for group, name in enumerate(script):
        assert {pool.example[i].id for i in (pool.group == group).nonzero()[:, 0].tolist()} == {name}


def test_one_right_answer_is_enough_for_the_positive_exit() -> None:
    script = {"a": "r", "b": "w" * 8 + "r", "c": "w"}
    teller, _ = drawn(script, UntilBoth(until="positive"))
    assert teller.asked == [["a", "b", "c"]] * 2 + [["b", "c"]] * 2 + [["c"]] * 4


def test_rounds_are_bounded_and_a_broken_reference_is_not_drawn_again() -> None:
    teller, _ = drawn({"a": "r"}, UntilBoth(rounds=2, draws=3))
    assert len(teller.asked) == 6
    teller = Teller({"a": "r"})
    UntilBoth()(teller, [Example("a", "x", "?")], judge)
    assert len(teller.asked) == 2


@pytest.mark.parametrize(
    ("right", "wrong", "size", "want"),
    [
        (9, 7, 4, (2, 2)),
        (1, 15, 4, (1, 3)),
        (15, 1, 4, (3, 1)),
        (8, 0, 4, (4, 0)),
        (5, 5, 5, (2, 3)),
        (1, 2, 8, (1, 2)),
    ],
)
def test_half_are_right_where_there_are_enough(right: int, wrong: int, size: int, want: tuple[int, int]) -> None:
    rows = spoken(["a=5"] * right + ["a=7"] * wrong, truth="5")
    rows = rows.take(torch.randperm(len(rows), generator=torch.Generator().manual_seed(1)))
    verdicts = judge(rows)
    picked = HalfRight()(rows, verdicts, size)
    won = verdicts.success[picked]
    assert (int(won.sum()), int((~won).sum())) == want
    uids = rows.uid[picked][won].tolist()
    assert sorted(uids) == list(range(want[0])), "the first drawn of each kind"


def test_the_baseline_is_the_whole_pools() -> None:
    rows = spoken(["a=5"] * 3 + ["a=7"] * 13, truth="5")
    shaped = OverPool()(rows, judge(rows), SimpleNamespace())
    assert shaped.score.tolist() == pytest.approx([1 - 3 / 16] * 3 + [-3 / 16] * 13)
    assert shaped.success.tolist() == [True] * 3 + [False] * 13
    same = replace(judge(rows), score=torch.full((16,), 0.7, dtype=torch.float64))
    assert (OverPool()(rows, same, SimpleNamespace()).score == 0).all()


def test_trained_rows_are_half_and_half_with_the_pools_baseline() -> None:
    run = table_run(METHOD, unsolvable=0.5, group=4)
    run.step()
    batch = METHOD.collect(run)
    groups = batch.group.unique(return_counts=True)[1]
    assert (groups == 4).all() and len(groups) == 8 and len(batch.uid.unique()) == 32
    credited = METHOD.credit(batch)
    for group in batch.group.unique():
        rows = batch.group == group
        right = int(batch.success[rows].sum())
        values = credited.advantage[rows, 0]
        assert right != 0 or (values == 0).all(), "never right in thirty-two: nothing is learnt"
        assert right == 0 or values[batch.success[rows]].unique().numel() == 1
    assert run.sampled > 2 * 8 * 8, "hard prompts were drawn again"


def test_one_round_of_one_draw_is_grpo_without_std() -> None:
    rollouts = Rollouts.concat([group_rollouts(g) for g in (0, 1, 2, 5)])
    collect = METHOD.collect.replace(draw=UntilBoth(rounds=1, draws=1))  # type: ignore[attr-defined]
    ours, theirs = (collected(m, rollouts)[1] for m in (METHOD.replace(collect=collect), dr_grpo.method()))

    def by_uid(batch: Batch) -> torch.Tensor:
        return batch.advantage[batch.uid.argsort()]

    torch.testing.assert_close(by_uid(ours), by_uid(theirs), rtol=0, atol=1e-12)
    assert (ours.advantage != 0).any()


def test_settings_are_refused_and_the_same_seed_is_the_same_run() -> None:
    with pytest.raises(ValueError, match="at least one round"):
        UntilBoth(rounds=0)
    runs = [table_run(METHOD) for _ in range(2)]
    for run in runs:
        run.step()
        run.step()
    assert runs[0].memory == runs[1].memory and (table_of(runs[0]) == table_of(runs[1])).all()


def test_the_stage_steps() -> None:
    stage = table_stage(METHOD)
    METHOD.step(stage)
    assert stage.updates and all(len(u.batch.group.unique()) >= 1 for u in stage.updates)
