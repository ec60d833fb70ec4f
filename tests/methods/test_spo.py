"""SPO: the tracker's numbers, drift of the remembered response, whitening, prompts by uncertainty, resume."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from rekindle.core.whitened import RowsWhitened
from rekindle.methods import spo
from rekindle.methods.spo import ByUncertainty, OverTracker
from rekindle.tokens.collect import to_batch
from rekindle.tokens.labels import Verdicts, Verified
from rekindle.tokens.tracker import drift, latest, remembered
from tests.batches import hand_batch, make_batch
from tests.methods.made import VERIFIER, group_rollouts, spoken
from tests.methods.resumed import assert_alike, memory, run_twice
from tests.methods.stage import table_stage
from tests.methods.streams import Stream, table_of, table_run

METHOD = spo.method()


def visit(right: bool, moved: float, alpha: float, beta: float) -> tuple[float, dict[str, Any]]:
    """(score, tracker after) of one visit of prompt "0" whose remembered response's log-probs moved by `moved`."""
    stage = table_stage(METHOD)
    rows = group_rollouts(5).take(torch.tensor([0]))
    rows = replace(rows, text=["a=5" if right else "a=7"])
    old = remembered(rows, 0)
    batch = to_batch(rows, Verified()(rows, VERIFIER), stage.key)
    scored = stage.policy.columns(batch, METHOD.needs(), {})["logp_old"][0]
    old["logp"] = [v - moved for v in scored[: len(old["ids"])].tolist()]
    stage.memory["spo"] = {"5": {"alpha": alpha, "beta": beta, "response": old}}
    shaped = OverTracker()(rows, Verified()(rows, VERIFIER), stage)
    return shaped.score.item(), stage.memory["spo"]["5"]


@pytest.mark.parametrize(
    ("moved", "alpha", "beta"), [(0.01, 3.772, 4.356), (0.03, 3.722, 4.278), (0.0, 0.96 * 3.1111 + 1, 0.96 * 4.8889)]
)
def test_numbers_of_the_sheet(moved: float, alpha: float, beta: float) -> None:
    score, after = visit(True, moved, 8 * 3.5 / 9, 8 * 5.5 / 9)
    assert score == pytest.approx(0.6111, abs=5e-5), "over the tracker from before the sample"
    assert (after["alpha"], after["beta"]) == pytest.approx((alpha, beta), abs=1e-3)


def test_the_update_is_a_moving_average() -> None:
    """v' = v + (r - v) / (rho N + 1), N the tracker's weight."""
    for right, moved, rho in ((True, 0.01, 2 ** (-1 / 6)), (False, 0.0, 0.96), (False, 9.0, 0.875)):
        score, after = visit(right, moved, 2.0, 6.0)
        value = after["alpha"] / (after["alpha"] + after["beta"])
        assert score == pytest.approx(right - 0.25)
        assert value == pytest.approx(0.25 + (right - 0.25) / (rho * 8 + 1), rel=1e-9)


def test_a_new_prompt_starts_at_one_half_with_the_weight_of_eight() -> None:
    rows = spoken(["a=5", "a=7"], group=[0, 1], truth="5")
    stage = table_stage(METHOD)
    shaped = OverTracker()(rows, Verified()(rows, VERIFIER), stage)
    assert shaped.score.tolist() == [0.5, -0.5]
    told = {p: (m["alpha"], m["beta"]) for p, m in stage.memory["spo"].items()}
    assert told == {"0": pytest.approx((4.84, 3.84)), "1": pytest.approx((3.84, 4.84))}


def test_what_is_not_graded_moves_no_tracker() -> None:
    rows = spoken(["a=5", "a=7"], group=[0, 1], truth="?")
    stage = table_stage(METHOD)
    OverTracker()(rows, Verified()(rows, VERIFIER), stage)
    assert stage.memory["spo"] == {}


def test_drift_is_zero_at_the_weights_that_sampled_and_not_after_an_update() -> None:
    run = table_run(METHOD, group=1, prompts=16)
    rollouts = run.sample(run.next_examples(16))
    told = {e.id: json.loads(json.dumps(remembered(rollouts, i))) for i, e in enumerate(rollouts.example)}
    assert max(drift(run, told).values()) < 1e-12
    with torch.no_grad():
        next(iter(run.policy.parameters())).mul_(1.5)
    assert max(drift(run, told).values()) > 0.01
    assert drift(run, {}) == {} and latest({}, ["0"]) == {}


def test_advantages_are_whitened_over_rows() -> None:
    batch = make_batch(shaped=True, ungraded=True)
    got = RowsWhitened()(batch)
    scores = batch.score[batch.live_rows]
    want = ((batch.score - scores.mean()) / (scores.std() + 1e-8))[:, None].where(batch.live, 0.0)
    torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)
    same = hand_batch([0.7] * 16, dtype=torch.float32)
    assert (RowsWhitened()(same) == 0).all()


def test_uncertain_prompts_come_more_often_and_none_starves() -> None:
    run, counts = Stream(total=30), Counter[str]()
    run.memory["spo"] = {
        str(i): {"alpha": 4.0 if i < 15 else 7.999, "beta": 4.0 if i < 15 else 0.001} for i in range(30)
    }
    for step in range(60):
        run.step_index = step
        chosen = [e.id for e in ByUncertainty()(run, 6)]
        assert len(set(chosen)) == 6, "without replacement"
        counts.update(chosen)
    uncertain = sum(counts[str(i)] for i in range(15))
    assert uncertain / 360 > 0.75 and sum(counts[str(i)] > 0 for i in range(15, 30)) >= 8


def test_group_of_one_teaches_and_the_same_seed_is_the_same_run() -> None:
    runs = [table_run(METHOD, group=1, prompts=16) for _ in range(2)]
    start = table_of(runs[0])
    for step in range(5):
        for run in runs:
            run.step()
        if step == 2:
            runs[1].memory = json.loads(json.dumps(runs[1].memory))
    assert runs[0].memory == runs[1].memory and (table_of(runs[0]) == table_of(runs[1])).all()
    assert (table_of(runs[0]) != start).any() and runs[0].sampled == 80


def test_a_real_run_resumes_with_its_trackers(tmp_path: Path) -> None:
    whole, cut = run_twice("spo", tmp_path, rollout__group=1, rollout__prompts=24)
    assert_alike(whole, cut)
    told = memory(whole)["spo"]
    assert len(told) > 24 and any(m["alpha"] + m["beta"] > 9 for m in told.values())


def test_verdicts_keep_their_success() -> None:
    rows = spoken(["a=5"], truth="5")
    verdicts: Verdicts = OverTracker()(rows, Verified()(rows, VERIFIER), table_stage(METHOD))
    assert verdicts.success.tolist() == [True]
