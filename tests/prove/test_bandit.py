"""The bed `bandit`: the numbers of its source, the pairs that it brings, and who finds the optimum."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import pytest
import torch

from rekindle import methods
from rekindle.prove import bandit
from rekindle.prove.beds import load_bed
from rekindle.prove.run import TableRun


def started(bed: str, method: str, **options: Any) -> TableRun:
    chosen = load_bed(bed).with_options(options)
    return TableRun(chosen.task.world(0), chosen.setting, chosen.setting.fitted(methods.load(method).method()), 0)


def test_the_bandit_starts_where_the_source_says_and_its_optimum_has_no_regret() -> None:
    assert load_bed("bandit").run("copg", {}, 0, train=False)["regret"] == pytest.approx(0.29187, abs=5e-6)
    assert bandit.value(bandit.optimum()) == pytest.approx(2.12520, abs=5e-6)
    assert bandit.optimum().tolist() == pytest.approx([0.70538, 0.25950, 0.03512], abs=5e-6)
    run = started("bandit", "copg")
    with torch.no_grad():
        run.policy.table[0] = bandit.optimum().log() + 3
    assert load_bed("bandit").task.measure(run)["regret"] == pytest.approx(0, abs=1e-12)


def test_the_pairs_are_drawn_from_two_policies_and_judged_by_their_rewards() -> None:
    examples = load_bed("bandit").task.world(1).task.examples
    assert len(examples) == 10_000
    for place, share in ((0, bandit.FIRST), (1, bandit.SECOND)):
        found = Counter(e.meta["completions"][place] for e in examples)
        assert [found[arm] / 10_000 for arm in bandit.ARMS] == pytest.approx(share.tolist(), abs=0.02)
    worth = dict(zip(bandit.ARMS, bandit.REWARDS.tolist(), strict=True))
    assert all(e.meta["rewards"] == tuple(worth[arm] for arm in e.meta["completions"]) for e in examples)
    mixed = [e.meta for e in examples if {e.meta["chosen"], e.meta["rejected"]} == {"a", "c"}]
    assert sum(m["chosen"] == "a" for m in mixed) / len(mixed) == pytest.approx(1 / (1 + math.exp(-1.5)), abs=0.05)


def test_copg_finds_the_bandits_optimum_from_those_pairs_and_ipo_another() -> None:
    bed = load_bed("bandit").with_options({"steps": 150, "prompts": 64, "lr": 0.06})
    assert bed.run("copg", {"objective.beta": 0.5}, 0)["regret"] < 1e-3
    assert bed.run("ipo", {"objective.tau": 0.5}, 0)["regret"] > 0.1
