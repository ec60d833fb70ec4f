"""Reward functions in TRL's signature: a vote and novelty, equal to what the methods' own parts give."""

from __future__ import annotations

import inspect
from types import SimpleNamespace
from typing import Any

import pytest

from rekindle.errors import InputError
from rekindle.interop.trl import GroupReward, majority_reward, novelty_reward
from rekindle.interop.verl.votes import votes_of
from rekindle.methods import evol_rl, srt, ttrl
from rekindle.tokens.collect import Answers
from rekindle.tokens.embed import HashedNgrams
from rekindle.tokens.tasks import load_task
from rekindle.tokens.verify import Verifier
from tests.methods.made import spoken

BOXED = [
    r"one and two so \boxed{3}",
    r"two and one so \boxed{3.0}",
    r"the sum, after a while: \boxed{3}",
    r"one and two so \boxed{4}",
    r"no idea at all \boxed{5}",
    "nothing is boxed",
]
OTHER = [r"a \boxed{7}", r"a b \boxed{8}", r"c \boxed{8}", r"d e f \boxed{8}"]


def call(reward: GroupReward, texts: list[str], prompts: list[str], **columns: Any) -> list[float]:
    """As TRL calls: by keyword, with the columns of the data and its own helpers."""
    ids = [[1]] * len(texts)
    return reward(prompts=prompts, completions=texts, completion_ids=ids, **columns)


def of_the_method(collect: Any, texts: list[str], groups: list[int], verifier: Any) -> list[float]:
    """The scores that a run of the method's own would give."""
    assert isinstance(collect, Answers)
    rollouts = spoken(texts, groups)
    verdicts = collect.label(rollouts, verifier)
    for shape in collect.shape:
        verdicts = shape(rollouts, verdicts, SimpleNamespace(verifier=verifier, embed=HashedNgrams()))
    return verdicts.score.tolist()


def test_a_majority_is_one_and_all_others_nothing() -> None:
    reward = majority_reward()
    assert call(reward, BOXED + OTHER, ["a"] * 6 + ["b"] * 4) == [1, 1, 1, 0, 0, 0, 0, 1, 1, 1]


def test_rows_of_a_prompt_vote_together_wherever_they_stand() -> None:
    texts, prompts = [BOXED[0], OTHER[0], BOXED[3], OTHER[1], BOXED[1], OTHER[2]], ["a", "b"] * 3
    assert call(majority_reward(), texts, prompts) == [1, 0, 0, 1, 1, 1]


@pytest.mark.parametrize(
    ("made", "method"), [(novelty_reward, evol_rl), (majority_reward, ttrl)], ids=["novelty", "majority"]
)
def test_equal_to_the_methods_own_parts(made: Any, method: Any) -> None:
    reward = made()
    got = call(reward, BOXED + OTHER, ["a"] * 6 + ["b"] * 4)
    assert got == of_the_method(method.method().collect, BOXED + OTHER, [0] * 6 + [1] * 4, reward.verifier)
    assert len(set(got)) > 1


@pytest.mark.parametrize(("made", "method"), [(novelty_reward, "evol_rl"), (majority_reward, "ttrl")])
def test_equal_to_the_votes_of_the_other_trainer(made: Any, method: str) -> None:
    long = "x " * 30_000
    texts = [
        *BOXED,
        rf"{long}\boxed{{4}}",
        r"<think>\boxed{4}</think> so \boxed{4}",
        r"\boxed{4} #### 3",
        "a #### 3",
    ]
    got, want = call(made(), texts, ["a"] * len(texts)), votes_of(method)(texts, [0] * len(texts)).score.tolist()
    assert got == want and len(set(got)) > 1
    assert got[6] == got[5], "a text of more than 50,000 characters states no answer"


def test_novelty_selects_by_the_vote_and_orders_within() -> None:
    scores = call(novelty_reward(), BOXED, ["a"] * 6)
    assert all(0.5 <= score <= 1 for score in scores[:3]) and max(scores[:3]) == 1 and min(scores[:3]) == 0.5
    assert scores[2] == 1, "the text that is least like the others is the most novel"
    assert all(-1 <= score <= -0.5 for score in scores[3:5]) and scores[4] > scores[3]
    assert scores[5] == -1, "a response without an answer"


