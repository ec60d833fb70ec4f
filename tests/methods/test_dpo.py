"""DPO, IPO and PRO share a shape; here DPO: numbers on paper, its gradient, noise in labels, pairs that say nothing."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch

from rekindle.core.method import PolicyGradient
from rekindle.core.preferences import Logistic
from rekindle.core.types import Batch, Now
from rekindle.errors import InputError
from rekindle.methods import dpo
from rekindle.train.options import override
from tests.batches import hand_batch, make_batch, make_now
from tests.methods.stage import on_leaves, table_stage

METHOD = dpo.method()


def told(lengths: tuple[int, int] = (4, 5)) -> tuple[Batch, Now]:
    """A pair with s_w = -4 and s_l = -6, under the reference -5 and -5.5."""
    n = torch.tensor(lengths, dtype=torch.float64)[:, None]
    ref = (torch.tensor([[-5.0], [-5.5]]) / n).expand(2, max(lengths)).double()
    logp = (torch.tensor([[-4.0], [-6.0]]) / n).expand(2, max(lengths)).double()
    batch = hand_batch([1.0, 0.0], list(lengths), logp_ref=ref)
    return batch, Now(logp=logp, entropy=torch.zeros_like(logp))


def shaped(**changes: Any) -> PolicyGradient:
    return METHOD.replace(objective=Logistic(**changes))


def test_the_worked_example() -> None:
    loss, grad, _ = on_leaves(METHOD, *told())
    assert loss == pytest.approx(0.620957, abs=1e-6)
    force = 0.1 / (1 + math.exp(0.15))
    assert grad[0, :4].tolist() == pytest.approx([-force] * 4) and grad[1].tolist() == pytest.approx([force] * 5)
    _, metrics = METHOD.objective(told()[1], told()[0])
    assert metrics["pair/margin"] == (pytest.approx(1.5), 1.0) and metrics["pair/accuracy"] == (1.0, 1.0)
    assert metrics["pair/logp_better"][0] == pytest.approx(-1.0) and metrics["pair/logp_worse"][0] == pytest.approx(
        -1.2
    )


def test_at_the_reference_the_loss_is_log_2_and_both_sides_are_pushed() -> None:
    batch, now = told()
    loss, grad, _ = on_leaves(METHOD, batch.with_columns(logp_ref=now.logp), now)
    assert loss == pytest.approx(math.log(2), abs=1e-12)
    assert grad[0, 0].item() == pytest.approx(-0.05) and grad[1, 0].item() == pytest.approx(0.05)


def test_the_push_falls_with_the_margin() -> None:
    batch, now = told()
    pushes = []
    for margin in (-20.0, 0.0, 20.0):
        said = now.logp.clone()
        said[0] += (margin - 1.5) / 4
        pushes.append(-on_leaves(METHOD, batch, replace(now, logp=said))[1][0, 0].item())
        assert pushes[-1] == pytest.approx(0.1 / (1 + math.exp(0.1 * margin)))
    assert pushes[0] > pushes[1] > pushes[2] > 0


def test_smoothing_and_its_unbiased_form() -> None:
    z, e = 0.15, 0.2
    right, wrong = math.log(1 + math.exp(-z)), math.log(1 + math.exp(z))
    assert on_leaves(shaped(smoothing=e), *told())[0] == pytest.approx((1 - e) * right + e * wrong)
    robust = on_leaves(shaped(smoothing=e, robust=True), *told())
    assert robust[0] == pytest.approx(((1 - e) * right - e * wrong) / (1 - 2 * e))
    batch, now = told()
    flipped = replace(batch, score=batch.score.flip(0))
    mixed = (1 - e) * robust[0] + e * on_leaves(shaped(smoothing=e, robust=True), flipped, now)[0]
    assert mixed == pytest.approx(right), "under such noise its mean is the loss on right labels"
    assert on_leaves(shaped(robust=True), *told())[0] == pytest.approx(right)


def test_length_norm_takes_means_over_tokens() -> None:
    loss, _, _ = on_leaves(shaped(length_norm=True), *told())
    assert loss == pytest.approx(math.log(1 + math.exp(-0.1 * 0.35)))


def test_the_mean_is_over_pairs_then_over_prompts_with_a_preference() -> None:
    batch = make_batch(B=17, shaped=True, ungraded=True)
    now = make_now(batch)
    h = ((now.logp - batch.column("logp_ref")).detach() * batch.live).sum(dim=1)
    found = []
    for g in batch.group.unique():
        rows = ((batch.group == g) & batch.live_rows).nonzero()[:, 0].tolist()
        pairs = [(i, j) for i in rows for j in rows if batch.score[i] > batch.score[j]]
        losses = [-torch.nn.functional.logsigmoid(0.1 * (h[i] - h[j])) for i, j in pairs]
        found += [torch.stack(losses).mean()] if losses else []
    assert on_leaves(METHOD, batch, now)[0] == pytest.approx(torch.stack(found).mean().item(), rel=1e-12)


@pytest.mark.parametrize("case", ["equal texts", "a group of one", "equal scores"])
def test_what_states_no_preference_is_left_out(case: str) -> None:
    batch, now = told((4, 4))
    batch = replace(batch, action=torch.tensor([[1, 2, 3, 4], [1, 2, 3, 5]]))
    spoiled = {
        "equal texts": replace(batch, action=torch.ones_like(batch.action)),
        "a group of one": replace(batch, group=torch.tensor([0, 1])),
        "equal scores": replace(batch, score=torch.ones_like(batch.score)),
    }[case]
    loss, grad, _ = on_leaves(METHOD, spoiled, now)
    assert loss == 0 and (grad == 0).all()
    both = hand_batch([1.0, 0.0, *spoiled.score.tolist()], [4] * 4, [7, 7, *spoiled.group.tolist()])
    both = replace(both, action=torch.cat([batch.action, spoiled.action]))
    both = both.with_columns(logp_ref=torch.cat([batch.column("logp_ref")] * 2))
    said = Now(logp=torch.cat([now.logp] * 2), entropy=torch.cat([now.entropy] * 2))
    assert on_leaves(METHOD, both, said)[0] == pytest.approx(on_leaves(METHOD, batch, now)[0]), (
        "not in the mean, either"
    )


def test_repeated_steps_widen_the_margin() -> None:
    stage = table_stage(METHOD, lr=2.0)
    margins = []
    for _ in range(6):
        stage.drawn = 0  # the same prompts again
        margins.append(METHOD.step(stage)["pair/margin"][0])
    assert all(later > earlier for earlier, later in pairwise(margins))


def test_bad_options_say_what_fits() -> None:
    for path, bad, why in (
        ("beta", 0.0, "beta of the logistic loss is a number above 0"),
        ("smoothing", 0.5, "from 0 to below 0.5"),
        ("smoothing", -0.1, "from 0 to below 0.5"),
    ):
        with pytest.raises(InputError, match=f"objective.{path}.*{why}"):
            override(METHOD, f"objective.{path}", bad)
