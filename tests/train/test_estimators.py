"""pass@k, maj@k and standard errors: the numbers on paper, ties, and what is refused."""

from __future__ import annotations

import math

import pytest

from rekindle.train.estimators import DRAWS, maj_at_k, pass_at_k, standard_error


def test_pass_at_k_on_paper() -> None:
    assert [pass_at_k(8, 3, k) for k in (1, 4, 8)] == pytest.approx([0.375, 0.9285714285714286, 1.0])
    plug_in = 1 - (1 - 3 / 8) ** 4
    assert plug_in == pytest.approx(0.8474, abs=1e-4) and pass_at_k(8, 3, 4) > plug_in


def test_pass_at_k_by_itself() -> None:
    for right in range(33):
        values = [pass_at_k(32, right, k) for k in range(1, 33)]
        assert values[0] == pytest.approx(right / 32) and values == sorted(values)
        assert values[-1] == (1.0 if right else 0.0)
    assert pass_at_k(32, 1, 16) == pytest.approx(0.5), "a bootstrap with replacement gives 0.398"
    assert pass_at_k(1000, 3, 500) == pytest.approx(1 - math.prod((500 - i) / (1000 - i) for i in range(3)))


def test_maj_at_k_on_paper() -> None:
    answers, right = ["A", "A", "B", "C", "C"], [True, True, False, False, False]
    assert [maj_at_k(answers, right, k) for k in (1, 3, 5)] == pytest.approx([0.4, 0.43333333, 0.5])


def test_unparsed_answers_do_not_vote() -> None:
    assert maj_at_k([None, None, None, "A"], [False, False, False, True], 4) == 1.0
    assert maj_at_k([None, None, None, "A"], [False, False, False, True], 1) == 0.25
    assert maj_at_k([None] * 4, [False] * 4, 2) == 0.0


def test_ties_share_the_credit_and_row_order_does_not_matter() -> None:
    for answers, right in ((["A", "B"], [True, False]), (["B", "A"], [False, True])):
        assert maj_at_k(answers, right, 2) == 0.5
    assert maj_at_k(["A", "B", "C"], [True, True, False], 3) == pytest.approx(2 / 3)


def test_many_subsets_are_drawn_and_close_to_the_exact_value() -> None:
    answers = ["A"] * 14 + ["B"] * 10 + ["C"] * 8
    right = [a == "A" for a in answers]
    assert math.comb(32, 3) > DRAWS
    exact = _exact_three(answers)
    assert maj_at_k(answers, right, 3) == pytest.approx(exact, abs=4 * 0.5 / DRAWS**0.5)
    assert maj_at_k(answers, right, 3, seed=1) == maj_at_k(answers, right, 3, seed=1)
    assert maj_at_k(answers, right, 3, seed=1) != maj_at_k(answers, right, 3, seed=2)
    assert maj_at_k(answers, right, 32) == 1.0


def _exact_three(answers: list[str]) -> float:
    n, a, others = len(answers), answers.count("A"), [answers.count(c) for c in "BC"]
    two_or_more = math.comb(a, 3) + math.comb(a, 2) * (n - a)
    return (two_or_more + a * others[0] * others[1] / 3) / math.comb(n, 3)


@pytest.mark.parametrize("k", [0, 9, -1])
def test_a_subset_lies_within_the_samples(k: int) -> None:
    with pytest.raises(ValueError, match=rf"@{k} needs"):
        pass_at_k(8, 3, k)
    with pytest.raises(ValueError, match=rf"@{k} needs"):
        maj_at_k(["A"] * 8, [True] * 8, k)


def test_standard_error() -> None:
    assert standard_error([0.0, 1.0]) == pytest.approx(0.5)
    assert standard_error([2.0, 4.0, 4.0, 6.0]) == pytest.approx(math.sqrt(8 / 3) / 2)
    assert standard_error([0.25] * 7) == 0.0
    assert math.isnan(standard_error([1.0])) and math.isnan(standard_error([]))
