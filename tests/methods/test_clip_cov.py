"""Clip-Cov: worked numbers, plain clipping where nothing is eligible, and a draw that follows token and update."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from rekindle.core.method import Descent, PolicyGradient
from rekindle.core.objectives import Clip
from rekindle.core.random import uniforms
from rekindle.core.types import Batch, Now
from rekindle.methods import clip_cov, grpo
from rekindle.methods.clip_cov import ClipCov
from rekindle.tokens.rollouts import Rollouts
from tests.batches import hand_batch, make_batch, make_now, poisoned
from tests.methods.made import group_rollouts
from tests.methods.stage import collected, on_leaves

METHOD = clip_cov.method()
PROBS = [0.9, 0.8, 0.05, 0.5, 0.02, 0.95]
MOVED = [0.1, 0.0, 0.0, 0.0, -0.2, 0.0]


def hand(key: int = 0, moved: list[float] | None = None) -> tuple[Batch, Now]:
    """Six tokens in one row."""
    logp = torch.tensor([PROBS], dtype=torch.float64).log()
    advantage = torch.tensor([[1.0, 1, 1, -1, -1, -1]], dtype=torch.float64)
    old = logp - torch.tensor([moved or MOVED], dtype=torch.float64)
    batch = hand_batch([1.0], [6], logp_old=old, advantage=advantage)
    return replace(batch, key=torch.tensor(key)), Now(logp=logp, entropy=torch.zeros_like(logp))


def with_objective(share: float = 2e-4, above: float = 1.0, below: float = 5.0) -> PolicyGradient:
    return METHOD.replace(objective=ClipCov(share=share, above=above, below=below))


def eligible(batch: Batch, now: Now) -> list[int]:
    return ClipCov().eligible(now, batch)[0][0].nonzero()[:, 0].tolist()


def test_hand_example() -> None:
    batch, now = hand()
    assert eligible(batch, now) == [0, 1, 4]
    draw = {k: uniforms(torch.tensor(k), batch.uid, 6)[0, [0, 1, 4]].argmin().item() for k in range(20)}
    key = next(k for k, first in draw.items() if first == 0)
    loss, grad, _ = on_leaves(METHOD, *hand(key))
    assert loss == pytest.approx(0.13645513, abs=1e-8)
    assert (6 * grad[0]).tolist() == pytest.approx([0, -1, -1, 1, 0.81873, 1], abs=1e-5)
    assert grad[0, 0] == 0.0, "exactly, and it stays in the denominator"


def test_clipped_tokens_are_not_eligible_and_bounds_are_strict() -> None:
    batch, now = hand(moved=[0.8, 0.0, 0.0, 0.0, -0.2, 0.0])  # ratio 2.23 > 2 with a positive advantage
    assert eligible(batch, now) == [1, 4]
    edge = float(clip_cov.centred_product(now, batch)[0][0, 1])
    assert not ClipCov(above=edge).eligible(now, batch)[0][0, 1]
    assert not ClipCov(above=0.0, below=edge).eligible(now, batch)[0][0, 1]


@pytest.mark.parametrize("neutral", [with_objective(share=0.0), with_objective(share=0.5, above=98.0, below=99.0)])
def test_with_nothing_to_drop_it_is_the_clipped_surrogate(neutral: PolicyGradient) -> None:
    plain = grpo.method().replace(objective=Clip(low=0.0, high=2.0, dual=None))
    rollouts = Rollouts.concat([group_rollouts(g) for g in (2, 5, 6)])
    (stage, ours), (_, theirs) = collected(neutral, rollouts), collected(plain, rollouts)
    now = stage.policy(ours).detach()
    got, want = on_leaves(neutral, ours, now), on_leaves(plain, theirs, now)
    assert got[0] == want[0] and torch.equal(got[1], want[1]) and (want[1] != 0).any()
    some = with_objective(share=0.5, above=0.0)
    assert not torch.equal(on_leaves(some, ours, now)[1], want[1])


def dropped(method: PolicyGradient, batch: Batch, now: Now) -> Tensor:
    """Where the gradient is exactly 0 although plain clipping has one."""
    plain = METHOD.replace(objective=Clip(low=0.0, high=2.0, dual=None))
    return (on_leaves(method, batch, now)[1] == 0) & (on_leaves(plain, batch, now)[1] != 0)


def test_how_many_are_dropped_and_which() -> None:
    batch = make_batch(B=20, T=9, ungraded=True)
    now = make_now(batch, requires_grad=False)
    band, pool = ClipCov(above=0.05).eligible(now, batch)
    draw = uniforms(batch.key, batch.uid, 9)
    for share in (1e-9, 0.05, 0.2, 1.0):
        gone = dropped(with_objective(share, 0.05), batch, now)
        count = min(max(int(share * int(pool.sum()) + 1e-9), 1), int(band.sum()))
        assert gone.sum() == count and not (gone & ~band).any()
        assert draw[gone].max() <= draw[band & ~gone].min() if count < band.sum() else True
    metrics = with_objective(0.05, 0.05).objective(now, batch)[1]
    assert metrics["cov_eligible"] == (float(band.sum()), float(pool.sum()))


def test_the_draw_follows_the_token_and_changes_with_the_update() -> None:
    batch = make_batch(B=20, T=9)
    now = make_now(batch, requires_grad=False)
    method = with_objective(0.1, 0.05)
    order = torch.randperm(20, generator=torch.Generator().manual_seed(0))
    said = Now(logp=now.logp[order], entropy=now.entropy[order])
    want = dropped(method, batch, now)
    assert torch.equal(dropped(method, batch.take(order), said), want[order])
    assert not torch.equal(dropped(method, replace(batch, key=batch.key + 1), now), want)
    epochs = [part.key.item() for part in Descent(epochs=3, minibatches=2).split(batch)]
    assert len(set(epochs)) == 6, "every update draws anew"


def test_dead_positions_and_empty_bands() -> None:
    full = make_batch(ungraded=True)
    said = make_now(full)
    method = with_objective(0.3, 0.05)
    dirty, clean = on_leaves(method, *poisoned(full, said)), on_leaves(method, full, said)
    assert dirty[0] == clean[0] and torch.equal(dirty[1], clean[1])
    flat = full.with_columns(advantage=torch.zeros_like(full.advantage))
    assert on_leaves(method, flat, said)[0] == 0.0


def test_bad_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="percents are divided by 100"):
        ClipCov(share=-0.1)
    with pytest.raises(ValueError, match="above < below"):
        ClipCov(above=5.0, below=1.0)
