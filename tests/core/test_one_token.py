"""One-token rollouts: the numbers of three tokens, the identities with DFT, draws against their expectation."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from rekindle.core.one_token import EXACT_UP_TO, OneToken, OneTokenLoss, behaviour, counts
from rekindle.core.random import uniforms
from rekindle.core.types import Now, Seen
from tests.batches import hand_batch

P = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
SFT, DFT = (0.5, -0.7, 0.2), (0.15, -0.21, 0.06)


def seen(logits: Tensor, action: list[int], key: int = 7) -> Seen:
    """Actions of rows of their own, each at its row's first place."""
    rows = torch.arange(len(action))
    at = (torch.tensor(key), rows, torch.zeros_like(rows))
    return Seen({"policy": logits}, {}, {}, {}, torch.tensor(action), at=at)


def part(estimator: str = "exact", kappa: float = 1.3, beta: float = -0.1, draws: int = 256) -> OneTokenLoss:
    """What the need of a `OneToken` computes."""
    made = OneToken(estimator=estimator, kappa=kappa, beta=beta, draws=draws)  # type: ignore[arg-type]
    loss = made.needs[0].compute
    assert isinstance(loss, OneTokenLoss)
    return loss


def told(loss: OneTokenLoss, logits: Tensor, action: list[int], key: int = 7) -> tuple[Tensor, Tensor]:
    """(the loss of each place, the gradient of their sum)."""
    leaf = logits.clone().requires_grad_()
    values = loss(seen(leaf, action, key))
    return values.detach(), torch.autograd.grad(values.sum(), leaf)[0]


def many(rows: int = 40, size: int = 12, scale: float = 2.0) -> tuple[Tensor, list[int]]:
    """Random logits and demonstrated tokens."""
    rng = torch.Generator().manual_seed(0)
    logits = scale * torch.randn(rows, size, generator=rng, dtype=torch.float64)
    return logits, torch.randint(0, size, (rows,), generator=rng).tolist()


def slopes(logits: Tensor, action: list[int]) -> tuple[Tensor, Tensor]:
    """(p of each demonstrated token [N 1], the gradient of its -log p)."""
    leaf = logits.clone().requires_grad_()
    logp = leaf.log_softmax(-1).gather(1, torch.tensor(action)[:, None])
    return logp.detach().exp(), torch.autograd.grad(-logp.sum(), leaf)[0]


def test_five_three_and_two_draws_of_three_tokens() -> None:
    rungs = torch.tensor([[0.05, 0.1, 0.2, 0.3, 0.49, 0.51, 0.6, 0.79, 0.81, 0.95]], dtype=torch.float64)
    count = counts(P[None], rungs)
    assert count.tolist() == [[5, 3, 2]]
    logits = P.log()[None].requires_grad_()
    weight = count / 10 * torch.tensor([-0.1, 1.0, -0.1], dtype=torch.float64)
    loss = -(weight * logits.log_softmax(-1)).sum()
    assert loss.item() == pytest.approx(0.294346, abs=5e-7)
    assert loss.item() == pytest.approx(-(0.3 * math.log(0.3)) + 0.1 * (0.5 * math.log(0.5) + 0.2 * math.log(0.2)))
    assert torch.autograd.grad(loss, logits)[0][0].tolist() == pytest.approx([0.165, -0.231, 0.066], abs=1e-12)
    values, grad = told(part(kappa=1.0), P.log()[None], [1])
    assert values.item() == pytest.approx(0.294346, abs=5e-7), "the counts are their expectation here"
    assert grad[0].tolist() == pytest.approx([0.165, -0.231, 0.066], abs=1e-12)
    share, plain = slopes(P.log()[None], [1])
    assert plain[0].tolist() == pytest.approx(SFT) and (share * plain)[0].tolist() == pytest.approx(DFT)


def test_flatter_draws_are_no_rescaled_dft() -> None:
    assert behaviour(P.log()[None], 1.3)[0].tolist() == pytest.approx([0.46099, 0.31120, 0.22781], abs=5e-6)
    values, grad = told(part(kappa=1.3), P.log()[None], [1])
    assert values.item() == pytest.approx(0.306055, abs=5e-7)
    assert grad[0].tolist() == pytest.approx([0.16726, -0.23850, 0.07124], abs=5e-6)
    assert behaviour(P.log()[None], 2.0)[0].tolist() == pytest.approx([0.41545, 0.32180, 0.26275], abs=5e-6)
    grad = told(part(kappa=2.0), P.log()[None], [1])[1]
    assert grad[0].tolist() == pytest.approx([0.16854, -0.24561, 0.07707], abs=5e-6)


@pytest.mark.parametrize("beta", [-1.0, -0.1, 0.0, 0.5, 1.0])
def test_at_kappa_one_the_gradient_is_dfts_times_one_minus_beta(beta: float) -> None:
    logits, action = many()
    share, plain = slopes(logits, action)
    grad = told(part(kappa=1.0, beta=beta), logits, action)[1]
    torch.testing.assert_close(grad, (1 - beta) * share * plain, rtol=1e-12, atol=1e-14)
    bound = (1 - beta) * math.sqrt(2) * share[:, 0]
    assert (grad.norm(dim=1) <= bound + 1e-14).all(), "what is held impossible is not learned"


