"""The benchmark's driver over every item at toy size: each row is measured, beside real TRL, and the page renders."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.speed import page, plan, rivals
from benchmarks.speed.words import good

pytestmark = pytest.mark.heavy
SPREAD = {"median", "min", "max", "n"}


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    path = tmp_path_factory.mktemp("speed") / "speed.json"
    command = [sys.executable, "-m", "benchmarks.speed", "--quick", "--no-page", "--store", str(path)]
    done = subprocess.run(command, cwd=rivals.ROOT, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(path.read_text(encoding="utf-8"))


def spreads(found: Any, path: str = "") -> Iterator[tuple[str, dict[str, float]]]:
    if isinstance(found, dict):
        if found.keys() == SPREAD:
            yield path, found
        for name, inner in found.items():
            yield from spreads(inner, f"{path}/{name}")


def test_every_item_has_its_rows(stored: dict[str, Any]) -> None:
    assert stored.keys() == plan.ITEMS.keys()
    asked = plan.Asked(None, None, True, True, "")
    for item, section in stored.items():
        assert section["rows"].keys() == {row.key for row in plan.ITEMS[item](asked)}
        assert good(section["rows"]) == section["rows"], section["rows"]
        assert section["machine"]["trl"] == "1.16.0" and section["machine"]["threads"] >= 1


def test_every_number_is_positive_and_finite(stored: dict[str, Any]) -> None:
    found = {path: spread for path, spread in spreads(stored) if not path.endswith("/exponent")}
    assert sum("/ratio" in path for path in found) >= 8
    for path, spread in found.items():
        assert all(math.isfinite(value) and value > 0 for value in spread.values()), (path, spread)
        assert spread["min"] <= spread["median"] <= spread["max"], (path, spread)


def test_both_sides_of_a_step_are_measured(stored: dict[str, Any]) -> None:
    row = stored["step"]["rows"]["toy"]
    assert {"rekindle", "trl", "ratio"} <= row.keys() and row["ratio"]["by_token"]["n"] == 2
    assert {"rekindle", "generate"} <= stored["sampler"]["rows"]["toy"]["sides"].keys()
    assert stored["memory"]["rows"]["trl, its defaults"]["peak"] > 0


def test_profiles_are_stored(stored: dict[str, Any]) -> None:
    profiles = stored["parts"]["rows"]["toy"]["profile"]
    assert profiles.keys() == {"sample", "update"}
    for found in (*profiles.values(), stored["training"]["rows"]["toy full"]["profile"]["update"]):
        assert 2 <= len(found) <= 9 and sum(found.values()) == pytest.approx(1.0)


def test_the_page_of_these_numbers_renders(stored: dict[str, Any], tmp_path: Path) -> None:
    text = page.page(stored)
    assert "Not measured yet" not in text and "because it failed" not in text
    assert all(f"## {title}" in text for title, _, _ in page.SECTIONS.values())
