"""docs/explain.md with the output of its commands: `python -m tests.interop.page` writes it anew."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from typer.testing import CliRunner

from rekindle.cli.main import app

PAGE = Path(__file__).parents[2] / "docs" / "explain.md"
COMMAND = re.compile(r"```\n\$ rekindle ([^\n]*)\n.*?```", re.S)
FILE = re.compile(r"```yaml\n# (\S+)\n(.*?)```", re.S)
WRITTEN = re.compile(r"```toml\n.*?```", re.S)


def made(text: str) -> str:
    """The page with what its commands print and the last one writes, run in a folder with the page's files."""
    with inside() as folder:
        for name, content in FILE.findall(text):
            (folder / name).write_text(f"# {name}\n{content}")
        text = COMMAND.sub(lambda found: f"```\n$ rekindle {found[1]}\n{printed(found[1])}```", text)
        written = (folder / "run.toml").read_text().partition("\n\n")[2]
    return WRITTEN.sub(lambda _: f"```toml\n{written}```", text)


def printed(command: str) -> str:
    """What a command prints."""
    done = CliRunner().invoke(app, command.split(), catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


@contextmanager
def inside() -> Iterator[Path]:
    """An empty folder to run in."""
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as name:
        os.chdir(name)
        try:
            yield Path(name)
        finally:
            os.chdir(before)


if __name__ == "__main__":
    PAGE.write_text(made(PAGE.read_text()))