def test_equal_rewards_teach_nothing_and_a_beta_of_zero_only_by_the_right_token() -> None:
    logits, action = many()
    assert told(part(kappa=1.0, beta=1.0), logits, action)[1].abs().max() < 1e-15
    never = P.log()[None] + torch.tensor([[0.0, -800.0, 0.0]], dtype=torch.float64)
    values, grad = told(part("sampled", beta=0.0), never, [1])
    assert values.item() == 0 and (grad == 0).all(), "never drawn, never paid"
    values, grad = told(part("sampled"), never, [1])
    assert values.item() < 0 and grad.abs().max() > 0, "the penalty is left"


def test_draws_converge_to_their_expectation() -> None:
    logits, action = many(rows=2000, scale=1.0)
    exact = told(part(), logits, action)[1].mean(dim=0)
    off = {}
    for draws in (4, 64, 1024):
        grad = told(part("sampled", draws=draws), logits, action)[1].mean(dim=0)
        off[draws] = (grad - exact).abs().max().item()
    assert off[1024] < off[64] < off[4] and off[1024] < 1e-3
    logits, action = logits[:1].expand(4000, -1).contiguous(), action[:1] * 4000
    mean = told(part("sampled", draws=8), logits, action)[1].mean(dim=0)
    torch.testing.assert_close(mean, told(part(), logits[:1], action[:1])[1][0], rtol=0, atol=0.02)


def test_counts_add_up_and_follow_the_shares() -> None:
    q = behaviour(many()[0], 1.3)
    count = counts(q, uniforms(torch.tensor(1), torch.arange(len(q)), 4000))
    assert (count.sum(dim=1) == 4000).all() and (count / 4000 - q).abs().max() < 0.04
    sure = torch.tensor([[0.0, 1.0, 0.0]], dtype=torch.float64)
    assert counts(sure, uniforms(torch.tensor(1), torch.arange(1), 100)).tolist() == [[0, 100, 0]]


def test_the_same_place_has_the_same_draws_in_any_company() -> None:
    logits, action = many()
    whole = part("sampled").shares(seen(logits, action))
    rows = torch.tensor([7, 3])
    some = Seen(
        {"policy": logits[rows]},
        {},
        {},
        {},
        torch.tensor(action)[rows],
        at=(torch.tensor(7), rows, torch.zeros(2).long()),
    )
    assert torch.equal(part("sampled").shares(some), whole[rows])
    assert not torch.equal(part("sampled").shares(seen(logits, action, key=8)), whole)


def test_small_vocabularies_are_exact_where_nobody_says_otherwise() -> None:
    logits, action = many()
    assert torch.equal(told(part("auto"), logits, action)[0], told(part(), logits, action)[0])
    wide = torch.randn(3, EXACT_UP_TO + 1, generator=torch.Generator().manual_seed(0))
    assert torch.equal(told(part("auto"), wide, [0, 1, 2])[0], told(part("sampled"), wide, [0, 1, 2])[0])
    fits = wide[:, :EXACT_UP_TO].contiguous()
    assert torch.equal(told(part("auto"), fits, [0, 1, 2])[0], told(part(), fits, [0, 1, 2])[0])


def test_narrow_logits_are_drawn_from_in_single_precision() -> None:
    narrow = many()[0].to(torch.bfloat16)
    q = behaviour(narrow, 1.3)
    assert q.dtype == torch.float32 and q.sum(dim=1).sub(1).abs().max() < 1e-6 and not q.requires_grad
    torch.testing.assert_close(q, behaviour(narrow.double(), 1.3).float())


def test_tokens_that_nothing_allows_leave_no_trace() -> None:
    barred = torch.tensor([[1.0, -torch.inf, 0.0, 2.0]], dtype=torch.float64)
    for estimator in ("exact", "sampled"):
        for action in (0, 1):
            values, grad = told(part(estimator), barred, [action])
            assert values.isfinite().all() and grad.isfinite().all() and grad[0, 1] == 0
    assert told(part(), barred, [0])[0].item() == pytest.approx(told(part(), barred[:, [0, 2, 3]], [0])[0].item())


def test_the_objective_weighs_places_by_their_advantage_and_nothing_off_the_rows() -> None:
    said = torch.tensor([[1.0, 2.0], [3.0, torch.nan]], dtype=torch.float64)
    batch = hand_batch([1.0, 0.5], [2, 1], advantage=torch.tensor([[1.0, 1.0], [0.5, torch.inf]], dtype=torch.float64))
    logp = torch.tensor([[-1.0, -2.0], [-3.0, torch.nan]], dtype=torch.float64)
    loss, metrics = OneToken()(Now(logp=logp, entropy=logp, extra={"one_token": said}), batch)
    assert loss.tolist() == [[1.0, 2.0], [1.5, 0.0]] and metrics == {"nll": (6.0, 3.0)}


@pytest.mark.parametrize(
    ("settings", "words"), [({"draws": 0}, "1 draw or more"), ({"kappa": 0.0}, "above 0"), ({"beta": 1.5}, "at most")]
)
def test_settings_that_mean_nothing_are_refused(settings: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        OneToken(**settings)
