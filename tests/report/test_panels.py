"""What each panel shows is what the numbers say, and a panel without data says what to record."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from rekindle.report.page.coverage import beyond, chances, changes, pooled
from rekindle.report.page.law import predicted
from rekindle.report.page.panels import averaged, banded, differ_by_seed_only, distinct, groups_of
from rekindle.report.page.passk import curve_rows, powers, split_counts
from rekindle.report.page.tokens import measure, spread_steps, tokens_of
from tests.report.recorded import counts, panel, recording, row, steps, table, titles, values

SAME = {"steps": 3, "descent.lr": 0.1}


def test_runs_of_a_method_with_other_seeds_are_one_curve_with_a_band() -> None:
    runs = [
        recording(f"a{seed}", method="a", seed=seed, options={**SAME, "seed": seed}, steps=steps(entropy=[1.0, seed]))
        for seed in (0, 2)
    ]
    assert list(groups_of(runs)) == ["a"]
    drawn = values(panel(runs, "entropy")["charts"][0])
    assert [(r["x"], r["y"], r["low"], r["high"], r["n"]) for r in drawn] == [
        (1.0, 1.0, 1.0, 1.0, 2),
        (2.0, 1.0, 0.0, 2.0, 2),
    ]


def test_runs_of_a_method_that_differ_in_more_are_curves_of_their_own() -> None:
    runs = [recording(f"a{i}", method="a", seed=i, options={**SAME, "seed": i, "descent.lr": i}) for i in (0, 1)]
    assert list(groups_of(runs)) == ["a0", "a1"] and not differ_by_seed_only(runs)
    rows = panel(runs, "options")["tables"][0]["rows"]
    assert [r[0] for r in rows] == ["descent.lr", "seed"]


def test_long_curves_are_means_of_stretches() -> None:
    found = averaged([(float(i), float(i)) for i in range(1000)], most=10)
    assert len(found) == 10 and found[0] == (49.5, 49.5)
    assert banded({"g": [[(1.0, math.nan), (2.0, 3.0)]]}) == [{"x": 2.0, "y": 3.0, "group": "g", "n": 1}]


def test_pass_at_k_is_the_mean_over_prompts_of_the_unbiased_estimate() -> None:
    rows = curve_rows("base", [counts(0, samples=4, a=4, b=2, c=0)])
    assert [r["x"] for r in rows] == [1, 2, 4]
    assert [r["y"] for r in rows] == pytest.approx([0.5, (1 + 5 / 6) / 3, 2 / 3], abs=1e-4)
    assert all(r["low"] <= r["y"] <= r["high"] for r in rows)
    assert powers(6) == [1, 2, 4, 6]


def test_a_comparison_measures_the_base_on_the_prompts_of_the_end() -> None:
    mine = [counts(0, a=1), counts(2, a=2), counts(0, a=3, b=4), counts(9, a=5, b=6)]
    base, now = split_counts(recording(counts=mine), "heldout")
    assert base is not None and now is not None
    assert (base.right, now.right) == ({"a": 3, "b": 4}, {"a": 5, "b": 6})


def test_coverage_tells_what_was_lost_from_what_chance_takes() -> None:
    found = changes(counts(0, samples=32, a=1, b=20, c=0, d=0, e=9), counts(5, samples=32, a=0, b=0, c=9, d=0, e=8))
    assert (found.lost, found.gained, found.never, found.kept) == (["a", "b"], ["c"], ["d"], ["e"])
    assert sum(found.chance_lost) == pytest.approx(sum(chances(t, 32, 32)[0] for t in (1, 20, 9, 17)))


@pytest.mark.parametrize("shape", [(1.0, 1.0), (0.3, 1.0), (0.1, 0.5)])
@pytest.mark.parametrize("runs", [1, 3])
def test_where_nothing_changed_a_loss_is_seldom_called_one(shape: tuple[float, float], runs: int) -> None:
    """200 prompts of any difficulty, measured again: the rule holds its level, and the expectation is right."""
    made, alarms, lost, expected = np.random.default_rng(0), 0, 0, 0.0
    for _ in range(150):
        rate = made.beta(*shape, 200)
        base, *after = (
            counts(i, samples=16, **{f"p{j}": int(c) for j, c in enumerate(made.binomial(16, rate))})
            for i in range(runs + 1)
        )
        found = changes(*pooled([(base, now) for now in after]))
        alarms += beyond(len(found.lost), found.chance_lost) + beyond(len(found.gained), found.chance_gained)
        lost, expected = lost + len(found.lost), expected + sum(found.chance_lost)
    assert alarms / 300 < 0.08
    assert lost == pytest.approx(expected, rel=0.15)


def test_what_is_really_lost_is_seen() -> None:
    base = counts(0, samples=16, **{f"p{i}": 4 for i in range(200)})
    now = counts(9, samples=16, **{f"p{i}": 0 if i < 20 else 4 for i in range(200)})
    found = changes(base, now)
    assert len(found.lost) == 20 and beyond(20, found.chance_lost)


def test_the_covariance_of_a_step_is_that_of_its_tokens() -> None:
    rows = [row(uid=0, advantage=1.0), row(uid=1, advantage=-2.0, token_logp=[-1.0, -3.0], success=False)]
    found = measure(1, table(*rows))
    assert found.covariance == pytest.approx(float(np.cov([-0.1, -0.2, -1.0, -3.0], [1, 1, -2, -2], bias=True)[0, 1]))


def test_clipped_tokens_are_those_that_the_clip_stops() -> None:
    # High: a right response's token above 1.2. A wrong one's above it is not clipped, nor is a right one's below 0.8.
    rows = [
        row(advantage=1.0, token_ratio=[0.5, 1.3]),
        row(uid=1, advantage=-3.0, token_ratio=[1.3, 0.7], token_logp=[-1.0, -3.0]),
    ]
    found = measure(1, table(*rows))
    assert found.mass == pytest.approx((3 / 8, 1 / 8))
    logp, advantage = np.array([-0.1, -0.2, -1.0, -3.0]), np.array([1, 1, -3, -3])
    part = -(logp - logp.mean()) * (advantage - advantage.mean()) / 4
    assert found.lost == pytest.approx((part[3], part[1]))
    assert math.isnan(measure(1, table(*rows, bounds=None)).mass[0])


def test_advantages_of_single_tokens_go_before_that_of_the_response() -> None:
    tokens = tokens_of(table(row(advantage=5.0, token_advantage=[1.0, -1.0])))
    assert tokens is not None and tokens.advantage is not None and tokens.advantage.tolist() == [1.0, -1.0]


def test_forking_tokens_are_the_most_uncertain_fifth() -> None:
    entropies = [2.0, 0.1, 0.1, 0.1, 0.1]
    lists = {"token_text": list("abcde"), "token_ids": [1] * 5, "token_logp": [-1.0] * 5, "token_ratio": ...}
    found = measure(1, table(row(token_entropy=entropies, **lists)))
    assert (found.forking, found.filler) == (2.0, pytest.approx(0.1))
    assert found.words["a"] == (2.0, 1)
    assert found.positions[0] == 2.0 and math.isnan(found.positions[1])
    shown = panel([recording(tables={1: table(row(token_entropy=entropies, **lists))})], "entropy")
    along = next(chart for chart in shown["charts"] if chart["title"] == "Entropy along a response")
    assert {r["y"] for r in values(along)} == {2.0, 0.1}, "where no token lies there is no point"


def test_a_response_without_numbers_does_not_count() -> None:
    rows = [row(), row(uid=1, token_entropy=None, token_logp=None, advantage=None, token_ratio=None)]
    found = measure(1, table(*rows))
    assert found.entropy == pytest.approx(0.3)


def test_the_change_of_entropy_is_that_to_the_next_step_or_of_stretches() -> None:
    few = recording(steps=steps(entropy=[1.0, 0.8, 0.7]), tables={i: table(row()) for i in (1, 2, 3)})
    measured = [measure(i, table(row(), row(advantage=-1.0, token_logp=[-2.0, -2.0]))) for i in (1, 2, 3)]
    assert [d for _, d in predicted(few, measured)] == pytest.approx([-0.2, -0.1])
    many = recording(steps=steps(entropy=[1 - 0.01 * i for i in range(40)]))
    rows = [measure(i, table(row(), row(advantage=-1.0, token_logp=[-2.0, -2.0]))) for i in range(1, 41)]
    assert [d for _, d in predicted(many, rows)] == pytest.approx([-0.01] * 8)


def test_looked_at_steps_keep_the_ends() -> None:
    assert spread_steps(list(range(1, 501)), 5) == [1, 126, 251, 375, 500]


def test_a_bare_run_says_what_to_record_in_every_panel() -> None:
    bare = recording(steps=[{"kind": "step", "step": 1}])
    for name in ("passk", "coverage", "entropy", "covariance", "law", "clipping", "groups", "truth", "options"):
        found = panel([bare], name)
        assert found["missing"] and not found["charts"], name


def test_dead_groups_are_counted_from_rollouts_where_the_steps_do_not_say() -> None:
    rows = [row(group=0, score=1.0), row(group=0, score=1.0), row(group=1, score=0.0), row(group=1, score=1.0)]
    found = panel([recording(tables={1: table(*rows)})], "groups")
    assert values(found["charts"][0])[0]["y"] == 0.5


def test_scores_inside_bands_are_drawn_and_plain_rewards_are_not() -> None:
    banded_rows = [row(score=s, success=s > 0) for s in (1.0, 0.7, 0.5, -0.5, -0.8)]
    shown = panel([recording(tables={1: table(*banded_rows)})], "groups")
    assert any("inside their bands" in title for title in titles(shown))
    plain = panel([recording(tables={1: table(row(score=1.0), row(score=0.0, success=False))})], "groups")
    assert not any("inside their bands" in title for title in titles(plain))


def test_without_evaluations_the_training_groups_are_shown() -> None:
    rows = [row(group=0), row(group=0, success=False), row(group=1, success=False), row(group=1, success=False)]
    found = panel([recording(tables={1: table(*rows), 2: table(*rows[:2])})], "passk")
    drawn = {(r["part"], r["x"]): r["y"] for r in values(found["charts"][0])}
    assert drawn == {
        ("all responses", 1.0): 0.25, ("at least one of a group", 1.0): 0.5,
        ("all responses", 2.0): 0.5, ("at least one of a group", 2.0): 1.0,
    }  # fmt: skip
    assert "evaluate.every" in found["missing"][0]


def test_runs_of_one_name_are_told_apart_by_their_folders() -> None:
    runs = [
        recording(
            "run", method="m", folder=Path(f"/x/{place}/run"), options={"descent.lr": lr}, steps=steps(entropy=[lr])
        )
        for place, lr in (("a", 0.1), ("b", 9.0))
    ]
    assert [run.name for run in distinct(runs)] == ["a/run", "b/run"]
    assert len({r["run"] for r in values(panel(runs, "entropy")["charts"][0])}) == 2


def test_small_advantages_have_bins_of_their_own() -> None:
    rows = [row(uid=i, advantage=a) for i, a in enumerate((-0.005, 0.005, 0.001))]
    shown = panel([recording(tables={1: table(*rows)})], "groups")
    drawn = values(next(c for c in shown["charts"] if c["title"] == "Advantages of responses"))
    assert len({r["x"] for r in drawn}) == 21


def test_runs_on_other_prompts_are_not_compared() -> None:
    runs = [
        recording(f"r{i}", method=f"m{i}", counts=[counts(0, **{f"{i}a": 1}), counts(5, **{f"{i}a": 2})])
        for i in (0, 1)
    ]
    found = panel(runs, "passk")
    assert not found["charts"] and "share no prompt" in found["missing"][0]
