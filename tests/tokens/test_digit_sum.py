"""The task `digit_sum`: a hundred right answers a prompt, one vote among them."""

from __future__ import annotations

import pickle
from itertools import islice, product

import pytest

from rekindle.tokens.rollouts import Example
from rekindle.tokens.tasks import load_task
from rekindle.tokens.tasks.digit_sum import DigitSum

TASK = DigitSum()


def test_a_hundred_of_a_thousand_are_right() -> None:
    example = Example("x", "472=", "2")
    texts = ["".join(d) for d in product("0123456789", repeat=3)]
    right = [t for t in texts if TASK.grade(TASK.extract(t), example.answer)]
    assert len(right) == 100
    assert [t for t in texts if TASK.derivation(example, t).valid] == right
    assert len({TASK.derivation(example, t).key for t in right}) == 100
    assert {TASK.extract(t) for t in right} == {"2"}


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("381", "2"),
        (" 999\n", "7"),
        ("38", None),
        ("3811", None),
        ("3 8 1", None),
        ("a81", None),
        ("", None),
        ("\u0663\u0663\u0663", None),
    ],
)
def test_extract(text: str, answer: str | None) -> None:
    assert TASK.extract(text) == answer


def test_grade_and_derivation_of_what_is_no_answer() -> None:
    assert TASK.grade(None, "2") is False
    assert TASK.grade("2", None) is None
    assert TASK.grade("2", "two") is None
    assert TASK.grade("2", "12") is True
    assert not TASK.derivation(Example("x", "472="), "38").valid
    assert not TASK.derivation(Example("x", "?="), "381").valid


def test_splits_are_disjoint_and_labels_right() -> None:
    sets = {name: [e.prompt for e in TASK.split(name)] for name in ("train", "heldout", "ood")}
    sets["warm"] = [p for p, _ in islice(TASK.warm_examples(0), 3000)]
    assert [len(sets[n]) for n in ("train", "heldout", "ood")] == [40, 60, 100]
    assert sum(len(set(p)) for p in sets.values()) == len({p for prompts in sets.values() for p in prompts})
    assert all(e.answer == e.prompt[-2] for n in ("train", "heldout", "ood") for e in TASK.split(n))
    with pytest.raises(ValueError, match="no split 'dev'"):
        TASK.split("dev")


def test_warm_examples_are_right_at_first_and_about_half_at_last() -> None:
    task = DigitSum(clean=2000)
    pairs = list(islice(task.warm_examples(5), 8000))
    right = [task.derivation(Example("w", p), r).valid for p, r in pairs]
    assert all(right[:2000])
    assert 0.55 < sum(right[2000:4000]) / 2000 < 0.95
    assert sum(right[4000:]) / 4000 == pytest.approx(0.55, abs=0.03)
    assert {r[:2] for _, r in pairs[:2000]} == {"00"}


def test_loading_and_pickling() -> None:
    assert load_task("digit_sum") == TASK
    assert pickle.loads(pickle.dumps(TASK)) == TASK


@pytest.mark.parametrize("split", ["train", "heldout", "ood"])
def test_a_paraphrase_is_another_number_of_the_split_with_the_same_last_digit(split: str) -> None:
    examples = TASK.split(split)
    prompts = [e.prompt for e in examples]
    others = [e.meta["paraphrase"] for e in examples]
    assert sorted(others) == sorted(prompts) and all(a != b for a, b in zip(prompts, others, strict=True))
    assert all(int(text[:-1]) % 10 == int(e.answer) for text, e in zip(others, examples, strict=True))
