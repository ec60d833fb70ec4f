"""Generated pages are current, the README is short, and what it shows is true."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def test_generated_pages_are_current() -> None:
    found = subprocess.run(
        [sys.executable, "scripts/pages.py", "--check"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, found.stderr


def test_readme_is_short_and_runnable_early() -> None:
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 150
    assert any("make demo" in line for line in lines[:30])


def test_readme_commands_exist() -> None:
    from rekindle.cli.main import app

    names = {command.name for command in app.registered_commands}
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    used = set(re.findall(r"^rekindle ([a-z]+)", text, flags=re.MULTILINE))
    assert used and used <= names, used - names


def test_linked_files_exist() -> None:
    for page in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"
