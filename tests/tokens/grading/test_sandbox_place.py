"""The folder of a program is gone afterwards, however deep."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from rekindle.tokens.grading import sandbox


def test_folders_deeper_than_python_follows_are_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox.tempfile, "tempdir", str(tmp_path))
    home = os.getcwd()
    with sandbox._place() as folder:
        os.chdir(folder)
        for _ in range(1_500):
            os.mkdir("a")
            os.chdir("a")
        os.chdir(home)
    assert not list(tmp_path.iterdir())
