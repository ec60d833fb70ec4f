"""`A+B` merges ideas slot by slot, refuses two ideas for one slot, and runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from rekindle.api import train
from rekindle.errors import InputError
from rekindle.train.events import read_events
from rekindle.train.find import find_method, make_method
from rekindle.train.options import flatten
from rekindle.train.start import Asked, prepare

USEFUL = (
    "evol_rl+kl_cov",
    "evol_rl+clip_cov",
    "evol_rl+tis",
    "ttrl+entropy_adaptive",
    "grpo+echo_rl",
    "dapo+echo_rl",
    "dr_grpo+gppo",
    "rloo+bapo",
    "stratified_grpo+clip_cov",
    "maxrl+entropy_bonus",
    "srt+forking_tokens",
)


def options(name: str) -> dict[str, object]:
    return flatten(make_method(find_method(name)))


@pytest.mark.parametrize("name", USEFUL)
def test_useful_combinations_run(name: str, tmp_path: Path) -> None:
    small = {"checkpoint.every": 0, "rollout.prompts": 4, "rollout.group": 8, "rollout.votes": 16}
    folder = train(name, task="digit_sum", steps=3, out=tmp_path / "run", options=small)
    steps = [r for r in read_events(Path(folder) / "events.jsonl") if r["kind"] == "step"]
    assert len(steps) == 3 and all(r["grad_norm"] > 0 for r in steps)


@pytest.mark.parametrize("name", USEFUL)
def test_a_combination_keeps_the_first_and_takes_the_ideas_of_the_others(name: str) -> None:
    first, second = name.split("+")
    merged, ours, theirs = options(name), options(first), options(second)
    found = find_method(name)
    assert found.card is not None and found.card.parent == first
    for slot in find_method(second).essence:
        kinds = {v for p, v in theirs.items() if p == slot or (p.rpartition(".")[0] == slot and p[-1].isdigit())}
        assert kinds <= {v for p, v in merged.items() if p == slot or p.startswith(slot)}, slot
    owned = find_method(second).essence
    kept = {p: v for p, v in ours.items() if not any(p == s or p.startswith(f"{s}.") for s in owned)}
    assert all(merged[p] == v for p, v in kept.items())
    assert all(path in merged for path in found.card.sources)


def test_terms_add_up_and_their_sources_follow() -> None:
    merged = options("evol_rl+echo_rl")
    kinds = [merged[f"terms.{i}"] for i in range(3)]
    assert kinds == ["KLToReference", "EntropyBonus", "EchoNLL"]
    card = find_method("evol_rl+echo_rl").card
    assert card is not None and "entropy_sft_coef" in card.sources["terms.2.coef"]


@pytest.mark.parametrize("name", ["grpo+rl_zvp", "grpo+dr_grpo", "ttrl+evol_rl", "dapo+forking_tokens"])
def test_a_child_named_after_its_parent_is_no_clash(name: str) -> None:
    merged, child = options(name), options(name.split("+")[1])
    owned = find_method(name.split("+")[1]).essence
    assert all(
        merged[p] == v for p, v in child.items() if any(p.startswith(f"{s}.") for s in owned if "terms" not in s)
    )


def test_a_label_free_idea_brings_its_label() -> None:
    assert options("kl_cov+evol_rl")["collect.label"] == "MajorityVote"
    assert options("kl_cov+evol_rl")["objective"] == "KLCov"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("kl_cov+clip_cov", "'kl_cov' and 'clip_cov' both claim the slot 'objective'"),
        ("rloo+dr_grpo", "both claim the slot 'advantage'"),
        ("evol_rl+empo", "both claim the slot .collect.label."),
        ("rent+intuitor", "gives a score of its own"),
        ("dapo+evol_rl", "name its method first"),
        ("ppo_clip+intuitor", "name its method first"),
        ("reinforce_pp+rent", "name its method first"),
        ("rent+spo", "name only one of the two"),
        ("evol_rl+entropy_bonus", "both claim the slot 'terms'"),
        ("grpo+grpo", "twice"),
        ("grpo+no_such", "no_such"),
        ("grpo+", "method"),
    ],
)
def test_what_cannot_be_combined_is_refused_in_a_sentence(name: str, said: str) -> None:
    with pytest.raises(InputError, match=said.replace("+", r"\+")):
        make_method(find_method(name))


def test_a_positive_cure_in_a_label_free_run_is_warned_of() -> None:
    flags = {"task": "digit_sum"}
    noted = prepare(Asked("evol_rl+echo_rl", flags))[0].notes
    assert len(noted) == 1 and "unanimously wrong" in noted[0]
    assert not prepare(Asked("grpo+echo_rl", flags))[0].notes
    assert not prepare(Asked("evol_rl+kl_cov", flags))[0].notes


def test_a_label_is_exchanged_by_name_and_written_so_that_it_can_be_read_again() -> None:
    sets = ("collect.label=verified",)
    resolved, _ = prepare(Asked("evol_rl", {"task": "digit_sum"}, sets))
    assert resolved.options["collect.label"] == "Verified" and "collect.label.margin" not in resolved.options
    with pytest.raises(InputError, match="answered, majority_vote, verified"):
        prepare(Asked("evol_rl", {"task": "digit_sum"}, ("collect.label=gold",)))


@pytest.mark.parametrize(
    ("name", "sets", "said"),
    [
        ("rent+greso", (), "a success that is no correctness"),
        ("luffy+tis", (), "rows that nobody sampled"),
        ("evol_rl+maxrl", (), "scores below 0"),
        ("remax", ("collect.label=majority_vote",), "a vote"),
        ("remax", ("collect.label=answered",), "no correctness"),
        ("rent", ("collect.label=verified",), "a success by correctness"),
    ],
)
def test_parts_that_do_not_go_together_are_refused_before_loading(name: str, sets: tuple[str, ...], said: str) -> None:
    with pytest.raises(InputError, match=said):
        prepare(Asked(name, {"task": "digit_sum"}, sets))


@pytest.mark.parametrize("text", ["collect.prompts=once", "collect.pick=mixed_groups", "collect.draw=in_order"])
def test_a_part_of_another_slot_is_no_choice(text: str) -> None:
    with pytest.raises(InputError, match="takes no plain value"):
        prepare(Asked("grpo", {"task": "digit_sum"}, (text,)))
