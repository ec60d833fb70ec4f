"""TVD++ by the numbers worked on paper; its gradient is that of TVD, scaled; KLD, TVD and their sampled estimates."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from rekindle.core.draft_losses import (
    DraftLoss,
    acceptance,
    draft_and_target,
    drawn,
    hit_logp,
    hit_share,
    kld,
    rewarded,
    tvd,
)
from rekindle.core.types import Batch, Now, Seen
from rekindle.errors import InputError
from rekindle.methods import tvdpp
from rekindle.train.options import override
from tests.batches import hand_batch
from tests.methods.stage import by_descend, difference, direct, staged, table_stage

P, Q = [[0.6, 0.3, 0.1], [0.2, 0.5, 0.3]], [[0.5, 0.2, 0.3], [0.1, 0.85, 0.05]]
METHOD = tvdpp.method()
LOSSES = [
    *(DraftLoss(kind=kind) for kind in ("kld", "tvd")),
    DraftLoss(kind="tvd", estimator="sampled"),
    *(DraftLoss(scope=scope) for scope in ("batch", "sequence", "position")),
    *(DraftLoss(estimator="sampled", scope=scope) for scope in ("batch", "sequence")),
]


def seen_of(logits: Tensor, q: Tensor, uid: int = 7) -> Seen:
    """One position a row of `logits`, drawn for by its place."""
    count = len(logits)
    at = (torch.tensor(3), torch.full((count,), uid), torch.arange(count))
    return Seen({"policy": logits, "teacher": q.log()}, {}, {}, {}, torch.zeros(count, dtype=torch.int64), {}, at)


def hand(rows: int = 1, loss: DraftLoss = METHOD.objective, q: list[list[float]] = Q) -> tuple[Tensor, Now, Batch]:  # type: ignore[assignment]
    """(draft logits, what is said, batch) of one response of `rows` tokens."""
    logits = torch.tensor(P[:rows], dtype=torch.float64).log().requires_grad_()
    seen = seen_of(logits, torch.tensor(q[:rows], dtype=torch.float64))
    extra = {need.name: need.compute(seen)[None] for need in loss.needs}
    logp = torch.log_softmax(logits, dim=-1)
    entropy = -(logp.exp() * logp).sum(dim=-1)[None]
    return logits, Now(logp=logp[None, :, 0], entropy=entropy, extra=extra), hand_batch([1.0], [rows])


def gradient(loss: DraftLoss, rows: int = 1, q: list[list[float]] = Q) -> tuple[float, Tensor]:
    """(token mean of the loss, its gradient on the draft's logits)."""
    logits, now, batch = hand(rows, loss, q)
    total = loss(now, batch)[0].mean()
    total.backward()
    assert logits.grad is not None
    return total.item(), logits.grad


def literal(mu: float, sd: float) -> tuple[float, Tensor]:
    """The definition: -sum_v sg[p (r - mu) / sd] log p at the first position."""
    logits = torch.tensor(P[0], dtype=torch.float64).log().requires_grad_()
    logp, q = torch.log_softmax(logits, dim=-1), torch.tensor(Q[0], dtype=torch.float64)
    weight = logp.detach().exp() * ((q > logp.detach().exp()).double() - mu) / sd
    loss = -(weight * logp).sum()
    loss.backward()
    assert logits.grad is not None
    return loss.item(), logits.grad


def close(got: Tensor, want: list[float], digits: float = 5e-5) -> None:
    """Equal to the printed digits."""
    torch.testing.assert_close(got.flatten(), torch.tensor(want, dtype=torch.float64), rtol=0, atol=digits)


def test_the_worked_example_of_one_position() -> None:
    logp, q = draft_and_target(
        seen_of(torch.tensor(P, dtype=torch.float64).log(), torch.tensor(Q, dtype=torch.float64))
    )
    close(tvd(logp, q), [0.2, 0.35], 1e-12)
    close(acceptance(logp, q), [0.8, 0.65], 1e-12)
    assert rewarded(logp, q).int().tolist() == [[0, 0, 1], [0, 1, 0]]
    close(hit_share(logp, q), [0.1, 0.5], 1e-12)
    close(gradient(DraftLoss(kind="tvd"))[1], [0.06, 0.03, -0.09], 1e-12)
    close(gradient(DraftLoss(kind="kld"))[1], [0.1, 0.1, -0.2], 1e-12)
    loss, grad = gradient(DraftLoss())
    close(grad, [0.2, 0.1, -0.3], 1e-12)
    assert loss == pytest.approx(0.46821, abs=5e-6)
    close(literal(1 / 3, math.sqrt(2) / 3)[1], [0.1273, 0.0636, -0.1909])


def test_the_gradient_of_the_other_kl_is_the_sheets() -> None:
    logits = torch.tensor(P[0], dtype=torch.float64).log().requires_grad_()
    logp = torch.log_softmax(logits, dim=-1)
    (logp.exp() * (logp - torch.tensor(Q[0], dtype=torch.float64).log())).sum().backward()
    assert logits.grad is not None
    close(logits.grad, [0.0367, 0.0853, -0.1220])


def test_the_distance_has_the_gradient_of_its_policy_gradient_form() -> None:
    for rows in (1, 2):
        logits = torch.tensor(P[:rows], dtype=torch.float64).log().requires_grad_()
        logp, q = draft_and_target(seen_of(logits, torch.tensor(Q[:rows], dtype=torch.float64)))
        wants = torch.autograd.grad(tvd(logp, q).sum(), logits, retain_graph=True)[0]
        torch.testing.assert_close(torch.autograd.grad(-hit_logp(logp, q).sum(), logits)[0], wants)


@pytest.mark.parametrize("mu", [-2.0, 0.0, 0.1, 1 / 3, 5.0])
def test_exactly_taken_any_mean_gives_the_gradient_of_the_distance_over_the_deviation(mu: float) -> None:
    plain = gradient(DraftLoss(kind="tvd"))[1]
    torch.testing.assert_close(literal(mu, 0.3)[1], plain[0] / 0.3)
    if mu == 0.1:  # the p-weighted one, so that the loss is ours, too
        loss, grad = gradient(DraftLoss())
        torch.testing.assert_close(torch.tensor(literal(mu, 0.3)[0]), torch.tensor(loss))
        torch.testing.assert_close(literal(mu, 0.3)[1], grad[0])


def test_mean_and_deviation_are_those_of_their_scope() -> None:
    plain = gradient(DraftLoss(kind="tvd"), rows=2)[1]
    together = gradient(DraftLoss(), rows=2)[1]
    torch.testing.assert_close(together, plain / 0.45826, rtol=1e-5, atol=0)
    torch.testing.assert_close(gradient(DraftLoss(scope="sequence"), rows=2)[1], together)
    apart = gradient(DraftLoss(scope="position"), rows=2)[1]
    torch.testing.assert_close(apart, plain / torch.tensor([[0.3], [0.5]], dtype=torch.float64))
    _, now, batch = hand(2, DraftLoss())
    assert DraftLoss()(now, batch)[1] == {
        "acceptance": (pytest.approx(1.45), 2.0),
        "draft_reward": (pytest.approx(0.6), 2.0),
    }


def test_a_sequence_is_standardised_by_itself() -> None:
    _, now, batch = hand(2, DraftLoss())
    batch = hand_batch([1.0, 1.0], [1, 1])
    now = Now(logp=now.logp.T, entropy=now.entropy.T, extra={name: value.T for name, value in now.extra.items()})
    rowwise, whole = (DraftLoss(scope=scope)(now, batch)[0].detach() for scope in ("sequence", "batch"))
    torch.testing.assert_close(rowwise, DraftLoss(scope="position")(now, batch)[0].detach())
    assert not torch.allclose(rowwise, whole)


@pytest.mark.parametrize("loss", LOSSES, ids=str)
def test_a_draft_that_is_its_target_learns_nothing(loss: DraftLoss) -> None:
    value, grad = gradient(loss, rows=2, q=P)
    assert math.isfinite(value) and grad.abs().max() < 1e-12
    if loss.kind == "tvd++":
        assert value == 0.0 and (grad == 0).all()


def test_one_scope_that_says_nothing_does_not_silence_the_others() -> None:
    grad = gradient(DraftLoss(scope="position"), rows=2, q=[P[0], Q[1]])[1]
    assert (grad[0] == 0).all() and (grad[1] != 0).all()


def test_impossible_tokens_are_no_fault() -> None:
    logits = torch.tensor([[0.0, 1.0, -math.inf]], dtype=torch.float64).requires_grad_()
    logp, q = draft_and_target(seen_of(logits, torch.tensor([[0.5, 0.5, 0.0]], dtype=torch.float64)))
    total = kld(logp, q) + hit_logp(logp, q) + tvd(logp, q)
    total.sum().backward()
    assert total.isfinite().all() and logits.grad is not None and logits.grad.isfinite().all()
    sure = torch.tensor([[0.1, 0.1, 0.8]], dtype=torch.float64)
    assert kld(logp, sure).item() == math.inf


def single(baseline: float) -> float:
    """Trace of the covariance of the one-draw gradient at the first position."""
    p, q = torch.tensor(P[0], dtype=torch.float64), torch.tensor(Q[0], dtype=torch.float64)
    score = torch.eye(3, dtype=torch.float64) - p  # row x is grad log p(x)
    grads = -((q > p).double() - baseline)[:, None] * score
    mean = (p[:, None] * grads).sum(dim=0)
    close(mean, [0.06, 0.03, -0.09], 1e-12)
    return (p[:, None] * (grads - mean).square()).sum().item()


def test_the_mean_as_baseline_makes_one_draw_less_noisy() -> None:
    assert single(0.0) == pytest.approx(0.1134, abs=5e-5)
    assert single(0.1) == pytest.approx(0.0936, abs=5e-5)


def test_draws_follow_the_draft_and_give_the_gradient_of_the_distance_on_average() -> None:
    count = 40_000
    logits = torch.tensor(P[0], dtype=torch.float64).log().repeat(count, 1).requires_grad_()
    seen = seen_of(logits, torch.tensor(Q[0], dtype=torch.float64).repeat(count, 1))
    logp = torch.log_softmax(logits, dim=-1)
    shares = drawn(logp, seen.draws(1)[:, 0]).bincount(minlength=3) / count
    torch.testing.assert_close(shares.double(), torch.tensor(P[0], dtype=torch.float64), rtol=0, atol=0.01)
    loss = DraftLoss(kind="tvd", estimator="sampled")
    extra = {need.name: need.compute(seen)[None] for need in loss.needs}
    now = Now(logp=logp[None, :, 0], entropy=torch.zeros(1, count).double(), extra=extra)
    loss(now, hand_batch([1.0], [count]))[0].sum().backward()
    assert logits.grad is not None
    close(logits.grad.mean(dim=0), [0.06, 0.03, -0.09], 4 * math.sqrt(0.1134 / count))
    reward = extra["draft_drawn_hit"][0]
    logits.grad = None
    plus = DraftLoss(estimator="sampled")
    extra = {need.name: need.compute(seen)[None] for need in plus.needs}
    plus(replace(now, extra=extra), hand_batch([1.0], [count]))[0].sum().backward()
    close(logits.grad.mean(dim=0) * reward.std(unbiased=False), [0.06, 0.03, -0.09], 4 * math.sqrt(0.0936 / count))


@pytest.mark.parametrize("loss", LOSSES, ids=str)
def test_every_kind_is_the_same_in_any_cut(loss: DraftLoss) -> None:
    stage, batch = staged("tvdpp", torch.float64)
    stage = replace(stage, method=METHOD.replace(objective=loss))
    batch = stage.method.credit(batch)
    want = direct(stage, batch)
    kinds = (False, True) if loss.separable else (True,)
    assert want.abs().max() > 1e-3
    assert max(difference(by_descend(stage, batch, micro, two), want) for micro in (1, 3) for two in kinds) < 1e-10


def test_what_has_no_meaning_is_refused() -> None:
    with pytest.raises(ValueError, match="'kld' is an expectation under the target"):
        DraftLoss(kind="kld", estimator="sampled")
    with pytest.raises(ValueError, match="one draw a position"):
        DraftLoss(estimator="sampled", scope="position")
    with pytest.raises(InputError):
        override(METHOD, "objective.kind", "reverse")


def test_the_needs_are_those_of_the_kind_only() -> None:
    names = [{need.name for need in loss.needs} for loss in (DraftLoss(kind="kld"), DraftLoss(estimator="sampled"))]
    assert names == [{"draft_kld", "draft_acceptance"}, {"draft_drawn_logp", "draft_drawn_hit", "draft_acceptance"}]
    assert METHOD.passes() == {"policy", "teacher"} and METHOD.needs() == ()


def test_steps_raise_the_acceptance() -> None:
    stage = table_stage(METHOD, lr=5.0)
    told = [METHOD.step(stage)["acceptance"] for _ in range(8)]
    shares = [total / count for total, count in told]
    assert shares[-1] > shares[0] + 0.02
