"""EVOL-RL against TTRL on `digit_sum`, eight paired seeds: a vote keeps few right answers, novelty many.

The rule is `rekindle.train.verdict.paired`. This is the second setting: with 4 prompts, 32 votes, lr 1e-3 and 60 steps
the same eight seeds gave *not shown* for distinct answers, for three of the sixteen runs (two of TTRL, one of EVOL-RL)
locked in on a wrong vote; more votes and half the rate made the vote right. Results go to `tests/effect/results.json`,
from which the verdict is taken.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rekindle.api import evaluate, train
from rekindle.train.verdict import paired

RESULTS = Path(__file__).with_name("results.json")
SEEDS = range(8)
STEPS = 200
OPTIONS = {"evaluate.baseline": False, "checkpoint.every": 0, "checkpoint.rollouts": 0}


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, list[float]]]:
    found: dict[str, dict[str, list[float]]] = {}
    for method in ("ttrl", "evol_rl"):
        for seed in SEEDS:
            out = tmp_path_factory.mktemp(f"{method}-{seed}") / "run"
            train(method, task="digit_sum", steps=STEPS, seed=seed, out=out, options=OPTIONS)
            mean = evaluate(out / "final", task="digit_sum", samples=16).mean
            for name in ("pass@1", "pass@16", "entropy", "distinct"):
                found.setdefault(method, {}).setdefault(name, []).append(round(mean[name], 4))
    base = evaluate("embedded", task="digit_sum", samples=16).mean
    stored = {"base": {n: round(base[n], 4) for n in ("pass@1", "pass@16", "entropy", "distinct")}, "methods": found}
    RESULTS.write_text(json.dumps(stored, indent=1) + "\n")
    return found


@pytest.mark.effect
@pytest.mark.parametrize("metric", ["distinct", "entropy"])
def test_evol_rl_keeps_more(measured: dict[str, dict[str, list[float]]], metric: str) -> None:
    found = paired(measured["evol_rl"][metric], measured["ttrl"][metric])
    print(metric, found)
    assert found.verdict == "shown"


@pytest.mark.parametrize("metric", ["distinct", "entropy"])
def test_the_stored_verdict_follows_from_the_stored_numbers(metric: str) -> None:
    stored = json.loads(RESULTS.read_text())["methods"]
    assert len(stored["ttrl"][metric]) == len(SEEDS)
    assert paired(stored["evol_rl"][metric], stored["ttrl"][metric]).verdict == "shown"
