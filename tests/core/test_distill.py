"""Divergences from a teacher: the numbers of three tokens, gradients in expectation, masks, caps and the schedule."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise
from typing import Literal

import pytest
import torch
from torch import Tensor

from rekindle.core.distill import Distil, Pull, ReverseKL, TowardsTeacher, sampled_divergence
from rekindle.core.types import Batch, Need, Now, Seen
from tests.batches import hand_batch, make_batch

TEACHER = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)
REVERSE, FORWARD = (0.45605, -0.30120, -0.15485), (0.46524, -0.25527, -0.20997)
KINDS: tuple[Literal["k2"], Literal["k3"]] = ("k2", "k3")
NO_CAP = torch.tensor(torch.inf, dtype=torch.float64)


def student() -> tuple[Tensor, Tensor]:
    """(logits, log-probs) of three tokens."""
    logits = torch.tensor([1.0, 0.0, -1.0], dtype=torch.float64, requires_grad=True)
    return logits, logits.log_softmax(0)


def slope(logits: Tensor, loss: Tensor) -> list[float]:
    return torch.autograd.grad(loss, logits)[0].tolist()


def seen(ours: Tensor, theirs: Tensor) -> Seen:
    """One action with these logits."""
    logits = {"policy": ours[None], "teacher": theirs[None]}
    return Seen(logits, {}, {}, {}, torch.zeros(1, dtype=torch.int64))


def pulled(batch: Batch, step: int = 0, foreign: Tensor | None = None, **settings: object) -> Batch:
    """The batch with the columns of `Pull(**settings)`."""
    none = torch.zeros_like(batch.mask)
    columns = {"step": torch.full((len(batch),), step), "foreign_end": none if foreign is None else foreign}
    return Pull(**settings)(batch.with_columns(**columns))  # type: ignore[arg-type]


def test_the_two_divergences_and_their_gradients() -> None:
    logits, logp = student()
    assert logp.exp().tolist() == pytest.approx([0.6652, 0.2447, 0.0900], abs=5e-5)
    reverse = ReverseKL()(seen(logits, TEACHER.log() + 3))
    assert reverse.item() == pytest.approx(0.51630, abs=5e-6)
    assert slope(logits, reverse.sum()) == pytest.approx(REVERSE, abs=5e-6)
    logits, logp = student()
    forward = (TEACHER * (TEACHER.log() - logp)).sum()
    assert forward.item() == pytest.approx(0.47795, abs=5e-6)
    assert slope(logits, forward) == pytest.approx(FORWARD, abs=5e-6)


def test_as_a_loss_on_own_samples_k2_is_the_reverse_kl_k3_the_forward_one_and_k1_nothing() -> None:
    for estimator, value, gradient in zip(KINDS, (0.60811, 0.51630), (REVERSE, FORWARD), strict=True):
        logits, logp = student()
        estimate = sampled_divergence(TEACHER.log() - logp, estimator, NO_CAP.expand(3))
        loss = (logp.detach().exp() * estimate).sum()
        assert loss.item() == pytest.approx(value, abs=5e-6)
        assert slope(logits, loss) == pytest.approx(gradient, abs=5e-6)
    logits, logp = student()
    assert slope(logits, (logp.detach().exp() * (logp - TEACHER.log())).sum()) == pytest.approx((0, 0, 0), abs=1e-12)
    with pytest.raises(ValueError, match=r"k1 of own samples has no expected gradient .* take k2"):
        Distil(estimator="k1")


def test_the_likeliest_tokens_alone_are_both_renormalised() -> None:
    logits, _ = student()
    assert torch.equal(ReverseKL(3)(seen(logits, TEACHER.log())), ReverseKL()(seen(logits, TEACHER.log())))
    two = ReverseKL(2)(seen(logits, TEACHER.log()))
    p, t = logits[:2].softmax(0), TEACHER[:2] / TEACHER[:2].sum()
    assert two.item() == pytest.approx((p * (p / t).log()).sum().item(), rel=1e-12)
    assert slope(logits, two.sum())[2] == 0.0


def test_an_equal_teacher_is_no_distance_and_no_gradient() -> None:
    for estimator in KINDS:
        x = torch.zeros(5, dtype=torch.float64, requires_grad=True)
        loss = sampled_divergence(x, estimator, NO_CAP.expand(5)).sum()
        assert loss.item() == 0 and torch.autograd.grad(loss, x)[0].tolist() == [0.0] * 5
    for top in (0, 2):
        logits, _ = student()
        loss = ReverseKL(top)(seen(logits, logits.detach())).sum()
        assert loss.item() == 0 and slope(logits, loss) == pytest.approx((0, 0, 0), abs=1e-16)


def test_tokens_that_one_of_the_two_lacks_leave_no_trace() -> None:
    logits, _ = student()
    wide = torch.cat([logits, torch.tensor([0.7], dtype=torch.float64)])
    padded = torch.cat([TEACHER.log(), torch.tensor([-torch.inf])])
    assert torch.equal(ReverseKL()(seen(wide, padded)), ReverseKL()(seen(logits, TEACHER.log())))
    barred = torch.tensor([1.0, -torch.inf, 0.0], dtype=torch.float64, requires_grad=True)
    loss = ReverseKL()(seen(barred, TEACHER.log())).sum()
    assert loss.isfinite() and all(torch.autograd.grad(loss, barred)[0].isfinite())


def test_a_cap_bounds_the_slope_and_not_the_direction() -> None:
    for estimator, steepest in zip(KINDS, (2.0, math.exp(2) - 1), strict=True):
        x = torch.tensor([-5.0, -1.0, 1.0, 2.0, 5.0], dtype=torch.float64, requires_grad=True)
        value = sampled_divergence(x, estimator, torch.full((5,), 2.0, dtype=torch.float64))
        grad = torch.autograd.grad(value.sum(), x)[0]
        free = sampled_divergence(x, estimator, NO_CAP.expand(5))
        assert torch.equal(value[1:4], free[1:4]) and grad[4].item() == pytest.approx(steepest)
        assert grad[0].item() == pytest.approx(-2.0 if estimator == "k2" else math.exp(-2) - 1)
        assert value[4].item() == pytest.approx((free[3] + steepest * 3).item())


def test_the_strength_falls_to_its_floor_by_steps_and_never_rises() -> None:
    fading = Pull(beta=5e-3, decrease=5e-5, least=1e-3)
    assert [fading.strength(s)[0] for s in (0, 40, 80, 280)] == pytest.approx([0.005, 0.003, 0.001, 0.001], abs=1e-12)
    line = [fading.strength(s) for s in range(300)]
    assert all(a[0] >= b[0] >= 1e-3 and b[1] == 1 for a, b in pairwise(line))
    assert [Pull(switch=2).strength(s) for s in range(4)] == [(1, 0), (1, 0), (0, 1), (0, 1)]
    assert Pull(switch=0).strength(0) == (0, 1)


def test_a_group_of_four() -> None:
    lp = student()[1].detach()[torch.tensor([0, 0, 1, 2])]
    x = TEACHER.log()[torch.tensor([0, 0, 1, 2])] - lp
    assert x.tolist() == pytest.approx([-1.20183, -1.20183, 0.71446, 1.20363], abs=5e-6)
    batch = hand_batch([0.0, 0.0, 1.0, 0.0], logp_teacher=(lp + x)[:, None])
    now, told = Now(logp=lp[:, None], entropy=lp[:, None]), {}
    settings = {"none": {}, "all": {"mask": "response"}, "kept": {"mask": "response", "norm": "kept"}}
    for name, some in settings.items():
        made = pulled(batch, beta=1.0, **some)
        per_token, metrics = Distil().per_token(now, made)
        assert per_token[:, 0].tolist() == pytest.approx([0.72220, 0.72220, 0.25523, 0.72437], abs=5e-6)
        told[name] = (Distil().weights(made) * per_token).sum().item()
        assert metrics["teacher_far"][0] == 0
    assert told == pytest.approx({"none": 0.60600, "all": 0.54219, "kept": 0.72292}, abs=5e-6)


def test_a_group_without_success_is_pulled_whole_and_one_that_is_all_right_not_at_all() -> None:
    wrong, right = hand_batch([0.0] * 3), hand_batch([1.0] * 3)
    assert all((Distil().weights(pulled(wrong, mask=mask)) > 0).all() for mask in ("none", "response", "group"))
    for mask in ("response", "group"):
        for norm in ("all", "kept"):
            assert (Distil().weights(pulled(right, mask=mask, norm=norm)) == 0).all(), "an empty mean is 0, not nan"
    assert (Distil().weights(pulled(right)) > 0).all()


def test_the_groups_mask_lies_within_the_responses_mask() -> None:
    batch = make_batch(B=30, ungraded=True)
    of = {mask: pulled(batch, mask=mask).column("pull") > 0 for mask in ("none", "response", "group")}
    assert torch.equal(of["none"], batch.live) and (of["response"] <= of["none"]).all()
    assert (of["group"] <= of["response"]).all() and of["response"].sum() > of["group"].sum()
    lost = replace(batch, success=batch.success & (batch.group != batch.group[0]))
    group, response = (pulled(lost, mask=mask).column("pull") > 0 for mask in ("group", "response"))
    assert group.any() and (group <= response).all()


def test_an_end_that_the_teacher_does_not_share_counts_in_neither_sum() -> None:
    batch = hand_batch([0.0, 1.0], [2, 3])
    foreign = torch.tensor([[False, True, False], [False, False, True]])
    made = pulled(batch, beta=1.0, foreign=foreign)
    assert made.column("pull").tolist() == [[1, 0, 0], [1, 1, 0]] and made.column("pull_over").sum() == 3
    assert Distil().weights(made).sum().item() == pytest.approx(1.0)


def test_the_advantage_carries_the_pull_or_is_faded_out() -> None:
    batch = hand_batch([0.0, 1.0], logp_old=torch.tensor([[-1.0], [-2.0]]), logp_teacher=torch.tensor([[-3.0], [-1.0]]))
    advantage = torch.tensor([[-0.5], [0.5]], dtype=torch.float64)
    made = pulled(batch, beta=0.5, form="advantage")
    assert TowardsTeacher()(advantage, made)[:, 0].tolist() == [-0.5 - 1.0, 0.5 + 0.5]
    assert (Distil().weights(made) == 0).all() and Pull().report(made)["pull"][0] == pytest.approx(-0.5)
    capped = pulled(batch, beta=0.5, form="advantage", cap=1.5, mask="response")
    assert TowardsTeacher()(advantage, capped)[:, 0].tolist() == [-0.5 - 0.75, 0.5]
    early, late = (pulled(batch, step=step, switch=3) for step in (2, 3))
    assert (TowardsTeacher()(advantage, early) == 0).all() and (early.column("pull") == 1).all()
    assert torch.equal(TowardsTeacher()(advantage, late), advantage) and (late.column("pull") == 0).all()


def test_parts_ask_for_what_they_read() -> None:
    names = [[need.name for need in Distil(estimator=e).needs] for e in ("k2", "k3", "exact", "topk")]
    assert names == [["logp_teacher"], ["logp_teacher"], ["divergence"], ["divergence"]]
    exact, again, top = (Distil(estimator=e).needs[0] for e in ("exact", "exact", "topk"))
    assert exact == again != top and exact.when == "now" and isinstance(exact, Need)
    assert Pull().needs == () and [n.name for n in Pull(form="advantage").needs] == ["logp_old", "logp_teacher"]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"beta": -0.1}, "never pushes away"),
        ({"cap": 0.0}, "above 0 nats"),
        ({"form": "advantage", "norm": "kept"}, "norm=kept goes with form=loss only"),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Pull(**settings)
    with pytest.raises(ValueError, match="2 or more"):
        Distil(estimator="topk", top=1)
