"""The task `reduce`: gold responses verify, corrupted ones do not, splits are disjoint, extraction has no surprises."""

from __future__ import annotations

import pickle
from itertools import islice, product
from random import Random

import pytest

from rekindle.errors import InputError
from rekindle.tokens.rollouts import Example
from rekindle.tokens.tasks import TASKS, load_task
from rekindle.tokens.tasks.expressions import moves, read_terms, total, write_terms
from rekindle.tokens.tasks.reduce import Reduce, canonical_integer, draw_expression, paraphrase, solve, split_of
from rekindle.tokens.tasks.ways import WAYS

TASK = Reduce()
SPLITS = ("train", "heldout", "ood")
PROMPT = Example("x", "5*9+3*5-2=", "58")
GOLD = {
    "A": r"3*5=15;5*9=45;15-2=13;45+13=58\boxed{58}",
    "B": r"[5*9=45,3*5=15]45+15=60,60-2=58\boxed{58}",
    "C": r"(45+15=60)(-2)60-2=58\boxed{58}",
    "D": r">+5*9=45,+3*5=60,-2=58\boxed{58}",
}


@pytest.mark.parametrize("way", GOLD)
def test_worked_example(way: str) -> None:
    found = TASK.derivation(PROMPT, GOLD[way])
    assert (found.valid, found.way) == (True, way)
    assert TASK.grade(TASK.extract(GOLD[way]), PROMPT.answer) is True


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("way", tuple(WAYS))
def test_gold_of_every_row_is_valid(split: str, way: str) -> None:
    rng = Random(7)
    for example in TASK.split(split):
        text = solve(example.prompt.removesuffix("="), way, rng)
        found = TASK.derivation(example, text)
        assert (found.valid, found.way) == (True, way), (example.prompt, text)
        assert TASK.grade(TASK.extract(text), example.answer) is True
        assert len(text) < TASK.profile["rollout.max_tokens"]


def test_answers_agree_with_python() -> None:
    rng = Random(1)
    for _ in range(500):
        text = draw_expression(rng, rng.randint(1, 7))
        terms = read_terms(text)
        assert terms is not None
        assert write_terms(terms) == text
        assert total(terms) == sum(_python(part) for part in text.replace("-", "+-").split("+"))


def _python(term: str) -> int:
    left, _, right = term.partition("*")
    return int(left) * int(right or 1)


def test_every_move_keeps_the_value() -> None:
    rng = Random(2)
    for _ in range(200):
        terms = read_terms(draw_expression(rng, 6))
        assert terms is not None
        for move in moves(terms):
            assert total(move.after) == total(terms), (write_terms(terms), move.name)
            assert read_terms(write_terms(move.after)) == move.after


@pytest.mark.parametrize(
    ("way", "text"),
    [
        ("A", r"3*5=16;5*9=45;45+16=61;61-2=59\boxed{59}"),  # wrong result
        ("A", r"3*5=16;5*9=45;45+15=60;60-2=58\boxed{58}"),  # wrong step, right answer
        ("A", r"3*5=15;5*9=45;45+15=60\boxed{60}"),  # dropped term
        ("A", r"5*9=45;45+15=60;60-2=58\boxed{58}"),  # a product that was not worked out
        ("A", r"9+3=12;5*12=60;60*5=300;300-2=298\boxed{298}"),  # the sum before the product
        ("A", r"5-2=3;5*9=45;3*3=9;45+9=54\boxed{54}"),  # the same, at the end
        ("A", r"5*9=45;3*5=15;45-2=43;43+15=58\boxed{58}"),  # terms that are not neighbours
        ("A", r"5*9=45;3*5=15;45+15=60;60-2=58;58+0=58\boxed{58}"),  # a step too many
        ("A", r"3*5=15;3*5=15;5*9=45;45+15=60;60-2=58\boxed{58}"),  # one step twice
        ("A", r"3*5=15;5*9=45;15-2=13;45+13=58\boxed{57}"),  # boxes another number
        ("A", r"58\boxed{58}"),  # no steps
        ("A", r"3*5=15;5*9=45;15-2=13;45+13=058\boxed{58}"),  # not canonical
        ("A", r"5*3=15;5*9=45;15-2=13;45+13=58\boxed{58}"),  # factors exchanged
        ("B", r"[5*9=45,3*5=16]45+15=60,60-2=58\boxed{58}"),
        ("B", r"[5*9=45]45+15=60,60-2=58\boxed{58}"),
        ("B", r"[5*9=45,3*5=15,3*5=15]45+15=60,60-2=58\boxed{58}"),
        ("B", r"[5*9=45,3*5=15]45-2=43,43+15=58\boxed{58}"),
        ("B", r"[5*9=45,3*5=15]45+15=60\boxed{60}"),
        ("B", r"[5*9=45,3*5=15\boxed{58}"),
        ("C", r"(45+15=61)(-2)60-2=58\boxed{58}"),
        ("C", r"(45+15=60)60\boxed{60}"),
        ("C", r"(45+15=60)\boxed{60}"),
        ("C", r"(45+15)(-2)60-2=58\boxed{58}"),
        ("C", r"(15+45=60)(-2)60-2=58\boxed{58}"),
        ("C", r"(45+15=60)(2)60-2=58\boxed{58}"),
        ("C", r"(45+15=60)(45+15=60)60-2=58\boxed{58}"),
        ("C", r"(45+15=60)(-2)60-2=57\boxed{57}"),
        ("D", r">+5*9=45,+3*5=61,-2=58\boxed{58}"),
        ("D", r">+5*9=45,+3*5=60\boxed{60}"),
        ("D", r">+5*9=45,+3*5=60,+2=62\boxed{62}"),
        ("D", r">+5*9=45,+5*3=60,-2=58\boxed{58}"),
        ("D", r">+5*9=45,+5*9=90,-2=88\boxed{88}"),
        ("D", r">5*9=45,+3*5=60,-2=58\boxed{58}"),
        ("D", r">\boxed{58}"),
        (None, r"\boxed{58}"),
        (None, r"the answer is \boxed{58}"),
        (None, ""),
    ],
)
def test_corrupted_steps_are_invalid(way: str | None, text: str) -> None:
    found = TASK.derivation(PROMPT, text)
    assert (found.valid, found.way) == (False, way)


