"""What the training score may be told as: by the truth, by a reward, or by a label of the run's own."""

from __future__ import annotations

from typing import Any

import pytest

from rekindle.report.page.verdict import verdict
from rekindle.report.recording import Recording
from rekindle.train.start import Asked, prepare
from tests.report.recorded import recording, steps

RISING = [0.1 + 0.02 * i for i in range(40)]
UNMEASURED = "Whether it improved was not measured."


def options_of(method: str) -> dict[str, Any]:
    return prepare(Asked(method, {"task": "digit_sum"}))[0].options


def of_method(name: str, **columns: list[float]) -> Recording:
    """A run with the options that the method has."""
    return recording(options=options_of(name), steps=steps(**columns))


@pytest.mark.parametrize("name", ["rent", "intuitor", "random_reward", "format_reward"])
@pytest.mark.parametrize("curve", [RISING, RISING[::-1]])
def test_a_run_is_neither_praised_nor_blamed_for_a_label_of_its_own(name: str, curve: list[float]) -> None:
    found = verdict("g", [of_method(name, success=curve, score=curve)])
    assert not found.better and not found.worse and not found.same
    told = f"{curve[0] + (curve[3] - curve[0]) / 2:.3f} → {curve[-1] + (curve[-4] - curve[-1]) / 2:.3f}"
    own = f"By its own label, not by the truth: training success {told} (first and last tenth of the steps)."
    assert found.paragraph().startswith(f"{UNMEASURED} {own}")


@pytest.mark.parametrize("name", ["ttrl", None])
def test_a_vote_is_no_truth_either(name: str | None) -> None:
    columns = {"success": RISING, "vote__majority_share": RISING}
    found = verdict("g", [of_method(name, **columns) if name else recording(steps=steps(**columns))])
    assert found.paragraph().startswith(f"{UNMEASURED} By the vote, not by the truth: training success 0.130 → 0.850")
    assert not found.better


def test_the_truth_meter_of_a_run_without_labels_is_told_as_a_gain() -> None:
    metered = recording(
        options=options_of("rent"),
        steps=[{"kind": "step", "step": i, "success": 0.5, "truth/pass@1": value} for i, value in enumerate(RISING)],
    )
    assert verdict("g", [metered]).better[0].startswith("training success by the truth meter 0.130 → 0.850")


def test_verified_success_is_a_gain() -> None:
    assert verdict("g", [of_method("grpo", success=RISING)]).better[0].startswith("training success 0.130 → 0.850")


def test_entropy_alone_measures_no_score() -> None:
    only = recording(steps=steps(entropy=[1.0] * 5 + [0.06] * 35, nll=[1.0] * 40))
    text = verdict("g", [only]).paragraph()
    assert text.startswith(f"{UNMEASURED} Lost: 94% of the entropy.")
    assert "measurably improved" not in text and "measurable was lost" not in text


@pytest.mark.parametrize("parts", [{"origin": "TRL"}, {"origin": "verl"}, {"options": {"reward": ["r.py:near"]}}])
def test_where_a_reward_function_scores_its_numbers_are_told_and_not_a_threshold_in_them(parts: dict[str, Any]) -> None:
    found = verdict("g", [recording(steps=steps(success=[1.0] * 40, score=RISING), **parts)])
    assert found.better == ["training score 0.130 → 0.850 (first and last tenth of the steps)"] and not found.same
    alone = verdict("g", [recording(steps=steps(success=RISING), **parts)])
    assert alone.better[0].startswith("training success 0.130 → 0.850")


def test_runs_of_unequal_length_say_so() -> None:
    runs = [recording(f"r{i}", steps=steps(success=RISING[: 40 - 10 * i])) for i in (0, 1)]
    assert "(first and last tenth of 30 to 40 steps)" in verdict("g", runs).better[0]
