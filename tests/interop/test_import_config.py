from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from rekindle import methods
from rekindle.cli.common import run_safely
from rekindle.cli.explain import resolved_of
from rekindle.cli.main import app
from rekindle.core.aggregate import FixedLength, SamplerWeighted, SequenceMean
from rekindle.core.schedules import Cosine, Warmup
from rekindle.interop.explain.answer import Answer, explain
from rekindle.interop.explain.text import text
from rekindle.interop.explain.written import Imported, imported
from rekindle.train.options import diff, flatten, override
from rekindle.train.runfile import read as read_toml
from rekindle.train.start import Asked, prepare
from tests.interop.records import resolved

BASE = "loss_type: dapo\nlr_scheduler_type: constant\n"


def yaml_of(tmp_path: Path, lines: str, name: str = "x.yaml") -> str:
    path = tmp_path / name
    path.write_text(lines)
    return str(path)


def trl(tmp_path: Path, lines: str) -> Imported:
    return imported(yaml_of(tmp_path, BASE + lines), "trl")


def verl(tmp_path: Path, *told: str) -> Imported:
    lines = ["python3 -m verl.trainer.main_ppo \\", "algorithm.adv_estimator=grpo \\", *(f"  {one} \\" for one in told)]
    return imported(yaml_of(tmp_path, "\n".join(lines) + "\n", "run.sh"), "verl")


def expected(answer: Answer, record: Any) -> Any:
    """The record with the numbers that the other trainer fixes."""
    for fixed in answer.said.fixed:
        if fixed.path in flatten(record):
            record = override(record, fixed.path, fixed.theirs)
    return record


COMPLETE = {rival: [n for n in methods.names() if explain(resolved(n), rival).complete] for rival in ("trl", "verl")}
VARIANTS = [
    ("grpo", "advantage.eps=1e-4", "descent.minibatches=1"),
    ("grpo", "objective.dual=none", "objective.low=0.7", "descent.epochs=3", "descent.lr=3e-5"),
    ("grpo", "aggregate=sequence_mean", "descent.grad_clip=0.5", "descent.weight_decay=0.1"),
    ("ttrl", "collect.label=verified", "descent.lr.then.end=1e-8"),
    ("ttrl_entropy", "collect.label=verified", "objective.dual=none", "descent.beta2=0.95"),
    ("entropy_bonus", "objective.level=sequence", "aggregate=sequence_mean", "rollout.group=4"),
    ("dr_grpo", "rollout.prompts=12", "descent.minibatches=6", "descent.cut_groups=true"),
    ("tis", "aggregate.level=sequence", "aggregate.mask=true", "aggregate.cap=3.0"),
    ("cispo+entropy_bonus",),
]


@pytest.mark.parametrize("told", [(name,) for name in COMPLETE["trl"]] + VARIANTS, ids=lambda told: told[0])
def test_there_and_back_by_trl(told: tuple[str, ...], tmp_path: Path) -> None:
    run = resolved(told[0], *told[1:])
    answer = explain(run, "trl")
    assert answer.complete
    path = tmp_path / "x.json"
    path.write_text(json.dumps({**answer.flags, "reward_funcs": [name for name, _ in answer.said.rewards]}))
    found = imported(str(path), "trl")
    assert diff(expected(answer, run.record), found.resolved.record) == []
    ours, theirs = run.config.rollout, found.resolved.config.rollout
    assert (ours.group, ours.prompts, ours.max_tokens) == (theirs.group, theirs.prompts, theirs.max_tokens)
    assert found.resolved.config.steps == run.config.steps and not any("not understood" in n for n in found.notes)


@pytest.mark.parametrize("told", [(name,) for name in COMPLETE["verl"]] + VARIANTS, ids=lambda told: told[0])
def test_there_and_back_by_verl(told: tuple[str, ...], tmp_path: Path) -> None:
    run = resolved(told[0], *told[1:])
    answer = explain(run, "verl")
    assert answer.complete or {lack.path for lack in answer.said.lacking} <= {"objective.dual", "terms.0.aggregate"}
    if not answer.complete:
        return
    path = tmp_path / "run.sh"
    path.write_text(text(answer).partition("# flags")[2].partition("# without")[0])
    found = imported(str(path), "verl")
    assert diff(expected(answer, run.record), found.resolved.record) == []
    assert found.resolved.config.rollout.group == run.config.rollout.group
    assert found.resolved.config.steps == run.config.steps and not any("not understood" in n for n in found.notes)


def test_enough_methods_go_there_and_back() -> None:
    assert {"grpo", "dr_grpo", "gspo", "cispo", "sapo", "tis", "entropy_bonus"} <= set(COMPLETE["trl"])
    assert {"grpo", "dapo", "rloo", "kl_cov", "clip_cov", "opo", "remax", "reinforce_pp"} <= set(COMPLETE["verl"])


