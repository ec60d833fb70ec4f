"""Malformed input: cases as plain data, ways of damaging files, and what a command must say of them.

A case is refused where the command ends with code 2 (3 for a guard) and one line on stderr that names what was damaged
and says what to do. A case that is valid after all ends with 0 and is counted apart. All else is a defect.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import re
import shutil
import signal
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Literal

from hypothesis import HealthCheck, given, settings
from hypothesis.strategies import SearchStrategy

from rekindle.cli.common import run_safely
from rekindle.cli.main import app

Place = Literal["FIFO", "DIRECTORY", "LOOP", "GONE", "EMPTY"]
"""What may stand at a path instead of a file with content."""
DEADLINE = 60.0
"""Seconds after which a command has hung."""
ORDERS = """
add allow ask change check choose copy convert define delete drop end fix give install leave lower make match mend merge
must name raise rename repair restore return save say set start take takes train use valid wait write
"""
REMEDY = re.compile(
    rf"\b({'|'.join(ORDERS.split())}|did you mean|go on)\b|\bis (a|one|true|text)\b|of the form"
    "|Invalid value|No such option|Missing|requires an argument|Got unexpected"
)
"""What a remedy reads like: an order, or the values that are allowed."""


class Late(BaseException):
    """A command takes too long; no Exception, which a command might take for its own."""


@dataclass(frozen=True)
class Case:
    """One malformed input.

    argv: the command, with DIR for the folder of the case and MODEL for a sound model. names: the sentence has one of
    these. base: a folder that is copied to DIR/base before `files` (path below DIR -> content) are written.
    """

    what: str
    argv: tuple[str, ...]
    names: tuple[str, ...]
    files: Mapping[str, bytes | Place] = field(default_factory=dict)
    base: Path | None = None

    @property
    def print(self) -> bytes:
        """What tells this input from others."""
        held = "".join(f"{path}\0{content!r}\0" for path, content in sorted(self.files.items()))
        return hashlib.sha256(f"{self.argv}\0{held}".encode("utf-8", "surrogatepass")).digest()


@dataclass
class Tally:
    """What became of the cases of one kind, run with `model` where a command needs one. refused: of distinct inputs."""

    model: Path
    refused: dict[bytes, str] = field(default_factory=dict)
    valid: set[bytes] = field(default_factory=set)
    defects: list[str] = field(default_factory=list)
    slowest: tuple[float, str] = (0.0, "")

    def take(self, case: Case) -> None:
        """Run one case, unless the same input was seen."""
        mark = case.print
        if mark in self.refused or mark in self.valid:
            return
        began = time.perf_counter()
        with tempfile.TemporaryDirectory(prefix="malformed-") as folder:
            ended = ran(case, Path(folder), self.model)
        self.slowest = max(self.slowest, (time.perf_counter() - began, case.what))
        if ended.wrong is None:
            self.valid.add(mark) if ended.code == 0 else self.refused.update({mark: ended.err})
        else:
            self.defects.append(f"{case.what}: {ended.wrong}\n  {' '.join(case.argv)}\n  {ended.err.strip()[-1500:]}")

    @property
    def kinds(self) -> Counter[str]:
        """Sentences without what is particular to a case: how varied the refusals are."""
        return Counter(re.sub(r"'[^']*'|\d+|\(.*\)|/\S+", "", said) for said in self.refused.values())


@dataclass(frozen=True)
class Ended:
    """How a command ended. wrong: why that is a defect, None where it is none."""

    code: int
    err: str
    wrong: str | None


def ran(case: Case, folder: Path, model: Path) -> Ended:
    """Write the files of a case, and run its command in this process."""
    if case.base is not None:
        shutil.copytree(case.base, folder / "base", symlinks=True)
    for path, content in case.files.items():
        put(folder / path, content)
    argv = [word.replace("DIR", str(folder)).replace("MODEL", str(model)) for word in case.argv]
    code, err = called(lambda: run_safely(app, argv))
    return Ended(code, err, wrong(case, code, err.replace(str(folder), "DIR")))


def wrong(case: Case, code: int, err: str) -> str | None:
    """What breaks the promise, None where nothing does."""
    lines = err.strip().split("\n")
    if code == 0:
        return None
    if code not in (2, 3):
        return f"ended with {code}"
    if len(lines) != 1 or not lines[0].startswith("rekindle: ") or "Traceback" in err:
        return f"{len(lines)} lines instead of one sentence"
    if not any(" ".join(name.split()) in lines[0] for name in case.names):
        return f"the sentence names none of {case.names}"
    return None if REMEDY.search(lines[0]) else "the sentence says nothing of what to do"


def called(command: Callable[[], int]) -> tuple[int, str]:
    """(exit code, stderr) of a command; 1 and the traceback where it raises, -1 where it hangs."""
    err, out = io.StringIO(), io.TextIOWrapper(io.BytesIO(), encoding="utf-8")  # as strict as a terminal
    with native(err), contextlib.redirect_stderr(err), contextlib.redirect_stdout(out):
        try:
            with limited(DEADLINE) as late:
                code = command()
            code = -1 if late else code  # a command that took it for an error of its own
        except Late:
            code = -1
        except BaseException:  # a panic of a library in Rust is no Exception
            code = 1
            err.write(traceback.format_exc())
    return code, err.getvalue()


@contextlib.contextmanager
def native(into: io.StringIO) -> Iterator[None]:
    """What libraries write to the file of stderr itself."""
    kept = os.dup(2)
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            file.seek(0)
            into.write(file.read().decode("utf-8", "replace"))


@contextlib.contextmanager
def limited(seconds: float) -> Iterator[list[int]]:
    """Late in what runs longer, also where it waits for a file; the list then has an entry."""
    told: list[int] = []

    def late(number: int, frame: FrameType | None) -> None:
        told.append(number)
        raise Late

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield told
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def put(path: Path, content: bytes | Place) -> None:
    """Let `content` stand at `path`, whatever stood there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    match content:
        case "FIFO":
            os.mkfifo(path)
        case "DIRECTORY":
            path.mkdir()
        case "LOOP":
            path.symlink_to(path.name)
        case "GONE" | "EMPTY":
            path.write_bytes(b"") if content == "EMPTY" else None
        case _:
            path.write_bytes(content)


def tried(cases: SearchStrategy[Case], by_hand: list[Case], examples: int, model: Path) -> Tally:
    """All cases by hand, and `examples` that hypothesis draws, the same ones at every call."""
    tally = Tally(model)
    for case in by_hand:
        tally.take(case)

    @settings(
        max_examples=examples,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
    )
    @given(cases)
    def draw(case: Case) -> None:
        tally.take(case)

    draw()
    return tally