@pytest.mark.parametrize("way", GOLD)
def test_only_this_expression_and_one_box_at_the_end(way: str) -> None:
    text = GOLD[way]
    assert not TASK.derivation(Example("y", "5*9+3*5-3=", "57"), text).valid
    assert not TASK.derivation(Example("y", "2+7*8=", "58"), text).valid
    assert not TASK.derivation(PROMPT, text + r"\boxed{58}").valid
    assert not TASK.derivation(PROMPT, text + "x").valid
    assert not TASK.derivation(PROMPT, "=" + text).valid
    assert TASK.derivation(Example("y", "not an expression", None), text).valid is False


def test_negative_running_values_in_every_way() -> None:
    example = Example("n", "2-9+4-6=", "-9")
    for text in (
        r"2-9=-7;4-6=-2;-7-2=-9\boxed{-9}",
        r"-9+4=-5;-5-6=-11;2-11=-9\boxed{-9}",
        r"[]2-9=-7,-7+4=-3,-3-6=-9\boxed{-9}",
        r"(2+4=6)(-9-6=-15)6-15=-9\boxed{-9}",
        r">-6=-6,+4=-2,-9=-11,+2=-9\boxed{-9}",
    ):
        assert TASK.derivation(example, text).valid, text
    assert not TASK.derivation(example, r"9+4=13;2-13=-11;-11-6=-17\boxed{-17}").valid  # 9+4 under the minus sign


def test_a_sum_of_nothing_is_zero_with_a_plus() -> None:
    example = Example("z", "7-3+3=", "7")
    assert TASK.derivation(example, r"-3+3=0;7+0=7\boxed{7}").valid
    assert not TASK.derivation(example, r"-3+3=0;7-0=7\boxed{7}").valid
    assert not TASK.derivation(example, r"-3+3=-0;7+0=7\boxed{7}").valid


def test_an_ambiguous_step_is_read_so_that_the_rest_follows() -> None:
    example = Example("a", "1+2+1+2=", "6")
    assert TASK.derivation(example, r"1+2=3;2+1=3;1+3=4;4+3=7\boxed{7}").valid is False
    assert TASK.derivation(example, r"1+2=3;1+3=4;2+4=6\boxed{6}").valid is False  # not neighbours
    first = TASK.derivation(example, r"1+2=3;3+1=4;4+2=6\boxed{6}")
    second = TASK.derivation(example, r"1+2=3;2+3=5;1+5=6\boxed{6}")  # only the second 1+2 leaves 2+3
    assert first.valid
    assert second.valid
    assert first.key != second.key


def test_keys_tell_orders_and_not_white_space() -> None:
    example = Example("k", "1+2+3=", "6")
    left, right, spaced = (
        TASK.derivation(example, t).key
        for t in (r"1+2=3;3+3=6\boxed{6}", r"2+3=5;1+5=6\boxed{6}", " 1 + 2 = 3;\n3+3=6\n\\boxed{6} ")
    )
    assert left == spaced != right
    products = [
        TASK.derivation(PROMPT, t).key for t in (GOLD["B"], GOLD["B"].replace("5*9=45,3*5=15", "3*5=15,5*9=45"))
    ]
    running = [TASK.derivation(PROMPT, t).key for t in (GOLD["D"], r">-2=-2,+3*5=13,+5*9=58\boxed{58}")]
    assert len({left, right, *products, *running}) == 6


def test_duplicate_products_are_each_listed() -> None:
    example = Example("d", "2*3+2*3=", "12")
    assert TASK.derivation(example, r"[2*3=6,2*3=6]6+6=12\boxed{12}").valid
    assert not TASK.derivation(example, r"[2*3=6]6+6=12\boxed{12}").valid


