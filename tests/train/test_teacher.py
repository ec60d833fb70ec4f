"""Runs that learn from a teacher: who can be one is told before anything is trained, and its memory is counted."""

from __future__ import annotations

import json
import shutil
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
import torch

from rekindle.api import train
from rekindle.errors import InputError
from rekindle.tokens.loader import load_model
from rekindle.train.build import make_run
from rekindle.train.footprint import footprint
from rekindle.train.plan import planned
from rekindle.train.start import Asked, prepare
from rekindle.train.teacher import foreign_ends
from tests.cli.folders import llama_folder, rekindle

OWN = Path(str(resources.files("rekindle"))) / "assets" / "digit_sum"
SMALL = {"rollout.prompts": 2, "rollout.group": 4, "rollout.max_tokens": 24, "evaluate.every": 0}
FLAGS = ["--task", "digit_sum", "--prompts", "2", "--group", "2", "--steps", "1"]


def ending_elsewhere(folder: Path) -> Path:
    """The packaged model as a teacher that ends its texts with another token."""
    shutil.copytree(OWN, folder)
    for name in ("config.json", "generation_config.json"):
        said = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps(said | {"eos_token_id": 5}))
    file = folder / "tokenizer_config.json"
    word = load_model(str(OWN)).tokenizer.convert_ids_to_tokens(5)
    file.write_text(json.dumps(json.loads(file.read_text()) | {"eos_token": word}))
    return folder


def first_step(out: Path) -> dict[str, Any]:
    """The record of a run's first step."""
    records = [json.loads(line) for line in (out / "events.jsonl").read_text().splitlines()]
    return next(record for record in records if record["kind"] == "step")


@pytest.mark.parametrize("estimator", ["k2", "exact"])
def test_the_models_own_copy_is_a_teacher_at_no_distance(estimator: str, tmp_path: Path) -> None:
    options = {
        **SMALL,
        "teacher": str(OWN),
        "terms.0.estimator": estimator,
        "prepare.0.beta": 1.0,
        "descent.minibatches": 1,
    }
    out = train("kdrl", task="digit_sum", steps=2, out=tmp_path / "run", options=options)
    found = first_step(out)
    assert abs(found["kl_teacher"]) < 1e-6 and found["pull"] == 1.0 and found["signal"] == 1.0
    assert found.get("teacher_far", 0.0) == 0.0


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["kdrl"], "method 'kdrl' learns from a teacher: add --teacher FOLDER"),
        (["grpo", "--teacher", str(OWN)], "method 'grpo' asks no teacher, and teacher="),
    ],
)
def test_a_teacher_that_is_missing_or_unused_is_told(
    flags: list[str], sentence: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for more in ([], ["--dry-run", "--no-probe"]):
        ended = rekindle(capsys, "train", *flags, *FLAGS, "--out", tmp_path / "run", *more)
        assert ended.code == 2 and sentence in ended.err and not (tmp_path / "run").exists()


def test_a_teacher_of_another_vocabulary_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    other = llama_folder(tmp_path / "other")
    ended = rekindle(capsys, "train", "kdrl", "--teacher", other, *FLAGS, "--out", tmp_path / "run")
    assert ended.code == 2 and "has another tokenizer than the model" in ended.err and "same family" in ended.err


def test_an_end_of_the_models_own_is_left_out_of_the_teachers_term(tmp_path: Path) -> None:
    teacher = ending_elsewhere(tmp_path / "teacher")
    flags = {"task": "digit_sum", "teacher": str(teacher), **SMALL}
    run = make_run(*prepare(Asked("kdrl", flags)))
    own = load_model(str(OWN))
    assert run.foreign_ends == foreign_ends(own, load_model(str(teacher))) == (own.tokenizer.eos_token_id,)
    assert foreign_ends(own, own) == foreign_ends(own, None) == ()
    batch = run.record.credit(run.record.collect(run))
    ends = (batch.action == own.tokenizer.eos_token_id) & batch.live
    assert ends.any() and torch.equal(batch.column("pull") > 0, batch.live & ~ends)
    assert torch.equal(batch.column("pull_over"), batch.live & ~ends)


def test_a_plan_counts_the_teacher_by_its_own_size(tmp_path: Path) -> None:
    teacher = llama_folder(tmp_path / "large", hidden_size=64, intermediate_size=256)
    flags = {"task": "digit_sum", "teacher": str(teacher), **SMALL}
    plan = planned(*prepare(Asked("kdrl", flags)))
    size = footprint(str(teacher)).parameters
    assert plan.setup.teacher == size != plan.model.parameters and plan.memory.held["teacher"] == 4 * size
    adapted = planned(*prepare(Asked("kdrl", {**flags, "lora.rank": 2})))
    assert adapted.memory.held["teacher"] == 4 * size and "reference" not in adapted.memory.held
    assert "teacher" not in planned(*prepare(Asked("grpo", {"task": "digit_sum", **SMALL}))).memory.held


def test_a_teacher_with_a_shorter_context_is_refused(tmp_path: Path) -> None:
    shutil.copytree(OWN, tmp_path / "short")
    file = tmp_path / "short" / "config.json"
    said = json.loads(file.read_text()) | {"max_position_embeddings": 8}
    file.write_text(json.dumps(said))
    with pytest.raises(InputError, match="has a context of 8 tokens"):
        make_run(*prepare(Asked("kdrl", {"task": "digit_sum", "teacher": str(tmp_path / "short"), **SMALL})))
