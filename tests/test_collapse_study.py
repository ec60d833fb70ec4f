"""The study of the collapse watch: its label and counts on paper, its split, and a page that follows from the runs."""

from __future__ import annotations

import itertools
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.collapse.__main__ import main
from benchmarks.collapse.cells import CELLS, SEEDS, labelled
from benchmarks.collapse.page import BEGIN, END, page, share
from benchmarks.collapse.runs import columns, planned, stored
from benchmarks.collapse.score import Played, play, records, score, wilson
from rekindle.train.sections_watch import Watch

ROOT = Path(__file__).resolve().parent.parent


def made(entropy: list[float], passed: dict[int, float], **columns: list[float]) -> dict:
    """A stored run: entropy step by step, pass@16 of the evaluated steps."""
    train = {"step": list(range(1, len(entropy) + 1)), "entropy": entropy, **columns}
    held = {"step": list(passed), "pass@1": [v / 2 for v in passed.values()], "pass@16": list(passed.values())}
    return {
        "part": "scored",
        "cell": "made",
        "seed": 1,
        "free": True,
        "start": {},
        "train": train,
        "eval": held,
    }


SLOW = [1.0] * 3 + [0.5] * 4 + [0.05] * 5
VOTES = {"answers/majority": [0.3] * 3 + [0.9] * 9, "answers/distinct": [0.6] * 3 + [0.1] * 9}
FELL = made(SLOW, {4: 1.0, 8: 0.7, 12: 0.3}, **VOTES)


def test_a_run_collapsed_where_both_halves_of_the_label_hold_at_its_end() -> None:
    assert labelled(FELL).collapsed and labelled(FELL).at == 12
    assert labelled(FELL).passed == pytest.approx(0.3) and labelled(FELL).entropy == pytest.approx(0.05)
    assert not labelled(made(SLOW, {4: 1.0, 12: 0.91})).collapsed, "nothing was lost"
    assert not labelled(made([1.0] * 12, {4: 1.0, 12: 0.1})).collapsed, "entropy is there"
    back = labelled(made([*SLOW, 1.0, 1.0, 1.0], {4: 1.0, 12: 0.3, 15: 0.3}, **VOTES))
    assert back.at == 12 and not back.collapsed, "it recovered"


def test_a_lead_is_from_the_first_verdict_to_the_label() -> None:
    found = play(FELL, Watch())
    assert found.warned is not None and found.lead == 12 - found.warned > 0
    assert {"entropy", "lock_in", "coverage"} <= found.signs.keys()
    alone = play(FELL, Watch(), evaluated=False)
    assert "coverage" not in alone.signs and alone.warned is not None and alone.warned <= found.warned


def test_the_start_model_is_the_first_evaluation_that_the_watch_hears_of() -> None:
    late = made(SLOW, {8: 0.1, 12: 0.1}, **VOTES)
    assert play(late, Watch()).warned is None, "what was lost before the first evaluation cannot be seen"
    known = {**late, "start": {"pass@1": 0.5, "pass@16": 1.0}}
    assert play(known, Watch()).warned == 8 and play(known, Watch(), evaluated=False).warned == 4
    assert labelled(known) == labelled(late) and not labelled(late).collapsed, "the label is of the evaluations alone"


def test_the_watch_gets_the_records_that_a_run_gives_it() -> None:
    steps = list(records(FELL))
    assert [len(step) for step in steps] == [2 if i in (4, 8, 12) else 1 for i in range(1, 13)]
    assert steps[3][1] == {"kind": "eval", "step": 4, "pass@1": 0.5, "pass@16": 1.0}
    stored_again = columns([{"kind": "step", "step": 1, "entropy": 1.23456, "truth/pass@1": 0.5}])
    assert stored_again == {"step": [1], "entropy": [1.235]}, "and never the truth"


def test_counts_on_paper() -> None:
    one, other = labelled(FELL), labelled(made([1.0] * 12, {4: 1.0, 12: 1.0}))
    some = [
        Played(FELL, one, 5, {}),
        Played(FELL, one, None, {}),
        Played({}, other, 3, {}),
        Played({}, other, None, {}),
    ]
    found = score([*some, some[0], Played(FELL, one, 14, {"slope": 2})])
    assert (found.hits, found.false_alarms, found.misses, found.quiet) == (3, 1, 1, 1)
    assert found.precision == (3, 4) and found.recall == (3, 4) and found.leads == (-2, 7, 7)
    assert score([*some, Played(FELL, one, 14, {"slope": 2})], "slope").leads == (10,)


def test_wilsons_interval() -> None:
    assert wilson(16, 20) == pytest.approx((0.5840, 0.9193), abs=1e-4)
    assert wilson(0, 0) == (0.0, 1.0) and wilson(5, 5)[1] == 1.0
    assert share((16, 20)) == "16/20 = 80 % (58 % to 92 %)" and share((0, 0)) == "-"


def test_the_parts_share_no_seed_and_no_setting() -> None:
    assert not set(SEEDS["tuning"]) & set(SEEDS["scored"])
    assert not set(CELLS["tuning"]) & set(CELLS["scored"])
    tuned, scored = ({cell.method for cell in CELLS[part]} for part in ("tuning", "scored"))
    assert len(scored - tuned) > len(scored & tuned)


def test_every_planned_run_is_stored_and_both_classes_are_there() -> None:
    runs = stored()
    assert [(r["part"], r["cell"], r["seed"]) for r in runs] == [(p, c.name, s) for p, c, s in planned()]
    for part, least in (("tuning", 20), ("scored", 20)):
        fell = [labelled(run).collapsed for run in runs if run["part"] == part]
        assert len(fell) >= least and 6 <= sum(fell) <= len(fell) - 6
    for run in runs:
        assert not any(name.startswith("truth/") for name in run["train"])
        assert run["start"].keys() >= {"pass@1", "pass@16", "maj@16"} and run["start"].keys() <= run["eval"].keys()
        lengths = {len(column) for column in run["train"].values()}
        assert len(lengths) == 1 and all(a < b for a, b in itertools.pairwise(run["eval"]["step"]))


def test_the_page_follows_from_the_runs() -> None:
    # In a process of its own: types are not checked there, and the watch looks twelve thousand times.
    found = subprocess.run([sys.executable, "-m", "benchmarks.collapse", "check"], cwd=ROOT, check=False)
    assert found.returncode == 0, "run `python -m benchmarks.collapse page`"


def test_a_page_of_other_runs_is_another_page() -> None:
    lost = {**FELL, "part": "tuning"}
    text = page([lost, FELL], f"before {BEGIN} {END} after")
    assert (
        text.startswith("before ")
        and text.endswith(" after")
        and "| scored | with held-out evaluation | 1 of 1 |" in text
    )
    assert page([lost, FELL, FELL], text) != text == page([lost, FELL], text)


def test_another_word_is_no_command() -> None:
    assert main("retune") == 2
