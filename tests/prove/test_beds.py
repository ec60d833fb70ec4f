"""The beds: known numbers at the start, their options, and every method of the shelf runs on them unchanged."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from rekindle import methods
from rekindle.errors import InputError
from rekindle.prove import echo, strata
from rekindle.prove.bed import Bed
from rekindle.prove.beds import TABLES, load_bed, names
from rekindle.prove.run import TableRun
from rekindle.tokens.offline import BringsRows
from rekindle.tokens.rollouts import PromptRows
from rekindle.train.ruled import DrawsByRule
from tests.methods.records import SEARCHING


def start(bed: str, options: dict | None = None, seed: int = 0) -> dict[str, float]:
    return load_bed(bed).with_options(options or {}).run("grpo", {}, seed, train=False)


def test_ways_start_where_the_source_says() -> None:
    found = start("ways")
    assert found["pass@16"] == pytest.approx(0.946, abs=5e-4)
    assert found["entropy"] == pytest.approx(math.log(6))
    assert found["accuracy"] == pytest.approx(0.536, abs=0.03)


def test_strata_start_even_and_pay_as_stated() -> None:
    found = start("strata")
    mean = sum((c + 7 * b) / 8 for c, b in zip(strata.CEILING, strata.BASE, strict=True)) / 3
    assert found["reward"] == pytest.approx(mean)
    assert found["top"] == pytest.approx(1 / 3)


def test_a_response_of_kind_k_has_k_calls() -> None:
    bed = load_bed("strata")
    run = TableRun(bed.task.world(0), bed.setting, bed.setting.fitted(methods.load("grpo").method()), 0)
    texts = set(run.draw(run.examples, 500, run.key).text)
    assert {text[0]: text.count("q\n") for text in texts} == {"a": 0, "b": 1, "c": 2}
    assert {text[-1] for text in texts} == {"+", "-"}


def test_the_strata_that_a_run_sees_succeed_as_often_as_stated() -> None:
    bed = load_bed("strata")
    run = TableRun(bed.task.world(0), bed.setting, bed.setting.fitted(methods.load("grpo").method()), 0)
    texts = run.draw(run.examples, 30_000, run.key).text
    best = [text[-1] == "+" for text in texts if text.startswith("a1")]
    other = [text[-1] == "+" for text in texts if text.startswith("b") and text[-2] != "1"]
    assert sum(best) / len(best) == pytest.approx(0.35, abs=0.05)
    assert sum(other) / len(other) == pytest.approx(0.05, abs=0.02)


def test_echo_starts_even_and_every_response_is_right() -> None:
    found = load_bed("echo").with_options({"steps": 1}).run("grpo", {}, 0)
    assert found["flat"] == pytest.approx(0.5)
    assert found["reward"] == 1.0 and found["useful"] == 0.0
    assert echo.BED.task.world(0).table[3].tolist() == [0, 0, 0, 3.0, 0, 0, 0]


def test_an_echo_response_has_two_steps() -> None:
    bed = load_bed("echo")
    run = TableRun(bed.task.world(0), bed.setting, bed.setting.fitted(methods.load("echo_rl").method()), 0)
    run.rewards.append([])
    batch = run.method.collect(run)
    assert batch.column("segment").tolist() == [[0, 0, 1]] * len(batch)


def test_digits_start_at_one_in_ten() -> None:
    found = start("digits")
    assert found["accuracy"] == pytest.approx(0.1, abs=0.02)
    assert found["entropy"] == pytest.approx(2.2, abs=0.05)
    assert found["distinct"] == pytest.approx(30, abs=6)


def test_digits_solved_and_unsolvable_shares() -> None:
    assert start("digits", {"solved": 0.5})["accuracy"] == pytest.approx(0.55, abs=0.03)
    world = load_bed("digits").with_options({"unsolvable": 0.3}).task.world(0)
    assert [e.answer for e in world.task.examples].count("none") == 3


def test_fillers_follow_each_digit_and_do_not_count() -> None:
    bed = load_bed("digits").with_options({"fillers": 2, "blocks": 3})
    world = bed.task.world(0)
    assert world.length == 9
    assert world.task.extract("199288500") == str(1 + 2 + 5)
    filler = torch.softmax(world.table.view(10, 9, 10, 10)[:, 1], dim=-1)[..., 0].mean().item()
    assert filler > 0.9, "the usual filler is nearly certain"


def test_a_demonstration_is_right() -> None:
    for targets, fillers in ((10, 0), (40, 2)):
        task = load_bed("digits").with_options({"targets": targets, "fillers": fillers}).task.world(0).task
        shown = [(e.meta["demonstration"], e.answer) for e in task.examples[:37]]
        assert all(task.extract(text) == answer for text, answer in shown)


def test_spread_covers_all_difficulties_and_the_shares_that_are_asked_for() -> None:
    assert start("spread")["reward"] == pytest.approx(0.5, abs=1e-6)
    assert start("spread", {"solved": 0.5})["reward"] == pytest.approx(0.75, abs=2e-3)
    assert start("spread", {"solved": 0.5, "unsolvable": 0.5})["reward"] == pytest.approx(0.5, abs=2e-3)


def test_only_the_first_token_counts() -> None:
    bed = load_bed("first").with_options({"steps": 2, "length": 5})
    run = TableRun(bed.task.world(0), bed.setting, bed.setting.fitted(methods.load("ppo_clip").method()), 0)
    rollouts = run.draw(run.examples, 200, run.key)
    assert {len(text) for text in rollouts.text} == {5} and bool(rollouts.mask.all())
    run.rewards.append([])
    batch = run.method.collect(run)
    assert isinstance(batch.prompt, PromptRows)
    wanted, state = torch.tensor([ids[0] for ids in batch.prompt.ids]), run.world.states(batch)
    right = batch.action[:, 0] == wanted
    assert torch.equal(batch.success, right) and torch.equal(state[:, 0], wanted)
    assert torch.equal((state[:, 1:] - 10) % 2, right.long()[:, None].expand(-1, 4)), "a state knows what was right"
    found = start("first", {"length": 5})
    assert found["accuracy"] == pytest.approx(0.1) and found["entropy"] == pytest.approx(math.log(10))
    assert found["steps_to_90"] == 301, "never: one step more than the run has"


def test_a_blind_value_is_the_same_for_right_and_wrong() -> None:
    worlds = [load_bed("first").with_options({"sees": sees, "length": 4}).task.world(0) for sees in (True, False)]
    assert torch.equal(worlds[0].follow, worlds[1].follow)
    assert worlds[1].row.tolist() == [*range(10), 10, 10, 11, 11, 12, 12] and len(worlds[1].table) == 13


def test_steps_to_nine_in_ten_are_counted() -> None:
    found = load_bed("first").with_options({"length": 1, "steps": 40}).run("ppo_clip", {}, 0)
    assert 1 < found["steps_to_90"] <= 40 and found["accuracy"] > 0.9


def test_a_budget_ends_both_arms_at_equal_responses() -> None:
    bed = load_bed("spread").with_options({"steps": 300, "budget": 1000, "prompts": 8})
    for method in ("grpo", "dapo"):
        assert 1.0 <= bed.run(method, {}, 0)["sampled"] < 1.4


def test_a_run_whose_prompts_are_all_saturated_ends_there() -> None:
    bed = load_bed("echo").with_options({"steps": 5})
    found = bed.run("dapo", {}, 0)
    assert found["flat"] == 0.5 and found["sampled"] > 0


def test_what_a_method_logs_can_be_a_metric() -> None:
    found = load_bed("digits").with_options({"steps": 2}).run("grpo", {}, 0)
    assert 0 < found["train/grad_norm"] <= found["max/grad_norm"]


def test_options_of_a_bed_are_checked() -> None:
    bed = load_bed("digits").with_options({"lr": 1, "targets": 40})
    assert (bed.setting.lr, bed.options()["targets"]) == (1.0, 40)
    with pytest.raises(InputError, match=r"unknown option of the bed 'digits' 'target': there are .*targets"):
        load_bed("digits").with_options({"target": 40})
    with pytest.raises(InputError, match="'steps' is a whole number"):
        load_bed("digits").with_options({"steps": 1.5})


def test_unknown_beds_and_metrics_name_the_known_ones() -> None:
    with pytest.raises(InputError, match=r"unknown bed 'digit': there are digits, ways"):
        load_bed("digit")
    with pytest.raises(InputError, match=r"unknown metric of the bed 'echo' 'accuracy': there are flat, entropy"):
        load_bed("echo").check_metric("accuracy")
    load_bed("echo").check_metric("train/grad_norm")
    assert set(names()) >= {"digits", "reduce"}


def test_every_bed_measures_what_it_says() -> None:
    for name in TABLES:
        bed = load_bed(name).with_options({"steps": 1})
        assert set(bed.metrics) <= set(bed.run("grpo", {}, 0))


def table_run(bed: Bed, name: str) -> TableRun:
    return TableRun(bed.task.world(0), bed.setting, bed.setting.fitted(methods.load(name).method()), 0)


def two_steps(bed: Bed, name: str) -> TableRun:
    run = table_run(bed, name)
    run.step()
    run.step()
    return run


@pytest.mark.parametrize("name", sorted(set(methods.names()) - set(SEARCHING)))
def test_every_method_runs_unchanged(name: str) -> None:
    bed = load_bed("ways").with_options({"prompts": 4, "group": 6, "votes": 8, "questions": 8})
    fresh = table_run(bed, name)
    collect: Any = fresh.record.collect
    if isinstance(collect.draw, DrawsByRule) and collect.draw.rule(fresh).mixes:
        with pytest.raises(InputError, match="a table world has none: use a language bed"):
            two_steps(bed, name)
        return
    run = two_steps(bed, name)
    assert bool(run.policy.table.isfinite().all())
    assert (run.sampled > 0 or isinstance(collect.draw, BringsRows)) and run.step_index == 2


def test_the_corpus_is_half_wrong_and_the_start_imitates_it() -> None:
    bed = load_bed("corpus")
    found = start("corpus")
    assert 0.3 < found["accuracy"] < 0.5 and 1 < found["length"] < 4, "smoothed: other digits are there, too"
    examples = bed.task.world(0).task.examples
    right = [e.meta["demonstration"][-1] == e.answer for e in examples]
    assert sum(right) == len(right) / 2 and len(examples) == 160
    rewards = {(r, len(e.meta["demonstration"])): e.meta["rewards"] for e, r in zip(examples, right, strict=True)}
    assert rewards[True, 1] == [pytest.approx(1.2)] and rewards[False, 4] == [0.0] and rewards[True, 4] == [1.0]
    assert bed.with_options({"wrong": 0.25}).task.world(0).table.isfinite().all()