def test_splits_are_disjoint_and_stable() -> None:
    warm = {prompt for prompt, _ in islice(TASK.warm_examples(0), 3000)}
    sets = {name: {e.prompt for e in TASK.split(name)} for name in SPLITS}
    for name, prompts in sets.items():
        assert not prompts & warm
        assert {split_of(p.removesuffix("=")) for p in prompts} == {name}
        assert all(prompts.isdisjoint(other) for n, other in sets.items() if n != name)
        assert TASK.split(name) == Reduce().split(name)
    assert {split_of(p.removesuffix("=")) for p in warm} == {"warm"}


def test_sizes_and_lengths() -> None:
    assert [len(TASK.split(s)) for s in SPLITS] == [512, 300, 300]
    assert {e.meta["operands"] for s in ("train", "heldout") for e in TASK.split(s)} == {5}
    assert [e.meta["operands"] for e in TASK.split("ood")] == [6] * 150 + [7] * 150
    assert len({e.id for s in SPLITS for e in TASK.split(s)}) == 1112
    with pytest.raises(ValueError, match="no split 'test': there are train, heldout, ood"):
        TASK.split("test")


def test_warm_examples_use_every_way_and_slip_in_some() -> None:
    valid: dict[str, list[bool]] = {}
    for prompt, response in islice(TASK.warm_examples(3), 2000):
        found = TASK.derivation(Example("w", prompt), response)
        right = TASK.extract(response) == str(total(read_terms(prompt.removesuffix("=")) or ()))
        assert right or not found.valid
        valid.setdefault(str(found.way), []).append(found.valid)
    shares = {way: sum(found) / len(found) for way, found in valid.items()}
    assert sorted(shares) == ["A", "B", "C", "D"]
    assert shares["A"] > 0.85 and shares["B"] < shares["C"] < shares["D"] < shares["A"]


def test_a_hand_that_always_slips_is_never_valid_and_goes_on_from_its_slip() -> None:
    for seed, way in product(range(20), "ABCD"):
        response = solve("5*9+3*5-2", way, Random(seed), slip=1.0)
        assert not TASK.derivation(Example("w", "5*9+3*5-2="), response).valid
        assert response.count("\\boxed{") == 1
        last = response.partition("\\boxed{")[0].rpartition("=")[2]
        assert last == TASK.extract(response)


def test_warm_examples_depend_on_the_seed_alone() -> None:
    first, again, other = (list(islice(TASK.warm_examples(s), 20)) for s in (3, 3, 4))
    assert first == again != other


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"1+1=2\boxed{2}", "2"),
        (r"\boxed{2}\boxed{-03}", "-3"),
        (r"\boxed{ +7 }", "7"),
        (r"\boxed{-0}", "0"),
        (r"\boxed{4}\boxed{5", "4"),
        (r"\boxed{4}\boxed{}", None),
        (r"\boxed{4.0}", None),
        (r"\boxed{\boxed{4}}", "4"),
        (r"\boxed{" + "9" * 5000 + "}", None),
        ("\\boxed{\u0663}", None),
        (r"boxed{4}", None),
        ("", None),
    ],
)
def test_extract(text: str, answer: str | None) -> None:
    assert TASK.extract(text) == answer


def test_grade() -> None:
    assert TASK.grade("58", "58") is True
    assert TASK.grade("058", "+58") is True
    assert TASK.grade("57", "58") is False
    assert TASK.grade(None, "58") is False
    assert TASK.grade("58", None) is None
    assert TASK.grade("58", "about 58") is None
    assert canonical_integer("1e3") is None


def test_steps_are_what_comes_before_the_box() -> None:
    assert TASK.steps(GOLD["D"]) == ">+5*9=45,+3*5=60,-2=58"
    assert TASK.steps("no box") == "no box"


def test_loading_and_pickling() -> None:
    assert load_task("reduce") == TASK
    assert pickle.loads(pickle.dumps(TASK)).split("heldout") == TASK.split("heldout")
    assert set(TASKS) == {"reduce", "digit_sum"}
    with pytest.raises(InputError, match="did you mean 'reduce'"):
        load_task("reduse")


@pytest.mark.parametrize("split", ["train", "heldout", "ood"])
def test_a_paraphrase_has_the_same_value_and_is_in_no_other_split(split: str) -> None:
    examples, kept = TASK.split(split), 0
    for example in examples:
        text = example.meta["paraphrase"].removesuffix("=")
        terms, own = read_terms(text), read_terms(example.prompt.removesuffix("="))
        assert terms is not None and own is not None
        assert str(total(terms)) == example.answer and text + "=" != example.prompt and terms[0].sign > 0
        assert sorted((t.sign, sorted(t.factors)) for t in terms) == sorted((t.sign, sorted(t.factors)) for t in own)
        assert split_of(text) in (split, "warm")
        kept += split_of(text) == split
    assert kept / len(examples) > 0.8


def test_an_expression_without_another_order_is_its_own_paraphrase() -> None:
    assert paraphrase("7") == "7" and paraphrase("3-3") == "3-3" and paraphrase("4*4") == "4*4"
