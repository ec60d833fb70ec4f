"""Curves of several runs: one mean over the steps that they share, and parts that no name can imitate."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from rekindle.report.page.charts import lines, spoken
from rekindle.report.page.panels import MOST_POINTS, SEP, banded, cells
from rekindle.report.page.tokens import MOST_STEPS, shared_steps
from rekindle.report.recording import Recording
from tests.report.recorded import panel, recording, row, steps, table, values


def flat(level: float, count: int) -> list[tuple[float, float]]:
    return [(float(i), level) for i in range(1, count + 1)]


def seeds(*lengths: int, **parts: object) -> list[Recording]:
    """Runs of one method that differ by their seed; the entropy of each is its seed all the way."""
    return [
        recording(f"a{i}", method="a", seed=i, options={"steps": 3, "seed": i}, steps=steps(entropy=[i] * n), **parts)
        for i, n in enumerate(lengths)
    ]


@pytest.mark.parametrize("other", [300, 390, 399])
def test_the_mean_of_long_runs_of_unequal_length_is_one_over_the_same_steps(other: int) -> None:
    rows = banded({"a": [flat(1.0, 400), flat(0.0, other)]})
    assert len(rows) <= MOST_POINTS and [r["x"] for r in rows] == sorted({r["x"] for r in rows})
    both = [r for r in rows if r["x"] < other - 1]
    assert {(r["y"], r["low"], r["high"], r["n"]) for r in both} == {(0.5, 0.0, 1.0, 2)}
    assert {(r["y"], r["n"]) for r in rows if r["x"] > other + 2} <= {(1.0, 1)}
    assert len([1 for a, b in pairwise(rows) if a["n"] != b["n"]]) <= 1


def test_where_fewer_runs_go_on_the_curve_begins_anew_and_the_chart_says_so() -> None:
    rows = banded({"a": [flat(1.0, 4), flat(0.0, 2)], "b": [flat(0.2, 2)]})
    seen = [(r["group"], r["x"], r["n"], r.get("stretch")) for r in rows]
    assert seen[:4] == [("a", 1.0, 2, 0), ("a", 2.0, 2, 0), ("a", 3.0, 1, 1), ("a", 4.0, 1, 1)]
    assert seen[4:] == [("b", 1.0, 1, None), ("b", 2.0, 1, None)]
    chart = lines("It", rows, y="nats")
    assert chart.says == "It: a from 0.5 to 1 (1 of 2 runs); b from 0.2 to 0.2."
    assert "begins anew" in chart.note
    band, line = chart.spec["layer"]
    assert {"field": "stretch"} in band["encoding"]["detail"] and line["encoding"]["detail"] == {"field": "stretch"}


def test_a_single_step_that_goes_on_is_a_dot() -> None:
    assert [r["x"] for r in banded({"a": [flat(1.0, 60), flat(0.0, 59)]}) if "alone" in r] == [60.0]
    assert not any("alone" in r for r in banded({"a": [flat(1.0, 60), flat(0.0, 58)], "b": [flat(1.0, 1)]}))


def test_runs_of_one_length_have_neither_note_nor_breaks() -> None:
    chart = lines("It", banded({"a": [flat(1.0, 200), flat(0.0, 200)]}), y="nats")
    assert "anew" not in chart.note and f"{MOST_POINTS} a curve" in chart.note
    assert not any("stretch" in r for r in chart.spec["data"]["values"])


def test_between_two_of_its_steps_a_run_is_where_its_line_is() -> None:
    gap = [(1.0, 0.0), (2.0, float("nan")), (3.0, 2.0)]
    assert [(r["x"], r["y"], r["n"]) for r in banded({"a": [gap, flat(3.0, 3)]})] == [
        (1.0, 1.5, 2),
        (2.0, 2.0, 2),
        (3.0, 2.5, 2),
    ]


def test_a_step_told_twice_is_that_of_the_last() -> None:
    assert [r["y"] for r in banded({"a": [[(1.0, 5.0), (1.0, 2.0), (2.0, 4.0)]]})] == [2.0, 4.0]


def test_the_tokens_of_seeds_are_looked_at_in_the_same_steps() -> None:
    whole = [list(range(1, 101)), list(range(1, 91))]
    long, short = shared_steps(whole)
    assert [s for s in long if s <= 90] == short and (long[-1], short[-1]) == (100, 90)
    assert max(len(long), len(short)) <= MOST_STEPS
    assert shared_steps([list(range(1, 501))], 5) == [[1, 126, 251, 375, 500]]
    assert shared_steps([[], [3]]) == [[], [3]] and shared_steps([]) == []
    ends = shared_steps([list(range(1, n)) for n in range(100, 130)], 10)
    assert all(own[-1] == n - 1 for n, own in zip(range(100, 130), ends, strict=True))


def test_curves_of_tokens_do_not_leap_between_seeds() -> None:
    tables = [{s: table(row(token_entropy=[level, level])) for s in range(1, n + 1)} for level, n in ((1, 60), (3, 55))]
    runs = [
        recording(f"a{i}", method="a", seed=i, options={"steps": 3, "seed": i}, tables=own)
        for i, own in enumerate(tables)
    ]
    chart = next(c for c in panel(runs, "entropy")["charts"] if c["title"] == "Forking and filler tokens")
    rows = [r for r in values(chart) if r["group"] == "forking"]
    assert {(r["n"], r["y"]) for r in rows if r["x"] <= 55} == {(2, 2.0)}
    assert {(r["n"], r["y"]) for r in rows if r["x"] > 55} == {(1, 1.0)}


def test_the_entropy_of_seeds_of_which_one_was_interrupted() -> None:
    drawn = values(panel(seeds(400, 300), "entropy")["charts"][0])
    assert {r["y"] for r in drawn if r["x"] < 299} == {0.5} and {r["y"] for r in drawn if r["x"] > 302} == {0.0}


def test_a_run_with_the_sign_of_a_part_in_its_name_keeps_name_and_colour() -> None:
    names = [f"x{SEP}y", f"x{SEP}z"]
    runs = [recording(name, steps=steps(entropy=[1.0, i], entropy__right=[i, i])) for i, name in enumerate(names)]
    plain, sides = panel(runs, "entropy")["charts"][:2]
    assert plain["spec"]["encoding"]["color"]["scale"]["domain"] == names
    assert all("strokeDash" not in layer["encoding"] for layer in plain["spec"]["layer"])
    assert {(r["run"], r["part"]) for r in values(sides)} == {(name, "right") for name in names}
    assert cells(("a", "b")) == {"group": f"a{SEP}b", "run": "a", "part": "b"}


def test_a_part_and_a_run_of_its_name_are_two_curves() -> None:
    rows = [*banded({("x", "y"): [[(1.0, 1.0)]]}), *banded({f"x{SEP}y": [[(1.0, 2.0)]]})]
    assert spoken("It", rows) == f"It: x{SEP}y from 1 to 1; x{SEP}y from 2 to 2."
    assert np.unique([r["group"] for r in rows]).size == 1


def test_the_sentence_of_a_chart_has_its_dashed_lines() -> None:
    told = lines("It", banded({"a": [flat(1.0, 2)]}), y="share", rule=[{"y": 0.531, "name": "maj@16 of the start"}])
    assert told.says == "It: a from 1 to 1; dashed, maj@16 of the start: 0.531."
    votes = steps(**{"vote__entropy": [1.0, 1.0], "truth__pass@1": [0.2, 0.3]})
    start = {"kind": "baseline", "step": 0, "start/maj@16": 0.53, "start/pass@1": 0.31}
    shown = panel([recording(steps=votes, other=[start])], "truth")["charts"][-1]
    assert "maj@16 of the start: 0.53" in shown["says"] and "pass@1 of the start: 0.31" in shown["says"]
    assert sum("data" in layer for layer in shown["spec"]["layer"]) == 2, "once each: the numbers are read from them"
