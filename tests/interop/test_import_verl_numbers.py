"""What `import-config --from verl` makes of precision, lists and variables, and what it says of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from rekindle.errors import InputError
from rekindle.interop.explain.written import Imported, imported

ACTOR, REF = "actor_rollout_ref.actor", "actor_rollout_ref.ref"
PRECISION = "fsdp_config.mixed_precision"
CORRECTION = "algorithm.rollout_correction"


def verl(folder: Path, *told: str) -> Imported:
    (folder / "run.sh").write_text("\n".join(("main_ppo \\", "algorithm.adv_estimator=grpo \\", *told, "")))
    return imported(str(folder / "run.sh"), "verl")


def told(found: Imported, start: str, *words: str) -> bool:
    """Whether a note begins with `start` and has all the words."""
    return any(note.startswith(start) and all(word in note for word in words) for note in found.notes)


@pytest.mark.parametrize(("said", "ours"), [("fp32", "full"), ("32", "full"), ("bf16", "bf16"), ("bfloat16", "bf16")])
def test_precision_is_what_the_engine_computes_in(tmp_path: Path, said: str, ours: str) -> None:
    found = verl(tmp_path, f"+{ACTOR}.{PRECISION}.param_dtype={said}", f"+{REF}.{PRECISION}.param_dtype={said}")
    assert found.resolved.config.precision == ours
    assert not told(found, "left at our default: precision") and not told(found, "not understood")


def test_a_precision_that_is_not_said_is_noted(tmp_path: Path) -> None:
    found = verl(tmp_path)
    assert found.resolved.config.precision == "full"
    assert told(found, "left at our default: precision", "full here", "bf16")


@pytest.mark.parametrize(
    "word",
    [
        f"{ACTOR}.fsdp_config.dtype=float32",
        f"+{ACTOR}.{PRECISION}.param_dtype=fp16",
        f"+{ACTOR}.{PRECISION}.reduce_dtype=bf16",
        f"+{REF}.{PRECISION}.param_dtype=fp32",
    ],
)
def test_a_dtype_that_is_not_ours_is_refused_with_its_line(tmp_path: Path, word: str) -> None:
    found = verl(tmp_path, word)
    assert found.resolved.config.precision == "full"
    assert told(found, f"not understood: {word.lstrip('+')}, line 3")


def test_a_variable_of_the_shell_is_noted_and_the_rest_is_read(tmp_path: Path) -> None:
    words = ("data.train_files=$HOME/train.parquet", f"{ACTOR}.optim.lr=3e-6", "data.val_files=one.parquet")
    found = verl(tmp_path, *words, "data.val_files=$VAL")
    assert told(found, "not understood: data.train_files=$HOME/train.parquet, line 3", "write its value")
    assert told(found, "not understood: data.val_files=$VAL, line 6")
    assert found.resolved.record.descent.lr == 3e-6
    assert found.resolved.config.data is None and found.resolved.config.data_heldout is None, "the last word counts"


def test_several_files_are_noted(tmp_path: Path) -> None:
    found = verl(tmp_path, "'data.train_files=[a.parquet,b.parquet]'")
    assert found.resolved.config.data == "a.parquet" and told(found, "not understood: data.train_files", "first")
    assert not told(verl(tmp_path, "'data.train_files=[a.parquet]'"), "not understood")


def test_a_refused_name_is_listed_once(tmp_path: Path) -> None:
    notes = verl(tmp_path, f"{ACTOR}.clip_ratio=0.3").notes
    assert sum("clip_ratio=" in note for note in notes) == 1


def test_a_band_of_thresholds_masks(tmp_path: Path) -> None:
    level = f"{CORRECTION}.rollout_is=token"
    plain = verl(tmp_path, level, f"{CORRECTION}.rollout_is_threshold=3").resolved.record.aggregate
    band = verl(tmp_path, level, f"'{CORRECTION}.rollout_is_threshold=\"0_3\"'").resolved.record.aggregate
    assert (plain.cap, plain.mask, band.cap, band.mask) == (3.0, False, 3.0, True)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((f"'{ACTOR}.optim.betas=[0.9]'",), "line 3: actor_rollout_ref.actor.optim.betas is a list of 2 numbers"),
        ((f"{ACTOR}.optim.betas=0.9",), "line 3: actor_rollout_ref.actor.optim.betas is a list of 2 numbers"),
        ((f"'{ACTOR}.optim.betas=[0.9,x]'",), "a list of 2 numbers"),
        (("'data.train_files=[]'",), "line 3: data.train_files is a path, or a list of one"),
        (
            (f"{CORRECTION}.rollout_is=token", f"{CORRECTION}.rollout_is_threshold=abc"),
            "line 4: algorithm.rollout_corr",
        ),
        ((f"{CORRECTION}.rollout_is=token", f"{CORRECTION}.rollout_is_threshold=1_b"), "two with _ between"),
        (
            ("actor_rollout_ref.rollout.temperature=0",),
            "line 3: actor_rollout_ref.rollout.temperature is a number above",
        ),
        (("actor_rollout_ref.rollout.n=2.5",), "line 3: actor_rollout_ref.rollout.n is a whole number from 1 up"),
    ],
)
def test_a_bad_value_is_named_with_file_line_and_remedy(tmp_path: Path, words: tuple[str, ...], message: str) -> None:
    with pytest.raises(InputError) as caught:
        verl(tmp_path, *words)
    said = str(caught.value)
    assert message in said and said.startswith(str(tmp_path / "run.sh")) and said.endswith("correct it")
