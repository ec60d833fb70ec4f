"""KDRL: GRPO where nothing pulls, two forms with one gradient, and what groups of one kind teach."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from rekindle.core.distill import Distil, Pull
from rekindle.core.method import PolicyGradient
from rekindle.core.types import Batch
from rekindle.errors import InputError
from rekindle.methods import grpo, kdrl
from rekindle.train.checks import check_traits
from rekindle.train.options import override
from tests.methods.made import group_rollouts
from tests.methods.stage import Stage, TablePolicy, collected, difference, direct, staged, table_stage

METHOD = kdrl.method()


def set_to(method: PolicyGradient, **options: object) -> PolicyGradient:
    """KDRL with other settings of its two parts."""
    for name, value in options.items():
        path = ("terms.0." if name in ("estimator", "top") else "prepare.0.") + name
        method = override(method, path, value)
    return method


def unmoved(method: PolicyGradient) -> tuple[Stage, Batch]:
    """A stage at the weights that sampled, and its credited batch: what the first update sees."""
    stage = table_stage(method)
    return stage, method.credit(method.collect(stage))


def steps(method: PolicyGradient, count: int = 2) -> Tensor:
    """The weights after some steps."""
    stage = table_stage(method)
    for _ in range(count):
        method.step(stage)
    return torch.cat([p.detach().flatten() for p in stage.parameters])


def test_without_strength_it_is_grpo_bit_for_bit() -> None:
    want = steps(grpo.method())
    assert torch.equal(steps(set_to(METHOD, beta=0.0)), want)
    assert torch.equal(steps(set_to(METHOD, switch=0)), want)
    assert torch.equal(steps(set_to(METHOD, beta=0.0, form="advantage")), want)
    assert not torch.equal(steps(METHOD), want)


@pytest.mark.parametrize("estimator", ["k2", "k3", "exact", "topk"])
def test_a_teacher_who_is_the_policy_adds_nothing(estimator: str) -> None:
    method = set_to(METHOD, estimator=estimator, beta=10.0)
    stage, batch = unmoved(method)
    stage.reference = TablePolicy()
    batch = method.credit(method.collect(table_stage(method, reference=TablePolicy())))
    plain = grpo.method()
    theirs = table_stage(plain)
    want = direct(theirs, plain.credit(plain.collect(theirs)))
    torch.testing.assert_close(direct(stage, batch), want, rtol=0, atol=1e-14)
    now = stage.scores(batch)
    assert method.terms[0].per_token(now, batch)[0].abs().max() < 1e-14


@pytest.mark.parametrize("mask", ["none", "response", "group"])
def test_both_forms_have_one_gradient_at_the_first_update(mask: str) -> None:
    found = []
    for form in ("loss", "advantage"):
        method = set_to(METHOD, beta=0.3, mask=mask, form=form)
        stage, batch = unmoved(method)
        found.append(direct(stage, batch))
    assert found[0].abs().max() > 1e-3 and difference(found[1], found[0]) < 1e-12
    capped = []
    for form in ("loss", "advantage"):
        stage, batch = unmoved(set_to(METHOD, beta=0.3, mask=mask, form=form, cap=0.5))
        capped.append(direct(stage, batch))
    assert difference(capped[1], capped[0]) < 1e-12 and difference(capped[0], found[0]) > 1e-3


def test_off_policy_the_forms_part() -> None:
    found = [
        direct(*collected(set_to(METHOD, beta=0.3, form=form), group_rollouts(0))) for form in ("loss", "advantage")
    ]
    assert difference(found[1], found[0]) > 1e-3


def test_a_group_that_is_all_wrong_teaches_by_its_teacher_and_one_that_is_all_right_only_unmasked() -> None:
    kinds = {"wrong": group_rollouts(3), "right": group_rollouts(2)}
    taught = {}
    for name, rows in kinds.items():
        for method in (grpo.method(), METHOD, set_to(METHOD, mask="response"), set_to(METHOD, mask="group")):
            stage, batch = collected(method, rows)
            size = direct(stage, batch).abs().max().item() if stage.method.signal(batch)[0] else 0.0
            taught.setdefault(name, []).append(size > 0)
    assert taught == {"wrong": [False, True, True, True], "right": [False, True, False, False]}


def test_before_the_switch_only_the_teacher_is_listened_to() -> None:
    method = set_to(METHOD, switch=1)
    _, batch = unmoved(method)
    assert (batch.advantage == 0).all() and batch.column("pull")[batch.live].unique().tolist() == [1.0]
    stage = table_stage(method, step_index=1)
    after = method.credit(method.collect(stage))
    assert (after.column("pull") == 0).all() and method.signal(after)[0] < method.signal(batch)[0]
    assert (after.advantage != 0).any()


@pytest.mark.parametrize("estimator", ["k3", "exact", "topk"])
def test_other_estimators_have_gradients_of_their_own(estimator: str) -> None:
    stage, batch = staged("kdrl", torch.float64, table=True)
    method = set_to(METHOD, estimator=estimator, beta=1.0)
    other = replace(stage, method=method)
    assert difference(direct(other, method.credit(batch)), direct(stage, METHOD.credit(batch))) > 1e-2


def test_the_advantages_of_the_worked_group() -> None:
    rows = group_rollouts(0).take(torch.arange(4))
    _, batch = collected(METHOD, replace(rows, text=["a=1", "a=2", "a=5", "a=3"]))
    assert batch.advantage[:, 0].tolist() == pytest.approx([-0.5, -0.5, 1.5, -0.5], abs=1e-5)
    _, batch = collected(
        override(METHOD, "advantage.std", "population"), replace(rows, text=["a=1", "a=2", "a=5", "a=3"])
    )
    assert batch.advantage[:, 0].tolist() == pytest.approx([-0.57735, -0.57735, 1.73205, -0.57735], abs=1e-5)


def test_inside_the_advantage_no_other_estimator_is_accepted() -> None:
    with pytest.raises(
        InputError, match="Distil does not go with Pull, for that brings a teacher inside the advantage"
    ):
        check_traits(set_to(METHOD, form="advantage", estimator="exact"))
    check_traits(set_to(METHOD, form="advantage"))
    check_traits(set_to(METHOD, estimator="exact"))
    with pytest.raises(InputError, match=r"cannot be k1: k1 of own samples has no expected gradient"):
        set_to(METHOD, estimator="k1")
    assert isinstance(METHOD.prepare[0], Pull) and isinstance(METHOD.terms[0], Distil)
