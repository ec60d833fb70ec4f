"""The memory study: the stored measurements are near the plan's numbers, and the plan still says these numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.speed.models import SIZES, make_prompts, make_tokenizer
from rekindle.train.plan import planned
from rekindle.train.start import Asked, prepare
from scripts.memory_study import PROMPTS, REWARD, ROWS, STORED, asked

STUDY = json.loads(STORED.read_text(encoding="utf-8"))
TOLD = {(row["size"], row["setting"]): row for row in STUDY["rows"]}


def test_every_row_is_stored() -> None:
    assert set(TOLD) == set(ROWS)
    assert {size for size, _ in TOLD} == {"1M", "10M", "60M"}


@pytest.mark.parametrize("key", ROWS, ids=" ".join)
def test_the_plan_is_within_a_fifth_of_what_was_measured(key: tuple[str, str]) -> None:
    row = TOLD[key]
    assert row["measured"] == max(part["measured"] for part in row["parts"].values()) > 10**7
    assert row["ratio"] == row["predicted"] / row["measured"]
    assert 0.8 < row["ratio"] < 1.2


@pytest.mark.parametrize("key", ROWS, ids=" ".join)
def test_the_plan_still_says_what_is_stored(key: tuple[str, str], tmp_path: Path) -> None:
    plan: Any = planned(*prepare(Asked("grpo", asked(without_weights(key[0], tmp_path), key[1]))))
    assert plan.memory.peak == TOLD[key]["predicted"]
    assert plan.model.parameters == TOLD[key]["parameters"]
    assert {name: plan.memory.peaks[name] for name in TOLD[key]["parts"]} == {
        name: part["predicted"] for name, part in TOLD[key]["parts"].items()
    }


def without_weights(name: str, folder: Path) -> Path:
    """The folder of the study without its weights: the plan does not need them."""
    shape = SIZES[name]
    shape.config().save_pretrained(folder)
    make_tokenizer(shape.vocab).save_pretrained(folder)
    rows = [{"id": str(i), "prompt": text} for i, text in enumerate(make_prompts(shape.vocab, 32, *PROMPTS))]
    (folder / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (folder / "reward.py").write_text(REWARD, encoding="utf-8")
    return folder
