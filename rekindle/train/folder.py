"""The files of a run folder, and who hears a run's records."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rekindle.errors import InputError

Listener = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class Folder:
    """The files of a run folder."""

    root: Path

    @property
    def events(self) -> Path:
        """The single record of the run."""
        return self.root / "events.jsonl"

    @property
    def rollouts(self) -> Path:
        """What was sampled, a file a step."""
        return self.root / "rollouts"

    @property
    def credits(self) -> Path:
        """What every response taught, a file a step."""
        return self.root / "credits"

    @property
    def evaluations(self) -> Path:
        """How often each prompt of an evaluation was answered right, a file each."""
        return self.root / "evaluations"

    @property
    def checkpoints(self) -> Path:
        """Where checkpoints are."""
        return self.root / "checkpoints"

    @property
    def final(self) -> Path:
        """The trained model."""
        return self.root / "final"

    @property
    def config(self) -> Path:
        """The resolved configuration."""
        return self.root / "run.toml"


def refuse_file(root: Path) -> None:
    """InputError where the run folder is a file, or lies where this user may not look."""
    try:
        there = root.exists() and not root.is_dir()
    except OSError as error:
        raise InputError(f"cannot look at {root} ({error.strerror}): give an --out that you can write to") from error
    if there:
        raise InputError(f"{root} is a file: give an --out that is a new or empty folder")
