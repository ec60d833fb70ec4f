"""Prompts are held against each other only where they are the same: one source, one start model, one id."""

from __future__ import annotations

from typing import Any

import pytest

from rekindle.report.page.build import asset
from rekindle.report.page.charts import BASE
from rekindle.report.page.passk import evaluated
from rekindle.report.page.sources import by_source, source_of
from rekindle.report.page.verdict import verdict
from rekindle.report.recording import Recording
from tests.report.recorded import counts, panel, recording, steps, titles, values

IDS = [f"heldout-{i}" for i in range(30)]
RISING = steps(success=[0.1 + 0.02 * i for i in range(40)])


def measured(name: str, before: int, after: int, **options: Any) -> Recording:
    """A run whose 30 held-out prompts, under the ids that any task gives, had so many of 8 right."""
    own = [counts(0, **dict.fromkeys(IDS, before)), counts(9, **dict.fromkeys(IDS, after))]
    return recording(name, method=name, counts=own, options=options)


def ends(chart: dict[str, Any]) -> dict[tuple[str, str], float]:
    """(run, part) -> its pass@1."""
    return {(row["run"], row["part"]): row["y"] for row in values(chart) if row["x"] == 1}


def test_runs_of_two_tasks_whose_ids_are_alike_are_not_held_against_each_other() -> None:
    runs = [measured("a", 2, 4, task="rg:a"), measured("b", 6, 0, task="rg:b")]
    found = panel(runs, "passk")
    assert titles(found)[:2] == ["pass@k, held out (rg:a)", "pass@k, held out (rg:b)"]
    assert [ends(chart) for chart in found["charts"][:2]] == [
        {(BASE, ""): 0.25, ("a", ""): 0.5},
        {(BASE, ""): 0.75, ("b", ""): 0.0},
    ]
    assert all("Runs on other prompts" in chart["note"] for chart in found["charts"][:2])
    lost = [t for t in panel(runs, "coverage")["tables"] if t["title"].startswith("Lost")]
    assert [table["title"] for table in lost] == ["Lost, held out (rg:b) (12 of 30)"]
    assert {row[1] for row in lost[0]["rows"]} == {"b"}


def test_runs_of_one_task_share_a_chart_and_their_prompts_a_row() -> None:
    runs = [measured("a", 6, 0, task="rg:a"), measured("b", 6, 0, task="rg:a")]
    assert titles(panel(runs, "passk")) == ["pass@k, held out"]
    lost = next(t for t in panel(runs, "coverage")["tables"] if t["title"].startswith("Lost"))
    assert {row[1] for row in lost["rows"]} == {"a, b"}


@pytest.mark.parametrize(
    ("options", "split", "told"),
    [
        ({}, "heldout", ""),
        ({"task": "rg:a"}, "ood", "rg:a"),
        ({"task": "reduce", "data": "x.jsonl", "data_split": "train", "data_config": None}, "heldout", "x.jsonl"),
        ({"data": "x.jsonl", "data_heldout": "y.jsonl"}, "heldout", "y.jsonl"),
        ({"data": "x.jsonl", "data_heldout": "y.jsonl"}, "ood", "x.jsonl"),
        ({"data": "hub/set", "data_config": "main"}, "train", "hub/set, data_config main"),
    ],
)
def test_a_source_is_what_the_options_name(options: dict[str, Any], split: str, told: str) -> None:
    assert source_of(recording(options=options), split) == told


def test_a_run_whose_options_are_gone_is_no_run_of_a_known_source() -> None:
    runs = [measured("a", 2, 4, task="rg:a"), measured("b", 2, 4), recording("c")]
    assert {place: [r.name for r in own] for place, own in by_source(runs, "heldout").items()} == {
        " (rg:a)": ["a"],
        " (of unknown source)": ["b"],
    }
    assert by_source(runs, "ood") == {}


@pytest.mark.parametrize("models", [("A", "B"), ("A", "A")])
def test_start_models_that_differ_have_a_curve_each(models: tuple[str, str]) -> None:
    runs = [measured("ppo", 0, 4, model=models[0]), measured("grpo", 8, 4, model=models[1])]
    chart = panel(runs, "passk")["charts"][0]
    assert ends(chart) == {("ppo", "now"): 0.5, ("grpo", "now"): 0.5, (BASE, "of ppo"): 0.0, (BASE, "of grpo"): 1.0}
    assert next(iter(ends(chart)))[1] == "now", "the first part is drawn without a dash"
    assert f"{BASE} · of grpo from 1 to 1" in chart["says"]


