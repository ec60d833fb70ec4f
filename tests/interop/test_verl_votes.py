"""Group rewards for verl without verl: the method's own scores on the same texts, and responses that wait together."""

from __future__ import annotations

import asyncio
import json
import time
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from rekindle.errors import InputError
from rekindle.interop.verl.managers import GroupRewardManager, Waiting, check
from rekindle.interop.verl.votes import votes_of
from rekindle.interop.votes import spoken
from rekindle.methods.evol_rl import NoveltyBands
from rekindle.tokens.embed import HashedNgrams
from rekindle.tokens.labels import MajorityVote
from rekindle.tokens.tasks.files import load_files
from rekindle.tokens.verify import Verifier

ONE = (r"3 and 4 is \boxed{7}", r"first 3, then 4, so \boxed{7}", r"so 4 and 3 is \boxed{7}", "no idea")
TWO = (r"<think>\boxed{1}</think>2+2 \boxed{4}", r"2*2 \boxed{4}", r"1+3 is 2+2 \boxed{4}", r"2 \boxed{5}")
TEXTS, GROUP = (*ONE, *TWO), [0] * 4 + [1] * 4


def config(method: str = "evol_rl", **more: Any) -> dict[str, Any]:
    return {
        "actor_rollout_ref": {"rollout": {"n": 4, "val_kwargs": {"n": 1}}},
        "reward": {"num_workers": 1, "reward_kwargs": {"method": method, **more}},
        "data": {"train_batch_size": 2},
        "trainer": {"val_before_train": False, "test_freq": -1},
    }


