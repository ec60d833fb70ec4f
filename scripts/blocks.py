"""The code blocks of the pages, and the commands in them. `python scripts/blocks.py PAGE` prints a page as shell.

A block that cannot run has a comment on the line before it: `<!-- not run: REASON -->` or `<!-- needs: PACKAGE -->`.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

FENCE = re.compile(r"^( *)(`{3,})([\w-]*)\s*$")
MARK = re.compile(r"^<!-- (not run|needs): (\S.*?) -->$")
SHELL = ("bash", "console", "sh", "")
"""Languages of commands; a block without one may hold commands, output or both."""
STARTS = (
    "rekindle ",
    "make ",
    "python ",
    "pip ",
    "git ",
    "cd ",
    "source ",
    "ray ",
    "torchrun ",
    "accelerate ",
    "srun ",
    "$(",
)
"""How a line of a block without a language begins if it is a command."""


@dataclass(frozen=True)
class Block:
    """A fenced block. line: of its opening fence, from 1. heading: the last one above. mark: (what, reason) or None."""

    page: Path
    line: int
    language: str
    text: str
    heading: str
    mark: tuple[str, str] | None

    @property
    def where(self) -> str:
        """PAGE:LINE."""
        return f"{self.page.name}:{self.line}"


def pages(docs: Path) -> list[Path]:
    """The pages that are in the repository: `make docs` leaves others, a page a method, in docs/methods."""
    return sorted(path for path in docs.rglob("*.md") if path.parent != docs / "methods")


def blocks(page: Path) -> list[Block]:
    """All fenced blocks of a page, in order. ValueError for a block that is never closed."""
    found, heading, lines = [], "", page.read_text(encoding="utf-8").splitlines()
    at = 0
    while at < len(lines):
        fence = FENCE.match(lines[at])
        if fence is None:
            heading = lines[at].lstrip("# ") if re.match(r"#+ ", lines[at]) else heading
            at += 1
            continue
        close = fence[1] + fence[2]
        end = next((i for i in range(at + 1, len(lines)) if lines[i].rstrip() == close), None)
        if end is None:
            raise ValueError(f"{page}:{at + 1}: the block is never closed: add {fence[2]}")
        mark = MARK.match(lines[at - 1].strip()) if at else None
        text = "\n".join(line.removeprefix(fence[1]) for line in lines[at + 1 : end])
        found.append(Block(page, at + 1, fence[3], text, heading, (mark[1], mark[2]) if mark else None))
        at = end + 1
    return found


def commands(block: Block) -> list[str]:
    """The commands of a block, a line each, without `$ `, remarks and continued lines; output is left out.

    Where some line begins with `$ `, only such lines are commands.
    """
    if block.language not in SHELL:
        return []
    lines = block.text.splitlines()
    prompted = any(line.startswith("$ ") for line in lines)
    return list(_joined(lines, prompted, told=bool(block.language)))


def _joined(lines: Sequence[str], prompted: bool, told: bool) -> Iterator[str]:
    held = ""
    for line in lines:
        own = line.removeprefix("$ ") if prompted else line
        begins = own != line if prompted else told or own.startswith(STARTS)
        if not (held or begins) or not own.strip():
            continue
        text = plain(held + own.strip())
        held = text[:-1] if text.endswith("\\") else ""
        if text and not held:
            yield text


def plain(line: str) -> str:
    """The line without a remark: what follows `#` at the start or after a space, or three spaces."""
    return re.sub(r"((^|\s)#.*|\s{3,}.*)$", "", line).strip()


def script(page: Path) -> str:
    """The page as shell, each block after `stage HEADING`. A Python block that begins with `# FILE.py` is that file."""
    told = []
    for block in blocks(page):
        if block.mark is not None:
            continue
        lines = commands(block)
        if block.language == "python":
            lines = [_python(block.text)]
        told += [f"stage '{block.heading}'", *lines] if lines else []
    return "\n".join([*told, ""])


def _python(text: str) -> str:
    name = re.match(r"# ([\w.]+\.py)\n", text)
    return f"{f'cat >{name[1]}' if name else 'python -'} <<'END_OF_BLOCK'\n{text}\nEND_OF_BLOCK"


if __name__ == "__main__":
    print(script(Path(sys.argv[1])), end="")
