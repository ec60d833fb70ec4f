"""The bed `frozen`: what was drawn once, and what is measured of it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from rekindle import methods
from rekindle.prove.beds import load_bed
from rekindle.prove.run import TableRun


def started(bed: str, method: str, **options: Any) -> TableRun:
    chosen = load_bed(bed).with_options(options)
    return TableRun(chosen.task.world(0), chosen.setting, chosen.setting.fitted(methods.load(method).method()), 0)


def test_frozen_sets_hold_a_right_and_a_wrong_response_and_start_at_three_in_ten() -> None:
    run = started("frozen", "dpo")
    task = run.world.task
    assert 350 < len(task.examples) < 400 and len({e.id for e in task.examples}) == len(task.examples)
    for example in task.examples[::17]:
        right = [task.extract(text) == example.answer for text in example.meta["completions"]]
        assert len(right) == 8 and example.meta["rewards"] == tuple(map(float, right))
        assert task.extract(example.meta["chosen"]) == example.answer != task.extract(example.meta["rejected"])
    found = load_bed("frozen").task.measure(run)
    drawn = run.draw(task.examples[::5], 60, run.key)
    assert drawn.entropy is not None
    truth = [task.extract(text) == e.answer for text, e in zip(drawn.text, drawn.example, strict=True)]
    assert found["accuracy"] == pytest.approx(0.3, abs=0.03) == pytest.approx(sum(truth) / len(truth), abs=0.05)
    assert found["entropy"] == pytest.approx(drawn.entropy.mean().item(), abs=0.02)


def test_likelihoods_are_those_of_the_rows_that_a_method_sees() -> None:
    run = started("frozen", "dpo", prompts=400)
    run.rewards.append([])
    run.world = replace(run.world, task=replace(run.world.task, examples=run.examples[:50]))
    run.setting = replace(run.setting, prompts=50)
    batch = run.method.collect(run)
    found = load_bed("frozen").task.measure(run)
    for column, score in (("logp_chosen", 1.0), ("logp_rejected", 0.0)):
        rows = batch.score == score
        assert found[column] == pytest.approx(run.policy(batch).logp[rows].mean().item(), abs=1e-12)
