"""Generated pages are current, the README is short, and what it shows is true."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent


def test_generated_pages_are_current() -> None:
    found = subprocess.run(
        [sys.executable, "scripts/pages.py", "--check"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, found.stderr


def test_readme_is_short_and_runnable_early() -> None:
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert sum(not line.startswith("| `") for line in lines) <= 150, "besides the rows of the table of methods"
    assert any("make demo" in line for line in lines[:30])


def test_readme_commands_exist() -> None:
    from rekindle.cli.main import app

    names = {command.name for command in (*app.registered_commands, *app.registered_groups)}
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    used = set(re.findall(r"^rekindle ([a-z-]+)", text, flags=re.MULTILINE))
    assert used and used <= names, used - names


def test_linked_files_exist() -> None:
    for page in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def script(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_table_of_the_vllm_study_follows_from_the_stored_data() -> None:
    study = script("vllm_study")
    data = json.loads(study.DATA.read_text(encoding="utf-8"))
    assert study.page(data) == study.PAGE.read_text(encoding="utf-8")
    assert len(data["final"]["vllm"]) >= 3 and data["final"]["vllm"].keys() == data["final"]["local"].keys()
    assert all(told["steps_checked"] == data["steps"] for told in data["sampler"].values()), "every push was checked"


@pytest.mark.parametrize(("name", "page"), [("echo_study", "echo"), ("ablation_study", "ablation")])
def test_the_pages_of_the_studies_follow_from_the_stored_data(name: str, page: str) -> None:
    study = script(name)
    data = json.loads(study.DATA.read_text(encoding="utf-8"))
    assert study.page(data) == (ROOT / "docs" / "results" / f"{page}.md").read_text(encoding="utf-8")
    assert len(data["seeds"]) >= 3 and set(study.ARMS) == set(data["methods"])
    assert (ROOT / "docs" / "results" / f"{page}.png").stat().st_size > 10_000


def test_the_results_page_follows_from_the_stored_data() -> None:
    results = script("results")
    data = json.loads(results.DATA.read_text(encoding="utf-8"))
    assert results.page(data) == (ROOT / "docs" / "results" / "reduce.md").read_text(encoding="utf-8")
    assert len(data["seeds"]) >= 3 and min(data["prompts"].values()) >= 300 and data["settings"]["samples"] >= 32
    assert {"ttrl", "evol_rl", "ttrl_entropy", "grpo"} <= set(data["methods"])


def test_the_page_of_faults_follows_from_what_the_tests_stored() -> None:
    reliability = script("reliability")
    rows = json.loads(reliability.DATA.read_text(encoding="utf-8"))
    assert reliability.page(rows) == reliability.PAGE.read_text(encoding="utf-8")
    assert {row["area"] for row in rows.values()} == set(reliability.TITLES)
    kills = [row["said"] for who, row in rows.items() if who.startswith("kill.py::")]
    assert sum(int(said.split()[0]) for said in kills) >= 100
