"""Forking tokens: worked numbers, DAPO at share 1, who is kept, and whose entropy decides."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from rekindle.core.method import PolicyGradient
from rekindle.core.types import Batch, Now
from rekindle.methods import dapo, forking_tokens
from rekindle.methods.forking_tokens import TopEntropy
from rekindle.tokens.rollouts import Rollouts
from tests.batches import hand_batch, make_batch, make_now, pad, poisoned
from tests.methods.made import group_rollouts
from tests.methods.stage import collected, on_leaves

METHOD = forking_tokens.method()
ENTROPY = [0.05, 2.0, 0.1, 0.0, 1.2, 0.3, 0.02, 0.9, 0.01, 0.2]
RATIO = [1.0, 1.1, 1.0, 1.0, 0.9, 1.0, 1.0, 1.2, 1.0, 1.4]


def with_share(share: float, side: str = "top") -> PolicyGradient:
    return METHOD.replace(keep=(TopEntropy(share=share, side=side),))  # type: ignore[arg-type]


def hand() -> tuple[Batch, Now]:
    """Two rows of five tokens, the first right, the second wrong."""
    ratio = torch.tensor(RATIO, dtype=torch.float64).view(2, 5)
    advantage = torch.tensor([[1.0], [-1.0]], dtype=torch.float64).expand(2, 5)
    batch = hand_batch([1.0, 0.0], [5, 5], logp_old=torch.zeros_like(ratio), advantage=advantage)
    return batch, Now(logp=ratio.log(), entropy=torch.tensor(ENTROPY, dtype=torch.float64).view(2, 5))


def kept(share: float, batch: Batch, now: Now, side: str = "top") -> list[int]:
    return TopEntropy(share=share, side=side)(now, batch).flatten().nonzero()[:, 0].tolist()  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("share", "tokens", "loss"), [(0.2, [1, 4], -1.0), (0.3, [1, 4, 7], -0.8 / 3), (1.0, list(range(10)), 0.06)]
)
def test_hand_example(share: float, tokens: list[int], loss: float) -> None:
    batch, now = hand()
    assert kept(share, batch, now) == tokens
    got, grad, by_entropy = on_leaves(with_share(share), batch, now)
    assert got == pytest.approx(loss, abs=1e-12)
    left = [i for i in range(10) if i not in tokens]
    assert (grad.flatten()[left] == 0).all() and (by_entropy == 0).all(), "entropy only ranks"
    if share == 1.0:
        assert on_leaves(dapo.method(), batch, now)[0] == got


def test_the_bottom_is_what_the_top_leaves() -> None:
    batch, now = hand()
    assert sorted(kept(0.2, batch, now) + kept(0.8, batch, now, "bottom")) == list(range(10))


def test_counts() -> None:
    for size, count in ((3, 1), (5, 1), (7, 2), (10, 2), (11, 3), (100, 20)):
        batch = hand_batch([1.0], [size])
        now = Now(logp=torch.zeros(1, size), entropy=torch.rand(1, size))
        assert len(kept(0.2, batch, now)) == count
    assert len(kept(0.55, hand_batch([1.0], [100]), Now(logp=torch.zeros(1, 100), entropy=torch.rand(1, 100)))) == 55


def test_share_one_is_dapo_bit_by_bit() -> None:
    rollouts = Rollouts.concat([group_rollouts(g) for g in (5, 6, 7)])
    neutral = with_share(1.0)
    (stage, ours), (_, theirs) = collected(neutral, rollouts), collected(dapo.method(), rollouts)
    now = stage.policy(ours).detach()
    got, want = on_leaves(neutral, ours, now), on_leaves(dapo.method(), theirs, now)
    assert got[0] == want[0] and torch.equal(got[1], want[1]) and (want[1] != 0).any()
    assert not torch.equal(on_leaves(METHOD, ours, now)[1], want[1])


def test_the_kept_set_sees_all_responses_no_order_and_no_padding() -> None:
    batch = make_batch(B=15, T=9, ungraded=True)
    now = make_now(batch, requires_grad=False)
    part = TopEntropy(share=0.3)
    want = part(now, batch)
    assert (want & ~batch.live).sum() == 0
    assert now.entropy[want].min() > now.entropy[batch.live & ~want].max()
    assert len(want.sum(dim=1).unique()) > 2, "a share of the minibatch, not of each response"
    order = torch.randperm(15, generator=torch.Generator().manual_seed(1))
    moved = Now(logp=now.logp[order], entropy=now.entropy[order])
    assert torch.equal(part(moved, batch.take(order)), want[order])
    wide, said = pad(batch, now)
    assert torch.equal(part(said, wide)[:, :9], want) and not part(said, wide)[:, 9:].any()
    dirty, noise = poisoned(batch, now)
    assert torch.equal(part(noise, dirty), want)


def test_ties_by_uid_then_position() -> None:
    batch = replace(hand_batch([1.0, 0.0], [3, 3]), uid=torch.tensor([8, 2]))
    now = Now(logp=torch.zeros(2, 3), entropy=torch.ones(2, 3))
    assert kept(2 / 6, batch, now) == [3, 4] and kept(4 / 6, batch, now) == [0, 3, 4, 5]


def test_the_entropy_is_that_of_the_policy_now() -> None:
    rollouts = Rollouts.concat([group_rollouts(g) for g in (5, 6)])
    stage, batch = collected(METHOD, rollouts)
    now = stage.policy(batch).detach()
    old = batch.with_columns(entropy_old=-now.entropy)
    weight = METHOD.weigh(old, now).column("weight")
    assert torch.equal(weight > 0, TopEntropy(share=0.2)(now, batch))


def test_an_empty_pool_keeps_nothing() -> None:
    batch = replace(make_batch(), graded=torch.zeros(12, dtype=torch.bool))
    assert not TopEntropy()(make_now(batch), batch).any()
    assert on_leaves(METHOD, batch, make_now(batch))[0] == 0.0


@pytest.mark.parametrize("share", [0.0, -0.2, 20.0])
def test_bad_shares_are_refused(share: float) -> None:
    with pytest.raises(ValueError, match="share of tokens"):
        TopEntropy(share=share)
