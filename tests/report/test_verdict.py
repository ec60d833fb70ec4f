"""The verdict says what the counts and the watch say, and no more."""

from __future__ import annotations

import numpy as np
import pytest

from rekindle.report.page.overseen import overseen
from rekindle.report.page.verdict import COLLAPSING, GOOD, UNKNOWN, WATCH, paired, verdict
from rekindle.report.recording import Recording
from tests.report.recorded import counts, recording, steps

PROMPTS = [f"p{i}" for i in range(60)]


def evaluated(before: int, after: int, **parts: object) -> Recording:
    """60 prompts, each with so many of 8 right."""
    own = [counts(0, **dict.fromkeys(PROMPTS, before)), counts(9, **dict.fromkeys(PROMPTS, after))]
    return recording(counts=own, **parts)


def test_a_gain_beyond_the_interval_is_an_improvement_and_a_loss_is_lost() -> None:
    assert verdict("g", [evaluated(2, 5)]).better[0] == "held out pass@1 0.250 → 0.625 (+0.375 to +0.375)"
    assert "held out pass@1 0.625 → 0.250" in verdict("g", [evaluated(5, 2)]).worse[0]
    same = verdict("g", [evaluated(4, 4)])
    assert not same.better and not same.worse and len(same.same) == 2
    assert "Nothing measurably improved. Nothing measurable was lost." in same.paragraph()


def test_the_interval_is_of_differences_prompt_by_prompt() -> None:
    made = np.random.default_rng(0)
    before = {p: int(made.integers(0, 8)) for p in PROMPTS}
    pairs = [(counts(0, **before), counts(9, **{p: c + 1 for p, c in before.items()}))]
    was, now, (low, high) = paired(pairs, 1)
    assert now - was == pytest.approx(1 / 8) and low == pytest.approx(1 / 8) and high == pytest.approx(1 / 8)
    # Half the prompts up by one, half down by one: no change, and an interval around it.
    mixed = {p: max(0, c + (1 if i % 2 else -1)) for i, (p, c) in enumerate(before.items())}
    _, _, (low, high) = paired([(counts(0, **before), counts(9, **mixed))], 1)
    assert low < 0 < high


def test_runs_that_disagree_widen_the_interval() -> None:
    base = counts(0, **dict.fromkeys(PROMPTS, 4))
    pairs = [(base, counts(9, **dict.fromkeys(PROMPTS, c))) for c in (3, 5, 8)]
    _, _, (low, high) = paired(pairs, 1)
    assert low < 0 < high


def test_few_prompts_or_steps_are_no_evidence() -> None:
    one = recording(counts=[counts(0, samples=1, a=1), counts(3, samples=1, a=0)])
    found = verdict("g", [one])
    assert not found.worse and "too few to tell" in found.same[0]
    short = recording(steps=steps(success=[0.3, 0.4, 0.5]))
    assert "too few steps to tell" in verdict("g", [short]).same[0]


def test_noise_in_training_is_seldom_called_a_change() -> None:
    made = np.random.default_rng(0)
    runs = [recording(steps=steps(success=made.normal(0.5, 0.05, 100).tolist())) for _ in range(200)]
    called = [verdict("g", [run]) for run in runs]
    assert sum(bool(v.better or v.worse) for v in called) / 200 < 0.09
    rising = [recording(steps=steps(success=(0.4 + 0.002 * np.arange(100) + made.normal(0, 0.05, 100)).tolist()))]
    assert verdict("g", rising).better


def test_the_runs_own_watch_is_taken() -> None:
    falling = {"entropy": [1.0] * 5 + [0.2] * 15, "score": [0.5] * 20}
    plain = recording(steps=steps(**falling))
    assert "entropy" in overseen(plain)[1]
    lax = recording(steps=steps(**falling), options={"watch.entropy": 0.1, "watch.slope": 0.1, "method": "m"})
    assert overseen(lax)[1] == {}


@pytest.mark.parametrize("every", [0, 15, 1000])
def test_a_run_that_did_not_watch_itself_is_looked_at_to_its_end_all_the_same(every: int) -> None:
    falling = steps(entropy=[1.0] * 5 + [0.06] * 15, score=[0.5] * 20)
    found = verdict("g", [recording(steps=falling, options={"watch.every": every, "method": "m"})])
    assert found.state == WATCH and "No sign" not in found.paragraph()
    assert "Why: entropy fell from 1 to 0.06 nats" in found.paragraph()


def test_one_evidence_of_two_signs_is_told_once() -> None:
    gone = recording(steps=steps(entropy=[1.0] * 5 + [0.05] * 35))
    assert {"entropy", "spent"} <= {*overseen(gone)[1]}, "both signs are open"
    why = verdict("g", [gone]).why
    assert len(why) == len(set(why)) and sum("of the start" in told for told in why) == 1


def test_runs_at_other_steps_are_told_with_their_steps() -> None:
    base = counts(0, **dict.fromkeys(PROMPTS, 4))
    runs = [recording(f"r{step}", counts=[base, counts(step, **dict.fromkeys(PROMPTS, 6))]) for step in (100, 10)]
    assert verdict("g", runs).better[0].startswith("held out pass@1 (steps 10 to 100) 0.500 → 0.750 (+")
    assert "steps" not in verdict("g", runs[:1]).better[0]


