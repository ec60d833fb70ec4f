"""P3O on paper: the worked table, RLOO at the sampling weights, and what the clips do."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from rekindle.core.advantages import GroupNormalized
from rekindle.core.aggregate import FixedLength
from rekindle.core.contrast import PairwiseClip
from rekindle.core.method import PolicyGradient
from rekindle.core.types import Batch, Now
from rekindle.errors import InputError
from rekindle.methods import grpo, p3o, rloo
from rekindle.train.options import diff, override
from tests.batches import hand_batch, make_batch, make_now
from tests.methods.stage import on_leaves

METHOD = p3o.method()
VERSIONS = pytest.mark.parametrize("version", ["separate", "joint"])


def version_of(version: Any, **changes: Any) -> PolicyGradient:
    return METHOD.replace(objective=PairwiseClip(version=version, **changes))


def moved(scores: list[float], rho: list[float], **columns: Tensor) -> tuple[Batch, Now]:
    """One-token responses of one group whose ratios to the sampling weights are `rho`; the reference is these."""
    old = torch.full((len(scores), 1), -2.0, dtype=torch.float64)
    batch = hand_batch(scores, logp_old=old, logp_ref=old).with_columns(**columns)
    batch = replace(batch, action=torch.arange(len(scores))[:, None])
    return batch, Now(logp=old + torch.tensor(rho, dtype=torch.float64).log()[:, None], entropy=torch.zeros_like(old))


TABLE = [
    ((1.0, 1.0), (0.0, (-1.5, 1.5)), (0.0, (-1.5, 1.5))),
    ((1.3, 0.9), (0.0, (0.0, 1.62)), (-0.351, (0.0, 0.0))),
    ((1.3, 1.3), (0.18, (0.0, 2.34)), (0.0, (-1.8, 1.8))),
]


@pytest.mark.parametrize(("rho", "separate", "joint"), TABLE)
def test_the_worked_table(rho: tuple[float, float], separate: tuple, joint: tuple) -> None:
    for version, (loss, slope) in (("separate", separate), ("joint", joint)):
        got, grad, _ = on_leaves(version_of(version), *moved([2.0, -1.0], list(rho)))
        assert got == pytest.approx(loss, abs=1e-12)
        assert grad[:, 0].tolist() == pytest.approx(slope, abs=1e-12)


@VERSIONS
@pytest.mark.parametrize("size", [2, 3, 4, 7])
def test_at_the_sampling_weights_it_is_rloo_for_any_group(version: str, size: int) -> None:
    batch = make_batch(B=3 * size, shaped=True)
    order = torch.randperm(3 * size, generator=torch.Generator().manual_seed(1))
    batch = replace(batch, group=torch.arange(3).repeat_interleave(size)[order])
    now = Now(logp=batch.logp_old, entropy=torch.zeros_like(batch.logp_old))
    parent = rloo.method().replace(aggregate=FixedLength(length=1))
    _, want, _ = on_leaves(parent, parent.credit(batch), now)
    _, got, _ = on_leaves(version_of(version, beta=0.0), METHOD.credit(batch), now)
    torch.testing.assert_close(got, want, rtol=1e-11, atol=1e-13)


@VERSIONS
def test_two_responses_have_twice_the_gradient_of_centred_scores(version: str) -> None:
    batch, now = moved([2.0, -1.0], [1.0, 1.0])
    centred = grpo.method().replace(advantage=GroupNormalized(std="none"), aggregate=FixedLength(length=1))
    _, half, _ = on_leaves(centred, centred.credit(batch), now)
    _, got, _ = on_leaves(version_of(version), batch, now)
    torch.testing.assert_close(got, 2 * half, rtol=1e-12, atol=0)


@VERSIONS
@pytest.mark.parametrize("clip_weight", [True, False])
def test_a_shift_of_a_prompts_rewards_is_invisible_and_a_scale_is_not(version: str, clip_weight: bool) -> None:
    batch = make_batch(B=14, shaped=True, ungraded=True)
    now, method = make_now(batch, spread=0.1), version_of(version, clip_weight=clip_weight, beta=0.1)
    loss, grad, _ = on_leaves(method, batch, now)
    far = replace(batch, score=batch.score + 1e3 * (1 + batch.group % 3))
    again, same, _ = on_leaves(method, far, now)
    assert again == pytest.approx(loss, abs=1e-11) and loss != 0
    torch.testing.assert_close(same, grad, rtol=0, atol=1e-11)
    free = version_of(version, clip_weight=clip_weight, beta=0.0)
    _, one, _ = on_leaves(free, batch, now)
    _, three, _ = on_leaves(free, replace(batch, score=3 * batch.score), now)
    torch.testing.assert_close(three, 3 * one, rtol=1e-10, atol=1e-14)


@VERSIONS
def test_the_order_of_a_pair_is_invisible(version: str) -> None:
    (a, now_a), (b, now_b) = moved([2.0, -1.0], [1.3, 1.1]), moved([-1.0, 2.0], [1.1, 1.3])
    one, two = on_leaves(version_of(version), a, now_a), on_leaves(version_of(version), b, now_b)
    assert one[0] == pytest.approx(two[0], abs=1e-14)
    torch.testing.assert_close(one[1], two[1].flip(0), rtol=1e-12, atol=0)


def slopes(version: str, rho: list[float], **changes: Any) -> list[float]:
    return on_leaves(version_of(version, **changes), *moved([2.0, -1.0], rho))[1][:, 0].tolist()


def test_the_joint_clip_ends_what_moved_the_right_way_and_only_that() -> None:
    assert slopes("joint", [math.exp(0.15), math.exp(-0.1)]) == [0.0, 0.0]
    wrong = slopes("joint", [math.exp(-0.4), math.exp(0.4)])
    assert wrong[0] == pytest.approx(-1.5) and wrong[1] == pytest.approx(1.5)
    both = slopes("joint", [math.e, math.e])
    assert both == pytest.approx([-1.8, 1.8]), "equal moves are no move: the weight alone is clipped"
    assert slopes("joint", [math.e, math.e], clip_weight=False) == pytest.approx([-1.5 * math.e**2, 1.5 * math.e**2])


def test_the_separate_clip_ends_each_response_by_itself() -> None:
    assert slopes("separate", [1.21, 1.0])[0] == 0 and slopes("separate", [1.0, 0.79])[1] == 0
    assert slopes("separate", [0.7, 1.0])[0] == pytest.approx(-1.5 * 0.7), "it moved the wrong way"
    assert slopes("separate", [1.0, 1.4])[1] == pytest.approx(1.5 * 1.4)
    assert slopes("separate", [1.0, 1.4], clip_weight=False)[0] == pytest.approx(-1.5 * 1.4)


@VERSIONS
def test_ties_and_equal_responses_have_no_gradient(version: str) -> None:
    loss, grad, _ = on_leaves(version_of(version), *moved([1.0, 1.0], [1.1, 0.95]))
    assert loss == 0 and (grad == 0).all()
    twin, now = moved([2.0, -1.0], [1.1, 1.1])
    assert on_leaves(version_of(version), twin, now)[1].sum().item() == pytest.approx(0.0), "the sum of its two rows"


def test_the_reward_is_charged_for_leaving_the_reference_before_the_step() -> None:
    ref = torch.tensor([[-3.0], [-1.5]], dtype=torch.float64)
    batch, now = moved([2.0, -1.0], [1.0, 1.0], logp_ref=ref)
    _, grad, _ = on_leaves(version_of("separate", beta=0.5), batch, now)
    gap = (2.0 - 0.5 * 1.0) - (-1.0 - 0.5 * -0.5)
    assert grad[:, 0].tolist() == pytest.approx([-gap / 2, gap / 2])


def test_length_norm_divides_what_moved_and_not_the_reward() -> None:
    old = torch.full((2, 4), -2.0, dtype=torch.float64)
    batch = hand_batch([2.0, -1.0], [4, 2], logp_old=old, logp_ref=old)
    now = Now(logp=old + 0.1, entropy=torch.zeros_like(old))
    _, grad, _ = on_leaves(version_of("joint", length_norm=True), batch, now)
    weight = 3 * min(math.exp(0.2), 1.2) / 2
    assert grad[0].tolist() == pytest.approx([-weight / 4] * 4)
    assert grad[1].tolist() == pytest.approx([weight / 2] * 2 + [0.0] * 2)


def test_far_responses_stay_finite_and_prompts_without_a_pair_are_left_out() -> None:
    old = torch.full((4, 3), -40.0, dtype=torch.float64)
    batch = hand_batch([1.0, 0.0, 1.0, 0.0], [3] * 4, [0, 0, 1, 2], logp_old=old, logp_ref=old)
    now = Now(logp=old / 100, entropy=torch.zeros_like(old))
    loss, grad, _ = on_leaves(version_of("separate", clip_weight=False), batch, now)
    assert math.isfinite(loss) and grad.isfinite().all() and (grad[2:] == 0).all()
    near = Now(logp=old, entropy=now.entropy)
    assert on_leaves(METHOD, batch, near)[1][:2].sum(dim=1).tolist() == [-1.5, 1.5], "the mean over one prompt"


def test_a_group_that_is_all_the_same_reads_as_no_signal() -> None:
    batch = METHOD.credit(hand_batch([1.0, 1.0, 1.0, 0.0], group=[0, 0, 1, 1]))
    assert METHOD.signal(batch) == (2.0, 4.0)


def test_metrics_count_ties_and_what_the_clip_ended() -> None:
    batch, now = moved([2.0, -1.0, -1.0], [1.3, 1.3, 0.9])
    _, metrics = METHOD.objective(now, batch)
    assert metrics["pair/tied"] == (1.0, 3.0)
    assert metrics["pair/clipped"] == (2.0, 4.0), "the better response of either pair"


def test_it_differs_from_rloo_where_the_card_says_and_bad_options_say_what_fits() -> None:
    assert [change.path for change in diff(rloo.method(), METHOD)] == ["objective", "aggregate"]
    for path, bad in (("eps", 0.0), ("eps", 1.0), ("delta", 0.0), ("beta", -0.1)):
        with pytest.raises(InputError, match=f"objective.{path}.*{path} is the"):
            override(METHOD, f"objective.{path}", bad)
    with pytest.raises(InputError, match="'separate', 'joint'"):
        override(METHOD, "objective.version", "both")
