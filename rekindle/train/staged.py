"""Options of a record of several stages: `descent.lr` is set in every stage, `methods.1.descent.lr` in one."""

from __future__ import annotations

import re
from typing import Any

from rekindle.train import options

STAGE = re.compile(r"^methods\.\d+\.")


def unstaged(path: str) -> str:
    """The path within its stage; a path of a record of one method as it is."""
    return STAGE.sub("", path)


def places(path: str, record: Any) -> list[str]:
    """Where an option is set: at its own path, or in every stage of the record that has it."""
    theirs = options.flatten(record)
    staged = [place for place in theirs if unstaged(place) == path]
    return staged if staged and path not in theirs else [path]


def changes(old: Any, new: Any) -> list[options.Change]:
    """What differs from `old` to `new`; where one of them has several stages, stage by stage.

    A record of one method is compared with every stage of the other.
    """
    if type(old) is type(new):
        return options.diff(old, new)
    count = max(len(old.methods), len(new.methods))
    ours, theirs = ([one.methods[min(i, len(one.methods) - 1)] for i in range(count)] for one in (old, new))
    return [
        change
        for i, (a, b) in enumerate(zip(ours, theirs, strict=True))
        for change in options.diff(a, b, f"methods.{i}")
    ]