def test_alpha_and_another_embedding_are_used() -> None:
    plain = call(novelty_reward(), BOXED, ["a"] * 6)
    assert call(novelty_reward(alpha=1.0), BOXED, ["a"] * 6) != plain
    assert call(novelty_reward(embed=HashedNgrams(orders=(1,))), BOXED, ["a"] * 6) != plain


def test_a_shipped_task_says_what_an_answer_is() -> None:
    reward = novelty_reward(task="digit_sum")
    texts = ["12", "21", "111", "4", "55"]
    got = call(reward, texts, ["p"] * 5)
    assert got == of_the_method(evol_rl.method().collect, texts, [0] * 5, Verifier(load_task("digit_sum")))


def test_a_function_of_the_users_finds_answers() -> None:
    reward = majority_reward(extract=lambda text: text[-1] if text else None)
    assert call(reward, ["ab", "cb", "a", ""], ["p"] * 4) == [1, 1, 0, 0]


def test_messages_are_read_as_their_last_text() -> None:
    chat = [[{"role": "assistant", "content": text}] for text in OTHER]
    parts = [[{"role": "assistant", "content": [{"type": "text", "text": text}]}] for text in OTHER]
    prompt = [[{"role": "user", "content": "sum?"}]] * 4
    assert majority_reward()(prompt, chat) == majority_reward()(prompt, parts) == [0, 1, 1, 1]
    assert majority_reward()(prompt, [[], *chat[1:]]) == [0, 1, 1, 1]


def test_a_prompt_that_comes_twice_is_two_groups_where_their_size_is_said() -> None:
    texts, prompts = [OTHER[0], OTHER[0], OTHER[1], OTHER[1]], ["a"] * 4
    assert call(majority_reward(generations=2), texts, prompts) == [1, 1, 1, 1]
    assert call(majority_reward(), texts, prompts) == [1, 1, 0, 0]


@pytest.mark.parametrize("prompts", [["a", "a", "b"], ["a", "b", "b", "b"]])
def test_rows_that_are_no_groups_are_refused(prompts: list[str]) -> None:
    with pytest.raises(InputError, match=r"majority_reward .* generations=2: give TRL's num_generations"):
        call(majority_reward(generations=2), BOXED[: len(prompts)], prompts)


def test_labels_of_the_data_do_not_reach_the_vote() -> None:
    with_labels = call(majority_reward(), BOXED, ["a"] * 6, answer=["5"] * 6, solution=["4"] * 6, trainer_state=None)
    assert with_labels == call(majority_reward(), BOXED, ["a"] * 6)


def test_any_label_and_shape_of_ours_makes_a_reward() -> None:
    collect = srt.method().collect
    assert isinstance(collect, Answers)
    reward = GroupReward(label=collect.label, shape=collect.shape, name="srt")
    got = call(reward, BOXED, ["a"] * 6)
    assert got == of_the_method(collect, BOXED, [0] * 6, reward.verifier) and len(set(got)) > 1


def test_trl_finds_a_name_and_its_keywords() -> None:
    assert vars(novelty_reward())["__name__"] == "novelty_reward"
    assert vars(majority_reward())["__name__"] == "majority_reward"
    names = list(inspect.signature(novelty_reward()).parameters)
    assert names == ["prompts", "completions", "completion_ids", "columns"]


def test_a_task_and_a_function_are_one_too_many() -> None:
    with pytest.raises(InputError, match="both given: drop one"):
        majority_reward(task="digit_sum", extract=lambda text: text)


def test_equal_parts_make_equal_rewards_for_the_trainer() -> None:
    collect = evol_rl.method().collect
    assert isinstance(collect, Answers)
    made = novelty_reward()
    assert (made.label, made.shape) == (collect.label, collect.shape)
    assert novelty_reward(alpha=0.3).shape != collect.shape