@pytest.mark.parametrize(("many", "told"), [(6, False), (20, True)])
def test_of_few_prompts_none_are_called_lost_or_newly_solved(many: int, told: bool) -> None:
    none, all_of_them = ({f"p{i}": right for i in range(many)} for right in (0, 8))
    lost, gained = (
        verdict("g", [recording(counts=[counts(0, **before), counts(9, **after)])])
        for before, after in ((all_of_them, none), (none, all_of_them))
    )
    assert any("prompts held out lost" in text for text in lost.worse) == told
    assert any("prompts held out newly solved" in text for text in gained.better) == told


def test_prompts_that_are_lost_beyond_chance_are_told_and_lucky_losses_are_not() -> None:
    def lost(right: int, gone: int) -> str:
        base = counts(0, **dict.fromkeys(PROMPTS, right))
        now = counts(9, **{p: right if i >= gone else 0 for i, p in enumerate(PROMPTS)})
        return verdict("g", [recording(counts=[base, now])]).paragraph()

    assert "9 prompts held out lost (chance alone:" in lost(6, 9)
    assert "prompts held out lost" not in lost(1, 15)


def test_a_collapsing_run_of_any_trainer_is_seen_with_its_reasons_and_remedies() -> None:
    count = 40
    entropy = [1.0 * 0.85**i for i in range(count)]
    evals = [{"kind": "eval", "step": s, "pass@1": 0.5, "pass@16": 0.9 - 0.02 * s} for s in range(5, count + 1, 5)]
    collapsing = recording(origin="TRL", steps=steps(entropy=entropy, score=[0.5] * count), other=evals)
    found = verdict("g", [collapsing])
    assert found.state == COLLAPSING
    text = found.paragraph()
    assert "It is collapsing. Why: " in text and "To try: " in text and "entropy" in text
    assert "100% of the entropy" in text


def test_the_evaluation_of_the_start_model_counts_as_one() -> None:
    count = 40
    some = steps(entropy=[1.0 * 0.85**i for i in range(count)], score=[0.5] * count)
    base = {"kind": "baseline", "step": 0, "heldout/pass@1": 0.5, "heldout/pass@16": 0.9}
    late = [{"kind": "eval", "step": count, "pass@1": 0.1, "pass@16": 0.1}]
    sight, _ = overseen(recording(steps=some, other=[base, *late]))
    assert sight is not None and sight.collapsing and "coverage" in sight.open
    sight, _ = overseen(recording(steps=some, other=late, options={"method": "m", "evaluate.every": count}))
    assert sight is not None and not sight.collapsing, "of an unknown start nothing can be lost"


def test_a_steady_run_is_sound_and_a_sign_alone_is_worth_a_look() -> None:
    steady = recording(steps=steps(entropy=[1.0] * 20, score=[0.5] * 20))
    assert verdict("g", [steady]).state == GOOD and overseen(steady)[1] == {}
    dead = recording(steps=steps(entropy=[1.0] * 20, score=[0.5] * 20, groups__dead=[0.0] * 5 + [0.95] * 15))
    found = verdict("g", [dead])
    assert found.state == WATCH and "Not collapsing, but there are signs." in found.paragraph()


def test_the_worst_run_of_a_group_gives_its_state_and_is_named() -> None:
    runs = [
        recording(f"r{i}", method="m", seed=i, options={"seed": i, "steps": 2},
                  steps=steps(entropy=[1.0] * 20, groups__dead=[0.0] * 5 + [0.95 * i] * 15))
        for i in (0, 1)
    ]  # fmt: skip
    found = verdict("m", runs)
    assert found.state == WATCH and all("(r1)" in why for why in found.why)


def test_without_evaluations_the_training_score_is_told_as_such() -> None:
    rising = recording(steps=steps(success=[0.1 + 0.02 * i for i in range(40)]))
    assert "training success 0.130 → 0.850" in verdict("g", [rising]).better[0]


@pytest.mark.parametrize("count", [0, 1, 3])
def test_a_run_without_steps_after_its_start_is_not_called_sound(count: int) -> None:
    found = verdict("g", [recording(steps=steps(entropy=[0.5] * count) if count else [])])
    assert found.state == UNKNOWN and found.paragraph().startswith("Whether it improved was not measured.")
    assert found.paragraph().endswith("Too few steps were recorded to see a collapse.")
    assert ("Entropy: 0.500 nats a token, of one step." in found.paragraph()) == (count == 1)


def test_without_entropy_the_watch_says_what_it_did_not_see() -> None:
    text = verdict("g", [recording(steps=steps(score=[0.5] * 9))]).paragraph()
    assert text.endswith("No sign of a collapse in what was recorded, which has no entropy.")
    still = verdict("g", [recording(steps=steps(entropy=[0.0] * 9))]).paragraph()
    assert "Entropy: 0.000 → 0.000 nats a token. No sign of a collapse." in still
