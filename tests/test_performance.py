"""The performance page follows from the stored numbers, and these from the arithmetic of pairs and bounds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from benchmarks.speed import against, alone, chart, page, plan, profile, words
from benchmarks.speed.growth import slope
from benchmarks.speed.models import Size
from benchmarks.speed.paired import Turn, described, ratio, spread
from benchmarks.speed.work import Lengths, forward_operations, step_operations, train_operations

STORED = page.load()
ONE = Lengths((4,), ((2, 3),))
MACHINE: dict[str, Any] = {
    "processor": "P", "instructions": ["avx2"], "cores": 2, "memory_gb": 8, "threads": 2, "system": "Linux",
    "python": "3.11", "torch": "2.13", "transformers": "5.19", "blas": "MKL", "onednn": "3", "trl": "", "vllm": "",
}  # fmt: skip


def flat(value: float, n: int = 3) -> dict[str, float]:
    return {"median": value, "min": value / 2, "max": value * 2, "n": n}


def side(seconds: float, share: float) -> dict[str, Any]:
    return {"seconds": flat(seconds), "tokens_per_s": flat(100 / seconds), "share": flat(share)}


def section(rows: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"rows": rows, "machine": MACHINE, "rivals_missing": {}} | more


def whole(by_token: float, share: float) -> dict[str, Any]:
    head = {"prompts": 2, "group": 4, "limit": 8, "trl_micro_batch": 8}
    sides = {"rekindle": side(1.0, share), "trl": side(by_token, 0.1)}
    return head | sides | {"ratio": {"by_token": flat(by_token), "plain": flat(by_token)}}


def test_the_page_follows_from_the_stored_numbers() -> None:
    assert page.page(STORED) == page.PAGE.read_text(encoding="utf-8"), "run `make bench`"


def test_the_chart_shows_the_stored_numbers() -> None:
    picture = page.PAGE.with_suffix(".png")
    assert picture.is_file() == bool(chart.data(STORED)), "run `make bench`"
    if picture.is_file():
        with Image.open(picture) as opened:
            assert json.loads(opened.info["Description"]) == chart.data(STORED), "run `make bench`"


def test_the_chart_carries_its_numbers(tmp_path: Path) -> None:
    found = chart.data({"parts": section({"toy": {"seconds": {"sample": 1.0, "other": 3.0}}, "1M": {"failed": "x"}})})
    assert found == {"toy": {"sample": 1.0, "other": 3.0}}
    chart.draw(found, tmp_path / "chart.png")
    with Image.open(tmp_path / "chart.png") as opened:
        assert json.loads(opened.info["Description"]) == found and opened.width > 800


def test_a_ratio_is_the_median_of_pairs_by_token() -> None:
    # Seconds a token: theirs 1, 1, 2; ours 0.5, 0.25, 1. Pairs: 2, 4, 2.
    slow = [Turn(5.0, ONE, 1e9), Turn(5.0, ONE, 1e9), Turn(10.0, ONE, 1e9)]
    two = Lengths((4,), ((4, 6),))
    fast = [Turn(5.0, two, 1e9), Turn(1.25, ONE, 1e9), Turn(5.0, ONE, 1e9)]
    found = ratio(slow, fast)
    assert found["by_token"] == {"median": 2.0, "min": 2.0, "max": 4.0, "n": 3}
    assert found["plain"] == {"median": 2.0, "min": 1.0, "max": 4.0, "n": 3}
    assert spread([3.0, 1.0]) == {"median": 2.0, "min": 1.0, "max": 3.0, "n": 2}


def test_the_bound_counts_real_tokens_once() -> None:
    size = Size(vocab=7, hidden=3, layers=2, heads=2, kv_heads=1, head_dim=5, inner=11)
    body = 2 * (3 * 5 * (2 * 2 + 2 * 1) + 3 * 3 * 11)
    fed = 4 + (2 - 1) + (3 - 1)  # the prompt once, no last token
    contexts = (1 + 2 + 3 + 4) + 5 + (5 + 6)
    attention = 2 * 2 * contexts * 2 * 5 * 2  # scores and values, heads, head_dim, layers
    forward = 2 * body * fed + 2 * (3 * 7) * 5 + attention
    assert forward_operations(size, ONE) == forward
    assert (train_operations(size, ONE), step_operations(size, ONE)) == (3 * forward, 4 * forward)


def test_the_share_is_the_bound_over_the_seconds() -> None:
    found = described([Turn(2.0, ONE, 10.0), Turn(4.0, ONE, 20.0)], lambda lengths: 2.0 * lengths.tokens)
    assert found["share"] == {"median": 0.3125, "min": 0.125, "max": 0.5, "n": 2}
    assert found["tokens_per_s"]["median"] == (5 / 2 + 5 / 4) / 2


def test_rows_of_a_prompt_form_one_group() -> None:
    assert Lengths.of([(1, 2), (3,), (1, 2)], [2, 1, 2], [5, 6, 7]) == Lengths((2, 1), ((5, 7), (6,)))


def test_the_exponent_of_a_power() -> None:
    assert slope([2, 4, 8], [3 * x**1.5 for x in (2, 4, 8)]) == pytest.approx(1.5)


def test_operator_shares_sum_to_one() -> None:
    assert profile.shares({"a": 1.0, "b": 5.0, "c": 3.0, "d": 1.0}, 2) == {"b": 0.5, "c": 0.3, "other": 0.2}
    assert profile.shares({"a": 2.0}, 2) == {"a": 1.0} and profile.shares({}, 2) == {}


def test_nothing_measured_still_renders() -> None:
    text = page.page({})
    assert all(f"Not measured yet: `{item}`." in text for item in plan.ITEMS)
    assert page.SECTIONS.keys() == plan.ITEMS.keys()


def test_what_failed_and_what_is_missing_is_named() -> None:
    stored = {
        "step": section({"1M": {"failed": "it broke"}}, rivals_missing={"TRL": "no network", "vLLM": "elsewhere"}),
        "parts": section({}, machine=MACHINE | {"processor": "Q"}),
    }
    text = page.page(stored)
    assert "1M, because it failed: it broke" in text and "TRL was not measured: no network." in text
    assert "elsewhere" not in text and "step: P, 2 cores" in text and "parts: Q, 2 cores" in text
    assert "Not measured yet: `sampler`." in text and "Not measured yet: `step`." not in text


def test_a_row_without_trl_renders() -> None:
    row = {"prompts": 2, "group": 4, "limit": 8, "rekindle": side(1.0, 0.6)}
    assert any("| not measured | – | at least 3 x | – |" in line for line in against.step({"1M": row}, {}))


@pytest.mark.parametrize(
    ("by_token", "share", "verdicts"), [(3.0, 0.5, 0), (2.9, 0.5, 1), (3.0, 0.4, 1), (1.0, 0.1, 2)]
)
def test_what_a_step_misses_is_said_and_explained(by_token: float, share: float, verdicts: int) -> None:
    text = "\n".join(against.step({"1M": whole(by_token, share)}, {"1M": {"profile": {"update": {"mm": 0.75}}}}))
    assert text.count("**missed**") == verdicts
    assert ("- 1M, update: `mm` 75 %." in text) == (verdicts > 0)


def test_targets_differ_by_size() -> None:
    rows = {"1M": whole(2.0, 0.6), "10M": whole(2.0, 0.6), "60M": whole(1.4, 0.6)}
    lines = [line for line in against.step(rows, {}) if line.startswith(("| 1M", "| 10M", "| 60M"))]
    assert ["**missed**" in line for line in lines] == [True, False, True]
    assert against.sampler_target("60M", "vllm eager") is None and against.sampler_target("60M", "generate") == 2.0
    assert against.sampler_target("10M", "vllm compiled") == 1.0


def test_the_sampler_says_who_is_missing() -> None:
    sides = {"rekindle": side(1.0, 0.6), "generate": side(1.9, 0.3)}
    row = {"sides": sides, "ratios": {"generate": {"by_token": flat(1.9)}}, "missing": {"vllm eager": "ended with 1"}}
    text = "\n".join(against.sampler({"1M": row}, {}))
    assert "not measured: ended with 1" in text and "| at least 2 x | **missed** |" in text and "No profile" in text


def test_memory_compares_as_many_rows() -> None:
    def row(peak: float) -> dict[str, Any]:
        return {"vocab": 64, "rows": 4, "prompt": 2, "length": 8, "peak": peak, "gradient": 1, "reset": True}

    rows = {"rekindle": row(1.0), "trl, its defaults": row(4.0), "trl, no checkpointing": row(3.9), "other": row(9.0)}
    lines = [line for line in against.memory(rows, {}) if line.startswith("| rekindle | trl")]
    assert ["**missed**" in line for line in lines] == [False, True]


@pytest.mark.parametrize(("share", "missed"), [(0.5, False), (0.49, True)])
def test_training_is_judged_at_100m_in_float32_only(share: float, missed: bool) -> None:
    row = {
        "update": side(1.0, share) | {"matmul_gflops": flat(150.0)},
        "profile": {"update": {"mm": 0.9, "other": 0.1}},
    }
    text = "\n".join(alone.training({"100M full": row}, {}))
    assert ("**missed**" in text) == missed == ("`mm` 90 %, all others 10 %." in text)
    assert "**missed**" not in "\n".join(alone.training({"100M bf16": row, "1M full": row}, {}))


@pytest.mark.parametrize(
    ("value", "text"), [(0.01234, "0.0123"), (1.234, "1.23"), (12.34, "12.3"), (123.4, "123"), (12345.0, "12,345")]
)
def test_numbers_are_short(value: float, text: str) -> None:
    assert words.number(value) == text


def test_an_item_can_be_measured_alone() -> None:
    asked = plan.Asked(("1M",), None, False, True, "")
    assert [row.key for row in plan.step(asked)] == ["1M"] and plan.step(asked)[0].keywords["pairs"] == 7
    everything = plan.Asked(None, None, False, True, "")
    assert [row.keywords["pairs"] for row in plan.step(everything)] == [7, 5, 3]
    assert not any(row.key.startswith("trl") for row in plan.memory(plan.Asked(None, None, False, False, "")))
