from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any, ClassVar, Literal

import pytest

from rekindle.errors import InputError
from rekindle.train.config import Resolved, early_source, resolve
from rekindle.train.plan import compare_for_resume, derived, plan, refuse_changes
from rekindle.train.runfile import from_toml, parse, read, to_toml
from rekindle.train.settings import RunConfig, samples_per_prompt


@dataclass(frozen=True)
class Vote:
    votes: ClassVar[bool] = True


@dataclass(frozen=True)
class Check:
    votes: ClassVar[bool] = False


@dataclass(frozen=True)
class Gather:
    label: Any = field(default_factory=Vote)
    shape: tuple[Any, ...] = ()


@dataclass(frozen=True)
class GroupMean:
    eps: float = 1e-6
    needs_group: ClassVar[bool] = True


@dataclass(frozen=True)
class Plain:
    needs_group: ClassVar[bool] = False


@dataclass(frozen=True)
class Bounds:
    low: float = 0.8
    high: float = 1.2
    dual: float | None = 3.0
    mode: Literal["all", "none"] = "none"


@dataclass(frozen=True)
class Pull:
    coef: float = 0.001
    needs: ClassVar[tuple[Any, ...]] = (SimpleNamespace(passes=("reference",)),)


@dataclass(frozen=True)
class Fit:
    lr: float = 1e-6
    epochs: int = 1
    minibatches: int = 4
    cut_groups: bool = False


@dataclass(frozen=True)
class Recipe:
    collect: Gather = field(default_factory=Gather)
    advantage: Any = field(default_factory=GroupMean)
    objective: Bounds = field(default_factory=Bounds)
    terms: tuple[Any, ...] = (Pull(),)
    descent: Fit = field(default_factory=Fit)


PROFILE = {"descent.lr": 1e-4, "rollout.votes": 64, "steps": 80}


def run(*sets: str, record: Any = None, **layers: Any) -> Resolved:
    return resolve("toy", record or Recipe(), sets=sets, **layers)


def test_each_layer_beats_the_one_before_and_the_origin_says_which() -> None:
    toml = {"steps": 20, "rollout": {"group": 16}, "objective": {"high": 1.3}}
    got = run("objective.low=0.7", profile=PROFILE, toml=toml, flags={"steps": 5})
    expected = {
        "steps": (5, "flag"),
        "rollout.group": (16, "run.toml"),
        "rollout.votes": (64, "profile"),
        "rollout.prompts": (8, "default"),
        "descent.lr": (1e-4, "profile"),
        "descent.epochs": (1, "method"),
        "objective.high": (1.3, "run.toml"),
        "objective.low": (0.7, "--set"),
    }
    assert {path: (got.options[path], got.origin[path]) for path in expected} == expected
    assert got.origin.keys() == got.options.keys()


def test_the_layers_do_not_touch_what_they_do_not_name() -> None:
    bare = run()
    assert bare.record == Recipe()
    assert bare.config == RunConfig(method="toy")
    assert set(bare.origin.values()) == {"default", "method"}


@pytest.mark.parametrize("path", ["objective", "objective.high"])
def test_a_profile_never_touches_the_idea_of_a_method(path: str) -> None:
    spared = run(profile={path: 1.4}, essence=("objective",))
    assert spared.options == run().options and spared.origin == run().origin
    assert [path in note and "left alone" in note for note in spared.notes] == [True]
    assert run(profile={"objective.high": 1.4}, essence=("collect.label", "obj")).options["objective.high"] == 1.4


