"""The ways a command ends early, and how an unknown name is answered."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """The user's input cannot work (exit code 2). The message is one sentence: what, where, and the remedy."""


class GuardStop(RuntimeError):
    """A guard stopped the run before it did harm (exit code 3). The last checkpoint is intact."""


class EngineDead(RuntimeError):
    """The process that samples or trains is gone (exit code 4)."""


class Stopped(RuntimeError):
    """A run ended by SIGTERM, saved (exit code 143)."""


class StoppedByHand(Stopped):
    """A run ended by SIGINT, saved (exit code 130)."""


def nearest(name: str, valid: Iterable[str]) -> str:
    """The names of `valid` closest to `name`, as the end of a sentence; all of them where none is close."""
    names = sorted(valid)
    close = difflib.get_close_matches(name.replace("-", "_"), names, n=3, cutoff=0.5)
    if close:
        return "did you mean " + " or ".join(f"'{c}'" for c in close) + "?"
    return "valid: " + ", ".join(names) if names else "there are none"


def unknown(kind: str, name: str, valid: Iterable[str]) -> InputError:
    """The error for a name that is not among `valid`."""
    return InputError(f"unknown {kind} '{name}': {nearest(name, valid)}")
