"""The bed `corrupted`: what is known, hinted at and wrong at the start is as much as stated, and families share."""

from __future__ import annotations

import pytest
import torch

from rekindle import methods
from rekindle.prove.beds import load_bed
from rekindle.prove.corrupted import Corrupted
from rekindle.prove.run import TableRun


def test_one_family_is_known_and_the_other_hardly() -> None:
    found = load_bed("corrupted").run("sft", {}, 0, train=False)
    assert found["retention"] == pytest.approx(0.91, abs=0.02) and found["accuracy"] == pytest.approx(0.07, abs=0.02)
    assert found["corrupted"] == pytest.approx(0.06, abs=0.02)
    cold = load_bed("corrupted").with_options({"hint": -4.0}).run("sft", {}, 0, train=False)
    assert cold["accuracy"] < 1e-6 and cold["retention"] == found["retention"]


def test_a_fifth_of_the_demonstrations_is_wrong_in_every_digit() -> None:
    task = load_bed("corrupted").task.world(3).task
    pairs = [(e.meta["demonstration"], e.answer or "") for e in task.examples]
    wrong = [(shown, answer) for shown, answer in pairs if shown != answer]
    assert len(pairs) == 40 and len(wrong) == 8
    assert all(a != b for shown, answer in wrong for a, b in zip(shown, answer, strict=True))
    clean = Corrupted(corrupted=0.0).world(3).task
    assert all(e.meta["demonstration"] == e.answer for e in clean.examples)


def test_the_families_share_the_rows_of_a_number_and_differ_in_what_is_fixed() -> None:
    world = Corrupted(questions=4).world(0)
    assert torch.equal(world.row[:12], world.row[12:]) and len(world.table) == 12
    assert set(world.bias[:12].flatten().tolist()) == {0.0, 6.0}
    assert set(world.bias[12:].flatten().tolist()) == {0.0, 2.0}
    assert world.follow[0, 0] == 1 and (world.follow[2] == -1).all() and world.start["B 1"] == 15


def test_what_is_exact_is_what_samples_say() -> None:
    bed = load_bed("corrupted").with_options({"steps": 30})
    run = TableRun(bed.task.world(1), bed.setting, bed.setting.fitted(methods.load("sft").method()), 1)
    while not run.spent():
        run.step()
    found = bed.task.measure(run)
    rollouts = run.draw(run.examples, 300, run.key)
    right = [text == example.answer for text, example in zip(rollouts.text, rollouts.example, strict=True)]
    assert sum(right) / len(right) == pytest.approx(found["accuracy"], abs=0.02)
    assert found["accuracy"] > 0.1 and found["corrupted"] > 0.06 and run.sampled == 0


def test_without_wrong_labels_there_is_none_to_fit() -> None:
    assert load_bed("corrupted").with_options({"corrupted": 0.0, "steps": 1}).run("sft", {}, 0)["corrupted"] == 0.0