@pytest.mark.parametrize(
    ("toml", "sets", "message"),
    [
        ({"stepz": 3}, (), "did you mean 'steps'"),
        ({"rollout": {"grop": 3}}, (), "did you mean 'rollout.group'"),
        ({"optimiser": {"lr": 3}}, (), "valid: descent.lr"),
        ({}, ("objective.hi=1.3",), "did you mean 'objective.high'"),
        ({}, ("terms.1.coef=1",), "terms.0.coef"),
        ({}, ("rollout=3",), "unknown option 'rollout'"),
    ],
)
def test_unknown_keys_are_refused_with_the_nearest(
    toml: Mapping[str, Any], sets: tuple[str, ...], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        run(*sets, toml=toml)


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        (("steps=0",), "option 'steps' must be greater than or equal to 1, not 0"),
        (("rollout.prompts=0",), "rollout.prompts"),
        (("rollout.temperature=0",), "greater than 0"),
        (("rollout.group=true",), "a whole number"),
        (("dtype=float16",), "one of 'float32', 'bfloat16', 'float64'"),
        (("rollout.votes=16",), "rollout.votes is 16, fewer than the 32"),
        (("rollout.group=1",), "GroupMean compares .* set rollout.group=2"),
        (("rollout.top_p=0.9",), r"truncated sampling needs its correction.*set rollout\.top_p=1"),
        (("rollout.top_k=20",), r"set rollout\.top_k=0"),
        (("data=x.jsonl", "task=reduce"), "both given: drop one"),
        (("task=none",), "give --task NAME or --data FILE"),
        (("steps=3", "steps=4"), "'steps' is given twice"),
    ],
)
def test_contradictions_are_one_sentence_with_the_remedy(sets: tuple[str, ...], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        run(*sets)
    assert "\n" not in str(caught.value)


def test_a_flag_and_a_set_that_disagree_are_refused() -> None:
    with pytest.raises(InputError, match="'steps' is given twice"):
        run("steps=3", flags={"steps": 4})
    assert run("steps=4", flags={"steps": 4}).config.steps == 4


def test_a_method_that_compares_no_group_may_sample_one() -> None:
    assert run("rollout.group=1", record=Recipe(advantage=Plain())).config.rollout.group == 1


def test_data_takes_the_place_of_the_default_task() -> None:
    assert run("data=x.jsonl").config.task is None
    assert run("data=x.jsonl", toml={"task": "none"}).config.data == "x.jsonl"
    assert run().config.task == "reduce"


OLD = {"task": "reduce", "data": "none"}
FILE = {"task": "none", "data": "old.jsonl", "data_heldout": "h.jsonl"}


@pytest.mark.parametrize(
    ("toml", "flags", "sets", "source"),
    [
        (OLD, {"data": "x.jsonl"}, (), (None, "x.jsonl", None)),
        (OLD, {}, ("data=x.jsonl",), (None, "x.jsonl", None)),
        ({"task": "reduce"}, {"data": "x.jsonl", "data_heldout": "y.jsonl"}, (), (None, "x.jsonl", "y.jsonl")),
        (FILE, {"data": "x.jsonl"}, (), (None, "x.jsonl", "h.jsonl")),
        (FILE, {"task": "digit_sum"}, (), ("digit_sum", None, None)),
        (FILE, {}, ("task=digit_sum",), ("digit_sum", None, None)),
        ({"task": "reduce", "data": "x.jsonl"}, {"data": "none"}, (), ("reduce", None, None)),
        ({"data": "x.jsonl"}, {}, (), (None, "x.jsonl", None)),
        ({}, {}, (), ("reduce", None, None)),
    ],
)
def test_the_source_of_the_higher_layer_wins(
    toml: dict[str, Any], flags: dict[str, Any], sets: tuple[str, ...], source: tuple[str | None, ...]
) -> None:
    config = run(*sets, toml=toml, flags=flags).config
    assert (config.task, config.data, config.data_heldout) == source
    assert early_source(toml, sets, flags) == source[:2], "the task that is loaded is the one that is resolved"


@pytest.mark.parametrize(
    ("toml", "flags", "sets", "message"),
    [
        ({"task": "reduce", "data": "x.jsonl"}, {}, (), "both given: drop one"),
        ({}, {"task": "reduce"}, ("data=x.jsonl",), "both given: drop one"),
        ({}, {"task": "reduce", "data_ood": "y.jsonl"}, (), r"'y\.jsonl' is given to evaluate on, but the run trains"),
        ({}, {}, ("data_heldout=y.jsonl",), "give --data FILE or drop it"),
    ],
)
def test_two_sources_of_one_layer_and_files_without_data_are_refused(
    toml: dict[str, Any], flags: dict[str, Any], sets: tuple[str, ...], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        run(*sets, toml=toml, flags=flags)


def test_evaluation_files_and_the_system_prompt_are_options_like_any_other() -> None:
    old = run("data=x.jsonl").options
    new = run("data=x.jsonl", "data_heldout=h.jsonl", "data_ood=o.jsonl", "system_prompt=be brief").options
    assert compare_for_resume(old, new) == ["data_heldout", "data_ood", "system_prompt"]
    for value, own in (("task", "own"), ("none", None), ("be brief\n", "be brief\n")):
        made = run(flags={"system_prompt": value})
        again = resolve("toy", Recipe(), toml=tomllib.loads(to_toml(made)))
        assert made.config.system("own") == again.config.system("own") == own
    assert run().config.system("own") == "own" and run().config.system(None) is None


def test_votes_count_only_where_the_method_votes_or_sampling_is_to_be_equal() -> None:
    verified = Recipe(collect=Gather(label=Check()))
    rollout = run("rollout.votes=64").config.rollout
    assert samples_per_prompt(Recipe(), rollout) == 64
    assert samples_per_prompt(verified, rollout) == 32
    assert samples_per_prompt(verified, replace(rollout, equal_samples=True)) == 64
    assert samples_per_prompt(Recipe(), run().config.rollout) == 32
    assert run("rollout.votes=16", record=verified).config.rollout.votes == 16, "no vote, so no contradiction"


def test_trl_names_are_read_and_said() -> None:
    got = run("num_generations=16", "epsilon=0.1", "epsilon_high=0.28", "beta=0.04", "learning_rate=1e-5")
    named = ("rollout.group", "objective.low", "objective.high", "terms.0.coef", "descent.lr")
    assert [got.options[path] for path in named] == [16, 0.9, 1.28, 0.04, 1e-5]
    assert got.notes[:2] == ("num_generations: read as rollout.group=16", "epsilon: read as objective.low=0.9")
    assert {got.origin[path] for path in named} == {"--set"}
    both = run("epsilon=0.3")
    assert (both.options["objective.low"], both.options["objective.high"]) == (0.7, 1.3)
    assert run("max_completion_length=7", "temperature=0.5").config.rollout.max_tokens == 7


def test_trl_names_that_cannot_be_meant_are_refused() -> None:
    without = Recipe(terms=())
    assert run("beta=0", record=without).record == without
    with pytest.raises(InputError, match="'beta' is the coefficient of one KL term"):
        run("beta=0.1", record=without)
    with pytest.raises(InputError, match=r"'rollout\.group' is given twice, once as 'num_generations'"):
        run("num_generations=16", "rollout.group=8")
    with pytest.raises(InputError, match="'epsilon' is a number"):
        run("epsilon=wide")


def test_run_toml_gives_the_same_run_whatever_the_defaults_become() -> None:
    first = run(
        "rollout.stop=['a\"b', '\\n']", "terms.0.coef=0.5", "objective.dual=none", profile=PROFILE, flags={"out": "o"}
    )
    text = to_toml(first)
    again = resolve("toy", Recipe(), toml=tomllib.loads(text), profile={"descent.lr": 9.0, "steps": 7})
    assert again.options == first.options
    assert again.record_hash == first.record_hash
    assert to_toml(again).split("[run]")[0] == text.split("[run]")[0]
    saved = from_toml(text)
    assert saved.options == first.options
    assert (saved.options["objective.mode"], saved.options["objective.dual"]) == ("none", None)
    assert (saved.method, saved.record_hash) == ("toy", first.record_hash)
    assert saved.versions.keys() == {"rekindle", "torch", "transformers"}


def test_a_run_toml_of_another_method_is_refused() -> None:
    with pytest.raises(InputError, match="of the method 'toy', not of 'other'"):
        resolve("other", Recipe(), toml=tomllib.loads(to_toml(run())))


def test_broken_files_are_named(tmp_path: Any) -> None:
    with pytest.raises(InputError, match=r"my\.toml is no valid TOML: .*line 2"):
        parse("a = 1\nb = = 2", "my.toml")
    with pytest.raises(InputError, match="records no run"):
        from_toml("steps = 3")
    with pytest.raises(InputError, match=r"the configuration .* cannot be read"):
        read(tmp_path / "none.toml")


def test_the_plan_derives_what_a_step_amounts_to() -> None:
    got = run("rollout.votes=64", "descent.epochs=2", "rollout.max_tokens=10", "steps=5")
    assert derived(got) == {
        "steps": 5,
        "samples a step": 8 * 64,
        "trained rows a step": 8 * 32,
        "response tokens a step, at most": 8 * 64 * 10,
        "samples in all": 8 * 64 * 5,
        "updates a step": 8,
        "updates in all": 40,
    }
    few = run("rollout.prompts=3", "descent.minibatches=8")
    assert derived(few)["updates a step"] == 3, "a minibatch holds at least one prompt"
    assert derived(run("rollout.prompts=3", "descent.minibatches=8", "descent.cut_groups=true"))["updates a step"] == 8
    rows = {row.name: (row.value, row.origin) for row in plan(got)}
    assert rows["descent.epochs"] == (2, "--set")
    assert rows["samples a step"] == (512, "derived")
    assert rows.keys() >= got.options.keys()


def test_resume_refuses_changed_options_by_name() -> None:
    old = from_toml(to_toml(run(profile=PROFILE, flags={"out": "a"}))).options
    same = run(profile=PROFILE, flags={"out": "b"}, toml={"track": {"sinks": ["wandb"]}}).options
    assert compare_for_resume(old, same) == []
    refuse_changes(old, same)
    other = run("terms.0.coef=0.5", "seed=1", profile=PROFILE, record=Recipe(collect=Gather(label=Check()))).options
    assert compare_for_resume(old, other) == ["collect.label", "seed", "terms.0.coef"]
    with pytest.raises(InputError, match=r"seed \(0 -> 1\), terms.0.coef \(0.001 -> 0.5\)"):
        refuse_changes(old, other)
    older = {name: value for name, value in old.items() if name not in ("precision", "vllm.seats")}
    assert compare_for_resume(older, same) == []  # a version that did not have these yet
    faster = run("precision=bf16", profile=PROFILE).options
    assert compare_for_resume(older, faster) == ["precision"]
    shorter = run(profile=PROFILE, record=Recipe(terms=())).options
    assert compare_for_resume(old, shorter) == ["terms", "terms.0", "terms.0.coef"]


def test_the_configuration_refuses_unknown_and_wrong_values_in_python_too() -> None:
    with pytest.raises(ValueError, match="stepz"):
        RunConfig(method="toy", stepz=3)  # pyright: ignore[reportCallIssue]
    with pytest.raises(ValueError, match="steps"):
        RunConfig(method="toy", steps=0)
