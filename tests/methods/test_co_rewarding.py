"""Co-rewarding-I: pairs of views, labels from the other side, and TTRL where both sides say the same."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest
import torch

from rekindle.errors import InputError
from rekindle.methods import co_rewarding, ttrl
from rekindle.methods.co_rewarding import CrossVote
from rekindle.tokens.labels import MajorityVote
from rekindle.tokens.rollouts import Example, Rollouts
from rekindle.tokens.views import Paraphrased, paraphrase, partners
from rekindle.train.options import diff
from tests.methods.made import VERIFIER, group_rollouts, spoken
from tests.methods.stage import on_leaves, table_stage

METHOD = co_rewarding.method()


@dataclass
class Stream:
    """Questions by number, each with a paraphrase unless `bare`."""

    bare: bool = False
    drawn: int = 0
    asked: list[int] = field(default_factory=list)

    def next_examples(self, count: int) -> list[Example]:
        self.asked.append(count)
        self.drawn += count
        meta = {} if self.bare else {"paraphrase": "the same again", "operands": 5, "messages": [{"role": "user"}]}
        return [Example(str(i), "x", "5", dict(meta)) for i in range(self.drawn - count, self.drawn)]


def pairs(texts: dict[str, list[str]], truth: str | None = None) -> Rollouts:
    """Groups of responses by prompt id, one group a name in order."""
    rollouts = spoken(
        [t for said in texts.values() for t in said], [g for g, said in enumerate(texts.values()) for _ in said]
    )
    names = [name.split("/")[0] for name, said in texts.items() for _ in said]
    return replace(rollouts, example=[Example(name, "x", truth) for name in names])


def test_each_question_is_followed_by_its_paraphrase() -> None:
    stream = Stream()
    got = Paraphrased()(stream, 6)
    assert [e.id for e in got] == ["0", "0~", "1", "1~", "2", "2~"] and stream.asked == [3]
    assert [e.prompt for e in got[:2]] == ["x", "the same again"] and got[1].answer == "5"
    assert got[1].meta == {"operands": 5}, "the chat of the question is not that of its paraphrase"
    assert [e.id for e in Paraphrased()(stream, 3)] == ["3", "3~", "4", "4~"], "an odd number takes one view more"


@pytest.mark.parametrize("meta", [{}, {"paraphrase": ""}, {"paraphrase": 3}, {"paraphrase": None}])
def test_a_question_without_a_paraphrase_is_refused(meta: dict) -> None:
    with pytest.raises(InputError, match="prompt '7' has no 'paraphrase'"):
        paraphrase(Example("7", "x", "5", meta))


def test_the_column_is_asked_for() -> None:
    assert METHOD.collect.prompts.example_columns == ("paraphrase",)  # type: ignore[attr-defined]


def test_the_label_is_the_majority_of_the_other_side() -> None:
    rollouts = pairs({"a": ["x=5", "x=5", "x=7"], "a~": ["x=7", "x=7", "x=5"]})
    verdicts = CrossVote()(rollouts, VERIFIER)
    assert verdicts.vote == {0: "7", 1: "5"}
    assert verdicts.success.tolist() == [False, False, True, False, False, True]
    assert MajorityVote()(rollouts, VERIFIER).success.tolist() == [True, True, False, True, True, False]
    assert verdicts.score.tolist() == verdicts.success.double().tolist()


def test_agreement_is_equality_and_what_is_unparsed_never_votes() -> None:
    rollouts = pairs({"a": ["x=1/2", "x", "x"], "a~": ["x", "x=0.5", "x=3"]})
    verdicts = CrossVote()(rollouts, VERIFIER)
    assert verdicts.vote == {0: "0.5", 1: "1/2"}, "ties go to the smallest string"
    assert verdicts.success.tolist() == [True, False, False, False, True, False]
    silent = CrossVote()(pairs({"a": ["x=5"], "a~": ["x"]}), VERIFIER)
    assert silent.vote == {0: None, 1: "5"} and not silent.success.any(), "an empty label: everything fails"


def test_a_view_without_its_partner_has_no_label() -> None:
    verdicts = CrossVote()(pairs({"a": ["x=5", "x=5"], "b~": ["x=5"]}), VERIFIER)
    assert verdicts.vote == {0: None, 1: None} and not verdicts.success.any() and verdicts.graded.all()


def test_visits_of_one_question_pair_up_in_order_whatever_the_row_order() -> None:
    assert partners({0: "a", 1: "a~", 2: "b", 3: "b~", 4: "a", 5: "a~"}) == {0: 1, 1: 0, 2: 3, 3: 2, 4: 5, 5: 4}
    rollouts = pairs({"a/1": ["x=5"], "a~/1": ["x=7"], "a/2": ["x=3"], "a~/2": ["x=9"]})
    want = {0: "7", 1: "5", 2: "9", 3: "3"}
    for order in ([0, 1, 2, 3], [3, 2, 1, 0], [2, 0, 3, 1]):
        assert CrossVote()(rollouts.take(torch.tensor(order)), VERIFIER).vote == want


def test_identical_questions_and_shared_samples_are_ttrl() -> None:
    texts = ["x=5", "y=7", "z=5", "w=3", "v"]
    rollouts = pairs({"a": texts, "a~": texts})
    ours, theirs = CrossVote()(rollouts, VERIFIER), MajorityVote()(rollouts, VERIFIER)
    assert torch.equal(ours.score, theirs.score) and torch.equal(ours.success, theirs.success)
    assert ours.vote == theirs.vote == {0: "5", 1: "5"} and 0 < ours.success.sum() < len(rollouts)


def test_the_loss_of_shared_samples_is_ttrls() -> None:
    rows = group_rollouts(5)
    other = replace(rows, group=rows.group + 1, uid=rows.uid + 6, example=[Example("5~", "x", "5")] * len(rows))
    rollouts = Rollouts.concat([rows, other])
    parent = ttrl.method()
    ours = METHOD.replace(terms=parent.terms)
    losses = []
    for method in (ours, parent):
        stage = table_stage(method, prompts_per_step=2, group_size=6)
        stage.next_examples = lambda count: [Example("5", "x", "5", {"paraphrase": "y"})] * count  # type: ignore[method-assign]
        stage.sample = lambda examples: rollouts  # type: ignore[method-assign]
        batch = method.credit(method.collect(stage))
        losses.append(on_leaves(method, batch, stage.policy(batch).detach()))
    assert losses[0][0] == losses[1][0] and torch.equal(losses[0][1], losses[1][1])
    assert (losses[0][1] != 0).any()


def test_it_reads_no_reference() -> None:
    texts = {"a": ["x=5", "x=5", "x=7"], "a~": ["x=7", "x=7", "x=5"]}
    votes = [CrossVote()(pairs(texts, truth), VERIFIER) for truth in ("5", "7", "?", None)]
    assert all(torch.equal(v.success, votes[0].success) and v.graded.all() for v in votes)


def test_the_difference_from_ttrl() -> None:
    paths = {change.path for change in diff(ttrl.method(), METHOD)}
    assert paths == {"collect.prompts", "collect.label", "terms.0.coef", "descent.lr"}
