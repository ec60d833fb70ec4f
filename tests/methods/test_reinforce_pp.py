"""REINFORCE++: the whitened returns on paper, the KL by token, one response a prompt, and its settings."""

from __future__ import annotations

import pytest
import torch

from rekindle.core.masked import whiten
from rekindle.core.returns import KLInReward, WhitenTokens
from rekindle.core.types import LOGP_REF, Batch
from rekindle.methods import reinforce_pp
from tests.batches import hand_batch, make_batch
from tests.methods.stage import table_stage

METHOD = reinforce_pp.method()


def four(**columns: torch.Tensor) -> Batch:
    """Scores 1 0 0 0 of lengths 2 4 3 1, at the reference."""
    zeros = torch.zeros(4, 4, dtype=torch.float64)
    batch = hand_batch([1.0, 0.0, 0.0, 0.0], [2, 4, 3, 1], logp_old=zeros, logp_ref=zeros)
    return batch.with_columns(**columns)


@pytest.mark.parametrize(("ddof", "high", "low"), [(0, 2.0, -0.5), (1, 1.897367, -0.474342)])
def test_one_right_answer_in_four(ddof: int, high: float, low: float) -> None:
    batch = four()
    got = METHOD.replace(modulate=(WhitenTokens(ddof=ddof),)).credit(batch).advantage
    want = torch.tensor([[high], [low], [low], [low]], dtype=torch.float64).where(batch.mask, 0.0)
    torch.testing.assert_close(got, want, rtol=0, atol=1e-6)


def test_each_token_pays_for_what_follows_it() -> None:
    drift = torch.zeros(4, 4, dtype=torch.float64)
    drift[1] = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
    batch = four(logp_old=drift)
    raw = METHOD.replace(prepare=(KLInReward(coef=0.5),), modulate=()).credit(batch).advantage
    assert raw[1].tolist() == pytest.approx([-0.5, -0.45, -0.35, -0.2], abs=1e-12)
    assert raw[0].tolist() == [1.0, 1.0, 0.0, 0.0]
    whitened = METHOD.replace(prepare=(KLInReward(coef=0.5),)).credit(batch).advantage
    torch.testing.assert_close(whitened, whiten(raw, batch.live), rtol=0, atol=0)


def test_without_the_kl_it_is_the_score_whitened_over_tokens() -> None:
    batch = make_batch(ungraded=True, shaped=True)
    got = METHOD.replace(prepare=(KLInReward(coef=0.0),)).credit(batch).advantage
    tokens = torch.cat([batch.score[i].repeat(int(batch.live[i].sum())) for i in range(len(batch))])
    want = (batch.score - tokens.mean()) / (tokens.var(correction=0) + 1e-8).sqrt()
    torch.testing.assert_close(got, want[:, None].where(batch.live, 0.0), rtol=1e-12, atol=1e-12)


def test_groups_are_never_looked_at() -> None:
    batch = make_batch(B=14)
    alone = hand_batch([1.0, 0.0, 1.0], group=[0, 1, 2], logp_old=torch.zeros(3, 1).double())
    alone = METHOD.credit(alone.with_columns(logp_ref=alone.logp_old))
    assert alone.advantage[:, 0].tolist() == pytest.approx([0.5**0.5, -(2**0.5), 0.5**0.5], abs=1e-6)
    other = METHOD.credit(batch.with_columns()).advantage
    assert torch.equal(METHOD.credit(batch.take(torch.arange(14))).advantage, other)
    assert not METHOD.advantage.needs_group


def test_equal_scores_at_the_reference_teach_nothing() -> None:
    zeros = torch.zeros(4, 1, dtype=torch.float64)
    batch = hand_batch([0.7] * 4, logp_old=zeros, logp_ref=zeros)
    assert (METHOD.credit(batch).advantage == 0).all()


def test_it_asks_for_the_reference_and_only_then_charges_it() -> None:
    assert LOGP_REF in METHOD.needs()
    stage = table_stage(METHOD)
    batch = METHOD.collect(stage)
    assert not torch.equal(batch.column("logp_ref"), batch.logp_old)
    dear = METHOD.replace(prepare=(KLInReward(coef=1.0),))
    assert not torch.allclose(METHOD.credit(batch).advantage, dear.credit(batch).advantage)


def test_scores_that_are_not_finite_are_named() -> None:
    zeros = torch.zeros(2, 1, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"rows \[1\]"):
        METHOD.credit(hand_batch([0.0, float("nan")], logp_old=zeros, logp_ref=zeros))
