"""Steps of a response by token ids, by a predicate on the decoded text, and by the task's own delimiters."""

from __future__ import annotations

import pickle
from dataclasses import replace
from types import SimpleNamespace

import torch

from rekindle.methods import echo_rl
from rekindle.tokens.columns import Steps
from rekindle.train.options import flatten, override
from tests.methods.made import VERIFIER, spoken
from tests.tiny_models import tokenizer

IDS = torch.tensor([[3, 16, 16, 4, 16, 2], [16, 3, 2, 16, 16, 16]])
ROLLOUTS = replace(spoken(["x"] * 2, lengths=[6, 3]), ids=IDS)
RUN = SimpleNamespace(tokenizer=tokenizer(), verifier=VERIFIER)


def is_n(text: str) -> bool:
    return text == "n"


def is_a_or_b(text: str) -> bool:
    return text in ("a", "b")


def test_ids_and_predicates_say_what_the_delimiters_say() -> None:
    want = Steps()(ROLLOUTS, RUN)
    assert want.tolist() == [[0, 0, 0, 1, 1, 2], [0, 0, 0, -1, -1, -1]]
    assert torch.equal(Steps(ids=(16,))(ROLLOUTS, RUN), want)
    assert torch.equal(Steps(ends=is_n)(ROLLOUTS, RUN), want)


def test_ids_come_before_a_predicate_and_that_before_the_task() -> None:
    by_ids = Steps(ids=(3, 4))(ROLLOUTS, RUN)
    assert by_ids.tolist() == [[0, 0, 0, 0, 1, 1], [0, 0, 1, -1, -1, -1]], "a leading delimiter opens nothing"
    assert torch.equal(Steps(ends=is_a_or_b)(ROLLOUTS, RUN), by_ids)
    assert torch.equal(Steps(ids=(3, 4), ends=is_n)(ROLLOUTS, RUN), by_ids)
    silent = SimpleNamespace(tokenizer=None, verifier=None)
    assert torch.equal(Steps(ids=(3, 4))(ROLLOUTS, silent), by_ids), "ids need no tokenizer"


def test_ids_can_be_set_by_name() -> None:
    method = override(echo_rl.method(), "collect.columns.0.ids", [198, 271])
    assert flatten(method)["collect.columns.0.ids"] == (198, 271)
    assert pickle.loads(pickle.dumps(Steps(ends=is_n))) == Steps(ends=is_n)


def test_a_token_with_content_and_a_delimiter_is_a_step_of_its_own() -> None:
    texts = {1: "a\n", 2: "w", 3: "\n", 4: " \n\n", 5: "x.\n"}
    run = SimpleNamespace(
        tokenizer=SimpleNamespace(decode=lambda ids: texts[ids[0]]), verifier=SimpleNamespace(step_delimiters=("\n",))
    )
    ids = torch.tensor([[1, 2, 0, 0, 0, 0], [2, 1, 3, 4, 5, 2], [3, 1, 1, 2, 4, 2], [2, 3, 5, 3, 5, 5]])
    got = Steps()(replace(spoken(["x"] * 4, lengths=[2, 6, 6, 6]), ids=ids), run)
    want = [[0, 1, -1, -1, -1, -1], [0, 0, 0, 0, 1, 2], [0, 0, 1, 2, 2, 3], [0, 0, 1, 1, 2, 3]]
    assert got.tolist() == want
