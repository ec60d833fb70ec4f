"""PRO: the worked ranking, two responses as DPO without a reference, ties and the likelihood of the best."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from rekindle.core.preferences import Logistic, Ranked
from rekindle.core.types import Batch, Now
from rekindle.errors import InputError
from rekindle.methods import dpo, pro
from rekindle.train.options import override
from tests.batches import hand_batch, make_batch, make_now
from tests.methods.stage import on_leaves

METHOD = pro.method()
RANKING = METHOD.replace(objective=Ranked(sft=0.0))


def ranked(mean: list[float], scores: list[float], lengths: list[int] | None = None, **more: Any) -> tuple[Batch, Now]:
    """Responses of one group with mean log-probs `mean` a token."""
    lengths = lengths or [1] * len(mean)
    logp = torch.tensor(mean, dtype=torch.float64)[:, None].repeat(1, max(lengths))
    batch = hand_batch(scores, lengths, logp_ref=torch.zeros_like(logp), **more)
    batch = replace(batch, action=torch.arange(batch.action.numel()).view_as(batch.action))
    return batch, Now(logp=logp, entropy=torch.zeros_like(logp))


def test_the_worked_example_in_any_order_and_at_any_length() -> None:
    for mean, scores, lengths in (
        ([-1.0, -1.2, -1.5], [0.9, 0.5, 0.2], None),
        ([-1.5, -1.0, -1.2], [0.2, 0.9, 0.5], [3, 1, 2]),
    ):
        assert on_leaves(RANKING, *ranked(mean, scores, lengths))[0] == pytest.approx(1.731224, abs=1e-6)
    first = on_leaves(RANKING, *ranked([-1.2, -1.5], [0.5, 0.2]))[0]
    assert first == pytest.approx(0.649159, abs=1e-6) and 1.731224 - first == pytest.approx(1.082064, abs=2e-6)


def test_the_best_responses_likelihood_is_a_sum_over_tokens() -> None:
    batch, now = ranked([-1.0, -1.2, -1.5], [0.9, 0.5, 0.2], [4, 2, 3])
    loss, grad, _ = on_leaves(METHOD, batch, now)
    plain, without, _ = on_leaves(RANKING, batch, now)
    assert loss - plain == pytest.approx(0.05 * (3 - 1) ** 2 * 4.0)
    assert (grad - without)[0].tolist() == pytest.approx([-0.2] * 4)
    assert (grad - without)[1:].abs().max() < 1e-12


def test_two_responses_are_dpo_on_mean_log_probs_with_beta_the_difference_of_scores() -> None:
    d, mean = 0.7, [-1.0, -1.3]
    loss, grad, _ = on_leaves(RANKING, *ranked(mean, [d, 0.0], [3, 5]))
    assert loss == pytest.approx(math.log(1 + math.exp(d * (mean[1] - mean[0]))), rel=1e-12)
    theirs = dpo.method().replace(objective=Logistic(beta=d, length_norm=True))
    want, slope, _ = on_leaves(theirs, *ranked(mean, [d, 0.0], [3, 5]))
    assert loss == pytest.approx(want, rel=1e-12)
    torch.testing.assert_close(grad, slope, rtol=1e-11, atol=1e-14)


def by_the_formula(batch: Batch, mean: torch.Tensor) -> torch.Tensor:
    """The mean over prompts with a preference of the sum over k, term by term."""
    found = []
    for g in batch.group.unique():
        rows = ((batch.group == g) & batch.live_rows).nonzero()[:, 0].tolist()
        rows = sorted(rows, key=lambda i: (-batch.score[i].item(), int(batch.uid[i])))
        if len(rows) < 2 or batch.score[rows[0]] == batch.score[rows[-1]]:
            continue
        total = torch.zeros((), dtype=torch.float64)
        for place, k in enumerate(rows[:-1]):
            gaps = torch.stack([batch.score[k] - batch.score[j] for j in rows[place + 1 :]])
            own = mean[k] * gaps.max()
            others = torch.stack([mean[j] for j in rows[place + 1 :]]) * gaps
            total = total + torch.cat([own[None], others]).exp().sum().log() - own
        found.append(total)
    return torch.stack(found).mean()


@pytest.mark.parametrize("shaped", [True, False])
def test_the_formula_over_groups_of_any_size_with_ties(shaped: bool) -> None:
    batch = make_batch(B=17, shaped=shaped, ungraded=True)
    now = make_now(batch)
    leaf = now.logp.detach().clone().requires_grad_()
    mean = (leaf * batch.live).sum(dim=1) / batch.live.sum(dim=1).clamp(min=1)
    want = by_the_formula(batch, mean)
    loss, grad, _ = on_leaves(RANKING, batch, now)
    assert loss == pytest.approx(want.item(), rel=1e-12)
    torch.testing.assert_close(grad, torch.autograd.grad(want, leaf)[0], rtol=1e-10, atol=1e-14)


def test_equal_scores_and_single_responses_have_no_loss_nor_gradient() -> None:
    for batch, now in (
        ranked([-1.0, -1.2, -1.5], [0.4, 0.4, 0.4]),
        ranked([-1.0, -1.2], [0.9, 0.1], group=[0, 1]),
        ranked([-1.0], [0.9]),
    ):
        loss, grad, _ = on_leaves(METHOD, batch, now)
        assert loss == 0 and (grad == 0).all()


def test_far_scores_stay_finite() -> None:
    loss, grad, _ = on_leaves(RANKING, *ranked([-40.0, -1.0, -2.0], [50.0, 0.0, -50.0]))
    assert loss == pytest.approx(40 * 100 - 50, rel=0.05) and grad.isfinite().all()


def test_the_weight_of_the_likelihood_is_0_or_more() -> None:
    with pytest.raises(InputError, match="sft is the weight of the best response's likelihood, 0 or more, not -1"):
        override(METHOD, "objective.sft", -1.0)
