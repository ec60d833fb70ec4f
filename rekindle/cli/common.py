"""What all commands share: exit codes, output that is stable in pipes, and cards as JSON."""

from __future__ import annotations

import errno
import importlib.metadata
import json
import sys
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from rekindle.errors import EngineDead, GuardStop, InputError, Stopped, StoppedByHand

if TYPE_CHECKING:
    from rekindle.core.method import Card

PIPE_WIDTH = 120
ENDS: tuple[tuple[type[Exception], int], ...] = (
    (InputError, 2),
    (GuardStop, 3),
    (EngineDead, 4),
    (StoppedByHand, 130),
    (Stopped, 143),
)
UNUSABLE = (errno.EACCES, errno.EPERM, errno.ELOOP, errno.ENAMETOOLONG, errno.EISDIR, errno.ENOTDIR, errno.EROFS)
"""What the system says of a place that a user named and that cannot be used."""

WORDS: ContextVar[tuple[str, ...]] = ContextVar("WORDS", default=())
"""The command line that is being run."""


@runtime_checkable
class Usage(Protocol):
    """A command line that typer cannot read: unknown options, missing arguments."""

    exit_code: int

    def format_message(self) -> str:
        """What is wrong, for the user."""
        ...


def run_safely(app: typer.Typer, argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code: 0 done, 2 input, 3 guard, 4 engine dead, 130 SIGINT, 143 SIGTERM.

    A command finds the words that it was called by in `WORDS`, to start itself again in other processes. The foreseen
    ends print one sentence to stderr and no traceback; anything else is a bug and keeps its traceback.
    """
    said = WORDS.set(tuple(sys.argv[1:] if argv is None else argv))
    try:
        code = app(argv, prog_name="rekindle", standalone_mode=False)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 0
    except KeyboardInterrupt:
        return 130
    except (InputError, GuardStop, EngineDead, Stopped) as end:
        say(str(end))
        return next(code for kind, code in ENDS if isinstance(end, kind))
    except OSError as end:
        if end.errno not in UNUSABLE or end.filename is None:
            raise
        say(f"{str(end.filename)[:500]}: {end.strerror}: name another file or folder, or change its permissions")
        return 2
    except Exception as end:
        if not isinstance(end, Usage):
            raise
        text = end.format_message()
        if "\n" in text.strip():  # the help
            from rekindle.tokens.private import redacted

            print(redacted(text), file=sys.stderr)
        else:
            say(text)
        return end.exit_code
    finally:
        WORDS.reset(said)
    return code if isinstance(code, int) else 0


def say(text: str) -> None:
    """One line on stderr, where all that is no result goes; without secrets, for logs are kept and shown."""
    from rekindle.tokens.private import redacted

    print(f"rekindle: {' '.join(redacted(text).split())}", file=sys.stderr)


def console() -> Console:
    """A console on stdout: the terminal's width, or 120 columns without colour where the output is no terminal."""
    return (
        Console() if sys.stdout.isatty() else Console(width=PIPE_WIDTH, no_color=True, highlight=False, soft_wrap=False)
    )


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table of plain text on stdout, without borders; the first column never wraps, no line ends in blanks."""
    grid = Table(box=None, pad_edge=False, header_style="bold", show_header=any(columns))
    for i, name in enumerate(columns):
        grid.add_column(name, no_wrap=i == 0, overflow="fold")
    for row in rows:
        grid.add_row(*map(Text, row))
    out = console()
    with out.capture() as capture:
        out.print(grid)
    print("\n".join(line.rstrip() for line in capture.get().splitlines()))


def version() -> str:
    """The version of rekindle, "(not installed)" where it runs from a source tree."""
    try:
        return importlib.metadata.version("rekindle")
    except importlib.metadata.PackageNotFoundError:
        return "(not installed)"


def print_json(value: Any) -> None:
    """`value` as JSON on stdout, and nothing else."""
    print(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False))


def card_fields(name: str, card: Card) -> dict[str, Any]:
    """A card as JSON holds it, with its slug."""
    plain = {key: list(v) if isinstance(v, tuple) else v for key, v in vars(card).items() if not isinstance(v, Mapping)}
    return {
        "name": name,
        **plain,
        "sources": dict(card.sources),
        "effects": [asdict(effect) for effect in card.effects],
    }
