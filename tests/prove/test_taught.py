"""The bed `taught`: student and teacher are as good as stated, and a method learns from the teacher there alone."""

from __future__ import annotations

import pytest
import torch

from rekindle.errors import InputError
from rekindle.prove.beds import load_bed
from rekindle.prove.policy import TablePolicy
from rekindle.prove.taught import Taught


def test_the_student_is_right_one_time_in_twenty_and_the_teacher_nine_in_ten() -> None:
    task = Taught()
    for seed in range(3):
        world = task.world(seed)
        assert world.teacher is not None
        assert task.solved(world.table).mean().item() == pytest.approx(0.05, abs=0.005)
        assert task.solved(world.teacher).mean().item() == pytest.approx(0.9, abs=0.02)


def test_what_is_exact_is_what_samples_say() -> None:
    bed = load_bed("taught").with_options({"blocks": 3})
    task, world = Taught(blocks=3), Taught(blocks=3).world(1)
    assert world.teacher is not None
    found = bed.run("grpo", {}, 1, train=False)
    assert found["accuracy"] == pytest.approx(task.solved(world.table).mean().item())
    policy = TablePolicy(world)
    with torch.no_grad():
        policy.table.copy_(world.teacher)
    start = torch.tensor([world.start[e.prompt] for e in world.task.examples]).repeat_interleave(400)
    walk = policy.walk(start, torch.arange(len(start)), torch.tensor(3))
    texts = [world.text(ids) for ids in walk.ids.tolist()]
    right = [
        world.task.extract(text) == e.answer
        for text, e in zip(texts, [e for e in world.task.examples for _ in range(400)], strict=True)
    ]
    assert sum(right) / len(right) == pytest.approx(task.solved(world.teacher).mean().item(), abs=0.015)
    assert 0 < found["pass@16"] < 16 * found["accuracy"]


def test_the_teacher_takes_of_the_students_responses_the_right_ones() -> None:
    """Among right responses it keeps the student's odds."""
    task, world = Taught(blocks=2), Taught(blocks=2).world(0)
    assert world.teacher is not None
    tables = [torch.log_softmax(t, dim=1).view(20, 2, 20, 10) for t in (world.table, world.teacher)]
    pairs = [(a, 9 - a) for a in range(10)]
    of = [torch.tensor([(t[9, 0, 0, a] + t[9, 1, a, b]).item() for a, b in pairs]).log_softmax(0) for t in tables]
    torch.testing.assert_close(of[0], of[1], rtol=1e-4, atol=1e-4)
    assert task.solved(world.teacher)[9] > 5 * task.solved(world.table)[9]


def test_a_bed_without_a_teacher_says_so() -> None:
    with pytest.raises(InputError, match="this bed has none: name a bed that has one"):
        load_bed("digits").with_options({"steps": 1}).run("kdrl", {}, 0)
    found = load_bed("taught").with_options({"steps": 2}).run("kdrl", {"prepare.0.beta": 0.1}, 0)
    assert 0 < found["train/kl_teacher"] < 10 and found["train/pull"] == pytest.approx(0.1)
