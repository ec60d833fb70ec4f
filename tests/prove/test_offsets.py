"""Scores that are shifted by the prompt, and claims that compare two settings of a bed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from rekindle import methods
from rekindle.core.method import Effect
from rekindle.errors import InputError
from rekindle.prove.beds import load_bed
from rekindle.prove.run import TableRun
from rekindle.prove.runner import Arm, check, prove
from rekindle.tokens.labels import Verified


def started(bed: str, method: str, **options: Any) -> TableRun:
    chosen = load_bed(bed).with_options(options)
    return TableRun(chosen.task.world(0), chosen.setting, chosen.setting.fitted(methods.load(method).method()), 0)


def test_an_offset_shifts_the_scores_of_a_prompt_and_no_success() -> None:
    near, far = started("digits", "rloo"), started("digits", "rloo", offset=10.0)
    rollouts = near.draw(near.examples, 6, near.key)
    plain, shifted = Verified()(rollouts, near.verifier), Verified()(rollouts, far.verifier)
    assert torch.equal(plain.success, shifted.success) and plain.success.any()
    moved = (shifted.score - plain.score).view(10, 6)
    assert (moved - moved[:, :1]).abs().max() < 1e-12 and 3 < moved[:, 0].std() < 20
    assert near.world.rewards is None
    again = started("digits", "rloo", offset=1.0)
    assert (Verified()(rollouts, again.verifier).score - plain.score).view(10, 6)[:, 0].tolist() == pytest.approx(
        (moved[:, 0] / 10).tolist()
    )


def test_a_claim_may_be_against_the_same_method_on_another_bed(monkeypatch: pytest.MonkeyPatch) -> None:
    card = methods.load("rloo").CARD
    short = {"steps": 2, "prompts": 4}
    effect = Effect(
        claim="a shift changes nothing",
        bed="digits",
        metric="accuracy",
        against="rloo",
        bed_options={**short, "offset": 5.0},
        against_bed_options=short,
        within=1e-6,
    )
    monkeypatch.setattr(methods.load("rloo"), "CARD", replace(card, effects=(effect,)))
    known: dict = {}
    (row,) = prove("rloo", seeds=2, jobs=1, known=known)
    assert row.verdict == "shown" and row.against_bed_options == short and row.ours == row.theirs
    beds = {dict(bed).get("offset") for *_, bed, _ in known}
    assert beds == {5.0, None} and len(known) == 4
    assert Arm(bed="digits", bed_options=short, method="rloo", options={}, seed=1, train=True).key in known


def test_options_of_the_opponents_bed_are_checked_before_anything_runs() -> None:
    wrong = Effect(claim="c", bed="digits", metric="accuracy", against="", against_bed_options={"ofset": 1})
    with pytest.raises(InputError, match="'ofset'"):
        check(wrong)