def test_values_are_converted_exactly(tmp_path: Path) -> None:
    record = trl(
        tmp_path, "epsilon: 0.2\nepsilon_high: 0.28\ndelta: 4\nlearning_rate: 1e-6\nmax_grad_norm: 0.2\n"
    ).resolved.record
    assert (record.objective.low, record.objective.high, record.objective.dual) == (0.8, 1.28, 4.0)
    assert record.descent.lr == 1e-6, "YAML takes 1e-6 for a text"
    assert record.advantage.eps == 1e-4 and record.descent.grad_clip == 0.2
    assert trl(tmp_path, "epsilon: 0.3\n").resolved.record.objective.high == 1.3, "epsilon_high is epsilon unless said"


def test_sizes_of_trl_count_completions_and_updates(tmp_path: Path) -> None:
    sizes = (
        "per_device_train_batch_size: 4\ngradient_accumulation_steps: 6\nsteps_per_generation: 12\nnum_generations: 8\n"
    )
    found = trl(tmp_path, sizes + "num_iterations: 3\nmax_steps: 60\n")
    descent, config = found.resolved.record.descent, found.resolved.config
    assert (descent.minibatches, descent.micro_batch, descent.epochs, descent.cut_groups) == (2, 4, 3, True)
    assert (config.rollout.prompts, config.rollout.group, config.steps) == (6, 8, 10)
    assert any("counts completions" in note for note in found.notes)


@pytest.mark.parametrize(
    ("lines", "method", "check"),
    [
        ("scale_rewards: none\nloss_type: dr_grpo\n", "dr_grpo", lambda r: r.aggregate == FixedLength()),
        ("importance_sampling_level: sequence\nloss_type: grpo\n", None, lambda r: r.aggregate == SequenceMean()),
        ("beta: 0.04\n", "ttrl", lambda r: r.terms[0].coef == 0.04 and type(r.collect.label).__name__ == "Verified"),
        ("entropy_coef: 0.01\nbeta: 0.1\n", "ttrl_entropy", lambda r: [t.coef for t in r.terms] == [0.1, 0.01]),
        ("top_entropy_quantile: 0.3\n", None, lambda r: r.keep[0].share == 0.3),
        ("use_adaptive_entropy: true\nentropy_target: 0.5\n", "entropy_adaptive", lambda r: r.after[0].target == 0.5),
        ("use_vllm: true\n", None, lambda r: r.aggregate == SamplerWeighted(level="sequence", cap=3.0, mask=True)),
        (
            "lr_scheduler_type: cosine\nwarmup_ratio: 0.1\nbeta: 0.1\n",
            "ttrl",
            lambda r: r.descent.lr == Warmup(0.1, Cosine(1e-6, 0.0)),
        ),
    ],
)
def test_what_a_field_of_trl_becomes(tmp_path: Path, lines: str, method: str | None, check: Any) -> None:
    known = "".join(line for line in BASE.splitlines(True) if line.partition(":")[0] not in lines)
    found = imported(yaml_of(tmp_path, known + lines), "trl")
    assert check(found.resolved.record), found.text
    assert method in (None, found.method)


def test_what_is_not_understood_is_said_with_its_line(tmp_path: Path) -> None:
    found = trl(tmp_path, "mask_truncated_completions: true\nlogging_steps: 5\nscale_rewards: batch\n")
    told = [note for note in found.notes if note.startswith("not understood")]
    assert any("mask_truncated_completions=True, line 3" in note for note in told)
    assert any("logging_steps=5, line 4" in note for note in told) and any(
        "scale_rewards=batch" in note for note in told
    )
    lines = found.text.splitlines()
    assert all(line.startswith("#") for line in lines[: len(found.notes)]) and tomllib.loads(found.text)


def test_what_stays_ours_is_said(tmp_path: Path) -> None:
    left = [n for n in imported(yaml_of(tmp_path, "epsilon: 0.2\n"), "trl").notes if n.startswith("left")]
    for name in ("weight_decay: 0.01 here; TRL's default is 0.0", "bf16=True", "linear, to 0", "one prompt"):
        assert any(name in note for note in left), name


def test_a_shape_that_no_method_has_is_left_out_and_said(tmp_path: Path) -> None:
    found = imported(yaml_of(tmp_path, "lr_scheduler_type: linear\nlearning_rate: 2e-6\n"), "trl")
    assert found.resolved.record.descent.lr == 2e-6
    assert any("left out: lr_scheduler_type=linear" in note for note in found.notes)