def test_two_models_of_equal_counts_are_still_two_and_one_model_is_one() -> None:
    two = [measured("ppo", 2, 4, model="A"), measured("grpo", 2, 6, model="B")]
    assert {part for _, part in ends(panel(two, "passk")["charts"][0])} == {"now", "of ppo", "of grpo"}
    one = [measured("ppo", 2, 4, model="A"), measured("grpo", 2, 6, model="A")]
    assert ends(panel(one, "passk")["charts"][0]) == {(BASE, ""): 0.25, ("ppo", ""): 0.5, ("grpo", ""): 0.75}


def test_the_start_model_of_one_run_is_not_drawn_as_that_of_another() -> None:
    other = recording("grpo", method="grpo", counts=[counts(9, **dict.fromkeys(IDS, 6))], options={"model": "B"})
    chart = panel([measured("ppo", 2, 4, model="A"), other], "passk")["charts"][0]
    assert ends(chart) == {("ppo", "now"): 0.5, ("grpo", "now"): 0.75, (BASE, "of ppo"): 0.25}


def seeds(method: str, before: dict[int, int]) -> list[Recording]:
    """Runs of a method: seed -> how many of 8 the start model had right when that run measured it."""
    found = []
    for seed, right in before.items():
        own = measured(f"{method}-{seed}", right, 6, model="A", seed=seed, method=method)
        found.append(recording(own.name, method=method, seed=seed, counts=own.counts, options=own.options))
    return found


def test_the_start_model_of_several_seeds_is_the_mean_of_its_measurements() -> None:
    runs = seeds("m", {0: 2, 1: 4})
    assert ends(panel(runs, "passk")["charts"][0]) == {(BASE, ""): 0.375, ("m", ""): 0.75}


def test_a_start_model_that_two_methods_measured_is_one_whatever_seeds_there_are_besides() -> None:
    runs = seeds("m", {0: 2, 1: 4}) + seeds("n", {0: 2, 2: 6})
    assert ends(panel(runs, "passk")["charts"][0]) == {(BASE, ""): 0.5, ("m", ""): 0.75, ("n", ""): 0.75}


def test_a_run_in_a_folder_called_base_has_a_curve_of_its_own() -> None:
    found = panel([measured("base", 2, 4), measured("ppo", 2, 6)], "passk")["charts"][0]
    assert BASE != "base" and ends(found) == {(BASE, ""): 0.25, ("base", ""): 0.5, ("ppo", ""): 0.75}
    assert f'name === "{BASE}"' in asset("charts.js"), "it alone is grey"


def test_evaluations_that_share_no_prompt_are_called_that_and_not_missing() -> None:
    apart = recording(counts=[counts(0, a=1), counts(9, b=2)], steps=RISING)
    missing = panel([apart], "coverage")["missing"]
    assert missing == [
        "The evaluations (held out) share no prompt: measure start model and run on the same ones, as `rekindle "
        "compare` does."
    ]
    text = verdict("g", [apart]).paragraph()
    assert "Improved: training success" in text and " The evaluations (held out) share no prompt." in text


@pytest.mark.parametrize(
    ("own", "told"),
    [
        ([counts(0, a=1)], "Only the start model was evaluated (held out)"),
        ([counts(9, "ood", a=1)], "The start model was not evaluated (out of distribution)"),
    ],
)
def test_half_an_evaluation_says_which_half_is_there(own: list[Any], told: str) -> None:
    half = recording(counts=own, steps=RISING)
    assert [m.split(":")[0] for m in panel([half], "coverage")["missing"]] == [told]
    assert f" {told}." in verdict("g", [half]).paragraph()
    assert "evaluate.every" in panel([recording()], "coverage")["missing"][0]


def test_an_evaluation_without_a_number_is_left_out() -> None:
    other = [
        {"kind": "baseline", "step": 0, "heldout/pass@1": None},
        {"kind": "eval", "step": 1, "pass@1": None},
        {"kind": "eval", "step": 2, "pass@1": 0.5},
        {"kind": "eval", "step": 3, "pass@1": 1},
    ]
    assert evaluated(recording(other=other), "pass@1") == [(2.0, 0.5), (3.0, 1.0)]
    assert "pass@1 of the run's evaluations" in titles(panel([recording(other=other)], "passk"))