def put(found: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    *outer, last = path.split(".")
    inner = found
    for key in outer:
        inner = inner[key]
    inner[last] = value
    return found


def data(text: str, uid: str, session: int | None = None) -> Any:
    """What the manager looks at of a DataProto of one row: its characters are its tokens."""
    ids = torch.tensor([[ord(c) for c in text] + [0, 0]])
    mask = torch.tensor([[1, 1] + [1] * len(text) + [0, 0]])
    others = {"uid": [uid]} | ({} if session is None else {"session_id": [session]})
    return Row({"responses": ids, "attention_mask": mask}, others)


class Row:
    def __init__(self, batch: Any, others: Any) -> None:
        self.batch, self.non_tensor_batch = batch, others

    def __getitem__(self, rows: slice) -> Row:
        assert rows == slice(-1, None)
        return self


TOKENIZER = SimpleNamespace(decode=lambda ids, skip_special_tokens: "".join(chr(i) for i in ids.tolist()))


def manager(method: str = "evol_rl", **more: Any) -> GroupRewardManager:
    return GroupRewardManager(config(method, **more), TOKENIZER, compute_score=None)


@pytest.fixture(scope="module")
def verifier(tmp_path_factory: pytest.TempPathFactory) -> Verifier:
    path = tmp_path_factory.mktemp("data") / "train.jsonl"
    path.write_text(json.dumps({"prompt": "3+4", "answer": "7"}) + "\n")
    return Verifier(load_files(path))


def test_the_scores_are_those_of_the_methods_own_parts(verifier: Verifier) -> None:
    rows = spoken(TEXTS, GROUP)
    verdicts = MajorityVote()(rows, verifier)
    run = SimpleNamespace(verifier=verifier, embed=HashedNgrams())
    want = NoveltyBands()(rows, verdicts, run)
    found = votes_of("evol-rl")(TEXTS, GROUP)
    assert torch.equal(found.score, want.score) and found.success.tolist() == want.success.tolist()
    assert found.vote == {0: "7", 1: "4"} and found.answer == want.answer
    assert found.score.unique().numel() >= 4, "alive"
    assert torch.equal(votes_of("ttrl")(TEXTS, GROUP).score, verdicts.score)
    assert verdicts.score.tolist() == [1, 1, 1, 0, 1, 1, 1, 0]


@pytest.mark.parametrize("method", ["evol_rl", "ttrl", "ttrl_entropy", "srt", "empo", "format_reward"])
def test_methods_that_vote_score_the_two_prompts_apart(method: str) -> None:
    votes = votes_of(method)
    both = votes(TEXTS, GROUP).score
    for number in (0, 1):
        rows = slice(4 * number, 4 * number + 4)
        torch.testing.assert_close(both[rows], votes(TEXTS[rows], [0] * 4).score, rtol=0, atol=1e-12)
    assert both.unique().numel() > 1, "alive"


def test_answers_are_found_and_compared_as_said() -> None:
    texts = ["so 1/2", "so 0.5", "so 3"]
    assert votes_of("ttrl", extract="last_number")(texts, [0] * 3).answer == ["1/2", "1/2", "3"]
    assert votes_of("ttrl")(texts, [0] * 3).score.sum() == 0, "no box, no answer"


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"method": "grpo"}, "grpo reads references"),
        ({"method": "co_rewarding"}, "co_rewarding scores other rows than the responses to a prompt"),
        ({"method": "essa"}, "essa scores other rows"),
        ({"method": "random_reward"}, r"random_reward cannot score texts alone \(.*'key'\)"),
        ({"method": "evol"}, "unknown method 'evol'"),
        ({"method": "ttrl", "by": "maths"}, r"unknown grading\.by 'maths'"),
        ({"method": "ttrl", "extract": "box"}, r"unknown grading\.extract 'box'"),
    ],
)
def test_what_cannot_vote_is_refused(given: dict[str, str], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        votes_of(**given)


@pytest.mark.parametrize("placed", [True, False])
def test_responses_wait_for_those_of_their_prompt(placed: bool) -> None:
    made = manager()
    order = [4, 0, 5, 1, 2, 6, 3, 7]

    async def all_of() -> list[Any]:
        calls = [made.run_single(data(TEXTS[i], f"p{GROUP[i]}", i % 4 if placed else None)) for i in order]
        return await asyncio.gather(*calls)

    found = dict(zip(order, asyncio.run(all_of()), strict=True))
    want = votes_of("evol_rl")(TEXTS, GROUP)
    assert [found[i]["reward_score"] for i in range(8)] == pytest.approx(want.score.tolist(), abs=1e-12)
    assert found[0]["reward_extra_info"] == {"answer": "7", "label": "7", "success": 1.0}
    assert found[3]["reward_extra_info"] == {"answer": "", "label": "7", "success": 0.0}
    assert made.open == {}, "nothing is kept of a prompt that is done"


def test_texts_are_in_the_order_of_their_samples_whoever_came_first(monkeypatch: pytest.MonkeyPatch) -> None:
    made, heard, known = manager(), list[str](), spoken
    monkeypatch.setattr("rekindle.interop.votes.spoken", lambda t, group: heard.extend(t) or known(t, group))

    async def backwards() -> None:
        await asyncio.gather(*(made.run_single(data(ONE[i], "p", i)) for i in (3, 1, 2, 0)))

    asyncio.run(backwards())
    assert heard == list(ONE), "sums do not depend on who came first"


def test_who_waits_in_vain_is_told_so_and_nothing_is_kept() -> None:
    made = manager(patience=0.05)

    async def three() -> list[Any]:
        calls = [made.run_single(data(text, "p")) for text in ONE[:3]]
        return await asyncio.gather(*calls, return_exceptions=True)

    early = asyncio.run(three())
    assert all(isinstance(error, InputError) for error in early)
    assert "3 of the 4 responses to a prompt came within 0.05 s" in str(early[0])
    assert made.open == {}, "the texts of a prompt that failed go, too"


def test_a_slow_vote_does_not_close_a_prompt_that_is_open_again(monkeypatch: pytest.MonkeyPatch) -> None:
    made = manager(patience=0.05)
    other = Waiting([])

    def slow(*_: Any) -> Any:
        made.open["p"] = other
        time.sleep(0.2)
        return []

    monkeypatch.setattr(Waiting, "end", slow)

    async def four() -> list[Any]:
        calls = [made.run_single(data(text, "p")) for text in ONE]
        return await asyncio.gather(*calls, return_exceptions=True)

    assert isinstance(asyncio.run(four())[0], InputError) and made.open == {"p": other}


def test_a_failing_vote_fails_for_all_of_the_prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    made = manager()
    broken = spoken
    monkeypatch.setattr("rekindle.interop.votes.spoken", lambda texts, group: broken(texts, [*group, 0]))

    async def four() -> list[Any]:
        calls = [made.run_single(data(text, "p")) for text in ONE]
        return await asyncio.gather(*calls, return_exceptions=True)

    assert len({str(error) for error in asyncio.run(four()) if isinstance(error, Exception)}) == 1


def test_a_response_needs_the_uid_of_its_prompt() -> None:
    nameless = data("a", "p")
    nameless.non_tensor_batch = {}
    with pytest.raises(InputError, match="without the uid of its prompt"):
        asyncio.run(manager().run_single(nameless))


@pytest.mark.parametrize(
    ("path", "value", "sentence"),
    [
        ("reward.num_workers", 8, r"reward\.num_workers is 8, and votes need all responses in one process"),
        ("actor_rollout_ref.rollout.n", 1, r"rollout\.n is 1, and a vote needs at least 2"),
        ("data.train_batch_size", 251, "251 prompts x 4 responses are more than the 1000"),
        ("trainer.test_freq", 5, r"verl validates with 1 responses a prompt by the same votes, which wait for 4"),
        ("trainer.val_before_train", True, r"val_kwargs\.n=4, or trainer\.test_freq=-1"),
    ],
)
def test_options_by_which_responses_would_not_come_together(path: str, value: Any, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        check(put(config(), path, value))


def test_options_that_do_fit() -> None:
    check(put(config(), "data.train_batch_size", 250))
    check(put(put(config(), "trainer.test_freq", 5), "actor_rollout_ref.rollout.val_kwargs.n", 4))


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({}, r"add \+reward\.reward_kwargs\.method=evol_rl"),
        ({"method": "ttrl", "alpha": 1}, r"reward\.reward_kwargs\.alpha is not known here"),
    ],
)
def test_reward_kwargs_are_checked(given: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        GroupRewardManager(put(config(), "reward.reward_kwargs", given), TOKENIZER)
