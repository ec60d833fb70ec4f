"""SFT on written rows: the token mean of -log p, whatever else the record holds."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from rekindle.core.likelihood import Likelihood
from rekindle.errors import InputError
from rekindle.methods import sft
from rekindle.tokens.labels import Verdicts
from rekindle.tokens.offline import ChosenRejected, Demonstrations, Given, ScoredCompletions
from rekindle.tokens.rollouts import Example
from tests.methods.made import VERIFIER, spoken
from tests.methods.stage import Stage, TablePolicy, direct, on_leaves, staged, table_stage, trainable

METHOD = sft.method()


def test_the_loss_is_the_mean_over_all_tokens_of_minus_log_p() -> None:
    stage, batch = staged("sft", torch.float64, table=True)
    batch = METHOD.credit(batch)
    now = stage.policy(batch)
    loss, grad, _ = on_leaves(METHOD, batch, now)
    assert loss == pytest.approx(-(now.logp[batch.live].sum() / batch.live.sum()).item())
    torch.testing.assert_close(grad, -batch.live.double() / batch.live.sum())


def test_dfts_gradient_is_p_times_that_of_sft() -> None:
    stage, batch = staged("sft", torch.float64, table=True)
    batch = METHOD.credit(batch)
    now = stage.policy(batch)
    _, plain, _ = on_leaves(METHOD, batch, now)
    _, confident, _ = on_leaves(METHOD.replace(objective=Likelihood(confident=True)), batch, now)
    torch.testing.assert_close(confident, plain * now.logp.detach().exp())
    sure = replace(now.detach(), logp=torch.zeros_like(now.logp))
    assert torch.equal(
        *(on_leaves(METHOD.replace(objective=Likelihood(confident=c)), batch, sure)[1] for c in (False, True))
    )


def test_a_split_of_the_batch_changes_nothing_though_rows_differ_in_length() -> None:
    stage, batch = staged("sft", torch.float64, table=True)
    batch = METHOD.credit(batch)
    weighed = METHOD.weigh(batch)
    parts = [METHOD.loss(stage.policy(batch.take(r)), weighed.take(r))[0] for r in torch.arange(len(batch)).split(2)]
    assert sum(parts).item() == pytest.approx(METHOD.loss(stage.policy(batch), weighed)[0].item(), rel=1e-14)
    assert direct(stage, batch).abs().max() > 0


def test_draws_bring_the_rows_of_the_data_with_their_scores() -> None:
    meta = {"demonstration": "abc", "chosen": "ab", "rejected": "b", "completions": ["a", "b", "c"]}
    example = Example("7", "x", meta={**meta, "rewards": [1, 0.5, -2]})
    assert list(Demonstrations().rows(example)) == [("abc", 1.0)]
    assert list(ChosenRejected().rows(example)) == [("ab", 1.0), ("b", 0.0)]
    assert list(ScoredCompletions().rows(example)) == [("a", 1.0), ("b", 0.5), ("c", -2.0)]


def test_the_label_gives_the_datas_scores_and_refuses_samples() -> None:
    rows = replace(spoken(["a=5", "b=7", "c"]), given=torch.tensor([1.0, 0.0, -0.5], dtype=torch.float64))
    said: Verdicts = Given()(rows, VERIFIER)
    assert said.score.tolist() == [1.0, 0.0, -0.5] and said.success.tolist() == [True, False, False]
    assert said.answer == ["5", "7", None] and said.graded.all()
    with pytest.raises(InputError, match="use Verified"):
        Given()(spoken(["a"]), VERIFIER)


def test_repeated_steps_make_the_demonstrations_likelier() -> None:
    stage: Stage = table_stage(METHOD, lr=2.0)
    policy = stage.policy
    assert isinstance(policy, TablePolicy) and trainable(policy)
    first = [METHOD.step(stage)["nll"] for _ in range(6)]
    told = [total / count for total, count in first]
    assert told[-1] < told[0] - 0.1
