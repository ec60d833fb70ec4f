"""The model of cost: it finds coefficients that made the points, and its page is that of the stored measurements."""

from __future__ import annotations

from dataclasses import asdict

import numpy as np
import pytest

from benchmarks.scaling.__main__ import BEGIN, DATA, END, PAGE, page
from benchmarks.scaling.fit import TERMS, fitted, non_negative, predicted, terms, token_operations
from benchmarks.scaling.points import FITTED, HELD_OUT, PROMPT, SIZES_HERE, asked, read
from benchmarks.speed.models import make_model

TRUE = {
    "sample": {"pass": 3e-4, "operation": 2e-11, "token": 4e-5},
    "update": {"operation": 3e-11, "token": 2e-5, "exchanged": 5e-9, "meeting": 0.01},
    "rest": {"response": 1e-4, "step": 0.02},
}


def made(point: dict) -> dict:
    """A point whose seconds are those of TRUE."""
    guess = predicted(TRUE, point)
    return {**point, "seconds": guess["seconds"], "sample": guess["sample"], "update": guess["update"]}


def test_the_fit_finds_the_coefficients_that_made_the_points() -> None:
    found = fitted([made(asdict(point)) for point in FITTED])
    for part, names in TERMS.items():
        for name in names:
            assert found[part][name] == pytest.approx(TRUE[part][name], rel=1e-6), (part, name)


def test_points_that_are_held_out_are_not_fitted() -> None:
    assert not {p.name for p in FITTED} & {p.name for p in HELD_OUT}
    assert len({p.name for p in (*FITTED, *HELD_OUT)}) == len(FITTED) + len(HELD_OUT)


def test_no_coefficient_is_negative() -> None:
    rows = np.array([[1.0, 0.0], [1.0, 1.0], [1.0, 2.0]])
    assert non_negative(rows, np.array([2.0, 3.0, 4.0])) == pytest.approx([2.0, 1.0])
    falling = non_negative(rows, np.array([4.0, 3.0, 2.0]))
    assert falling == pytest.approx([3.0, 0.0]), "the mean, once the slope is left out"


def test_operations_are_two_a_weight_and_attention() -> None:
    size = SIZES_HERE["1M"]
    model = make_model(size)
    matrices = sum(p.numel() for n, p in model.named_parameters() if p.dim() == 2 and "embed" not in n)
    assert token_operations(size, 0.0) == 2 * matrices
    assert token_operations(size, 10.0) - token_operations(size, 0.0) == 40 * size.layers * size.heads * size.head_dim


def test_ranks_share_tokens_and_exchange_gradients() -> None:
    one, two = (terms({**asdict(FITTED[0]), "ranks": n}) for n in (1, 2))
    assert two["sample"]["operation"] * 2 == one["sample"]["operation"]
    assert two["sample"]["pass"] == one["sample"]["pass"], "a rank decodes as many passes for fewer rows"
    assert one["update"]["exchanged"] == 0 < two["update"]["exchanged"]
    trained = FITTED[0].prompts * (FITTED[0].group * FITTED[0].length + PROMPT)
    assert one["update"]["token"] == trained


def test_a_run_decodes_each_ranks_prompts_in_one_block(tmp_path) -> None:
    point = next(p for p in FITTED if p.ranks == 2)
    words = asked(point, tmp_path, tmp_path / "out")
    assert f"rollout.block={point.prompts // 2}" in words and words[words.index("--ranks") + 1] == "2"
    assert "--ranks" not in asked(FITTED[0], tmp_path, tmp_path / "out")


def test_the_page_is_that_of_the_stored_measurements() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert text.partition(BEGIN)[2].partition(END)[0].strip() == page(read(DATA)).strip()