def test_verls_tree_and_its_overrides_say_the_same(tmp_path: Path) -> None:
    tree = "algorithm:\n  adv_estimator: rloo\nactor_rollout_ref:\n  actor:\n"
    tree += "    clip_ratio_high: 0.28\n    ppo_epochs: 2\n"
    a = imported(yaml_of(tmp_path, tree), "verl")
    told = (
        "algorithm.adv_estimator=rloo",
        "actor_rollout_ref.actor.clip_ratio_high=0.28",
        "actor_rollout_ref.actor.ppo_epochs=2",
    )
    b = verl(tmp_path, *told)
    assert diff(a.resolved.record, b.resolved.record) == []
    assert (a.method, a.resolved.record.objective.high, a.resolved.record.descent.epochs) == ("rloo", 1.28, 2)


def test_verls_sizes_count_prompts(tmp_path: Path) -> None:
    found = verl(tmp_path, "data.train_batch_size=64", "actor_rollout_ref.actor.ppo_mini_batch_size=16")
    assert found.resolved.record.descent.minibatches == 4 and found.resolved.config.rollout.prompts == 64
    noted = verl(tmp_path, "actor_rollout_ref.actor.clip_ratio=0.3", "trainer.logger=console")
    assert any("clip_ratio=0.3" in note for note in noted.notes) and any(
        "trainer.logger" in note for note in noted.notes
    )


def refused(path: str, rival: str, capsys: pytest.CaptureFixture[str]) -> str:
    assert run_safely(app, ["import-config", path, "--from", rival, "--out", f"{path}.toml"]) == 2
    assert not Path(f"{path}.toml").exists()
    said = capsys.readouterr()
    assert said.out == "" and said.err.count("\n") == 1 and "Traceback" not in said.err
    return said.err


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.yaml", "beta: [1, 2\nx: }", "line 2 is no valid YAML"),
        ("a.yaml", "beta: 0.1\nepsilon: wide\n", "line 2: epsilon is a number, not 'wide'"),
        ("a.yaml", "beta: 0.1\nbeta: 0.2\n", "line 2: beta stands in line 1, too"),
        ("a.yaml", "- a\n- b\n", "line 1: names with values are wanted"),
        ("a.yaml", "", "says nothing"),
        ("a.yaml", "max_steps: 2.5\n", "line 1: max_steps is a whole number"),
        ("a.yaml", "use_vllm: maybe\n", "line 1: use_vllm is true or false"),
        ("a.yaml", "epsilon: 3.0\n", "the lower clip bound is a ratio"),
        (
            "a.yaml",
            "num_generations: 5\nper_device_train_batch_size: 8\n",
            "line 2: per_device_train_batch_size is no fit",
        ),
        ("a.json", '{"beta": 0.1,\n}', "line 2 is no valid JSON"),
        ("a.json", "[1]", "names with values"),
        ("a.json", '{"beta": 0.1, "beta": 0.2}', "a.json: beta stands twice in an object: drop one"),
        ("a.yaml", "beta: 0.1\nx: &x\n  y: *x\n", "cannot be read as YAML (RecursionError)"),
        ("a.yaml", "!!python/object/apply:os.system ['true']\n", "no valid YAML"),
    ],
)
def test_a_bad_file_is_one_sentence(
    tmp_path: Path, name: str, content: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = yaml_of(tmp_path, content, name)
    said = refused(path, "trl", capsys)
    assert message in said and name in said


def test_a_bad_script_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "line 2" in refused(yaml_of(tmp_path, "main_ppo \\\n a.b='x\n", "r.sh"), "verl", capsys)
    assert "says nothing" in refused(yaml_of(tmp_path, "data.train_files=$HOME/x\n", "r.sh"), "verl", capsys)
    assert "no such file" in refused(str(tmp_path / "none.yaml"), "trl", capsys).lower()
    assert "'openrlhf'" in refused(yaml_of(tmp_path, "a: 1\n"), "openrlhf", capsys)


def test_the_command_writes_what_train_takes(tmp_path: Path) -> None:
    given = yaml_of(tmp_path, BASE + "beta: 0.04\nnum_generations: 4\nseed: 7\n")
    out = tmp_path / "run.toml"
    done = CliRunner().invoke(app, ["import-config", given, "--from", "trl", "--out", str(out)], catch_exceptions=False)
    assert done.exit_code == 0 and "rekindle train ttrl --config" in done.stdout
    run = resolved_of(str(out), [])
    assert run.config.rollout.group == 4 and run.config.seed == 7 and run.record.terms[0].coef == 0.04
    again = run_safely(app, ["import-config", given, "--from", "trl", "--out", str(out)])
    assert again == 2, "nothing is written over"
    _, task = prepare(Asked("ttrl", {}, (), read_toml(out)))
    assert task.profile, "as train does it, with the task's own numbers below"
