"""What a command in a page must satisfy: this project knows it, its options exist and have valid values."""

from __future__ import annotations

import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import pytest
import typer

from rekindle.cli import train as train_command
from rekindle.cli.main import app
from rekindle.train.config import resolve
from rekindle.train.find import find_method, make_method

ROOT = Path(__file__).resolve().parent.parent
TARGETS = set(re.findall(r"^([\w-]+):(?!=)", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
FOREIGN = ("git", "export", "test", "cd", "source", "ray", "ruff", "pyright", "pre-commit", "cat", "ssh")
"""Commands of others, of which nothing is checked."""
SYNOPSIS = re.compile(r"\s\[(-|[A-Z])|\w\|\w")
PLACEHOLDERS = ("METHOD", "A", "B", "A+B", "NAME", "PARENT", "FILE.py:function", "all")


def check(line: str, written: set[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """AssertionError with a reason where the command cannot work. written: files that the page wrote before."""
    line = re.sub(r"^(\.venv/bin/|\$ )", "", line)
    if " -m rekindle " in line:
        line = "rekindle " + line.partition(" -m rekindle ")[2]
    if line.startswith("rekindle ") and SYNOPSIS.search(line):
        return synopsis(line)
    words = shlex.split(re.split(r" (?:&&|\|\|?|;|>|2>) ?", line)[0])
    if words[0] == "rekindle":
        words = [*words[1:2], *("grpo" if word == "..." else word for word in words[2:3]), *words[3:]]
        return parsed([word for word in words if word != "..."], monkeypatch)
    if words[0] == "make":
        named = {word for word in words[1:] if "=" not in word and not word.startswith("-")}
        assert named <= TARGETS, f"no such target: {named - TARGETS}"
    elif words[0] == "python":
        python(words[1:], written)
    elif words[0] == "pip":
        extras = {
            extra for word in words for inner in re.findall(r"rekindle\[(.*)\]", word) for extra in inner.split(",")
        }
        assert words[1] == "install" and extras <= set(EXTRAS), f"no such extra: {extras - set(EXTRAS)}"
    else:
        assert words[0] in FOREIGN or re.match(r"\w+=", words[0]), f"a command that is not known here: {line}"


def python(words: list[str], written: set[str]) -> None:
    """A script of the page or of this repository, or a module of it."""
    if words[0] == "-m":
        own = words[1].replace(".", "/")
        assert words[1] == "pytest" or (ROOT / f"{own}.py").is_file() or (ROOT / own).is_dir(), words[1]
        words = [word for word in words[2:] if word.startswith("tests/")] or [""]
        assert (ROOT / words[0]).exists() or "FILE" in words[0] or "<" in words[0], words[0]
    else:
        assert words[0] in written or (ROOT / words[0]).is_file(), f"no such script: {words[0]}"


def leaf(words: list[str]) -> tuple[Any, list[str]]:
    """The command that the words name, and the rest of them."""
    command: Any = typer.main.get_command(app)
    while hasattr(command, "commands") and words:
        assert words[0] in command.commands, f"no such command: {words[:1]}"
        command, words = command.commands[words[0]], words[1:]
    return command, words


def parsed(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The real command line takes the words; of `train`, options by `--set` too, with their values."""
    if words and words[0] in ("--version", "--help"):
        return
    command, rest = leaf(words)
    assert not hasattr(command, "commands"), f"no command: {words}"
    context = command.make_context(command.name, list(rest))
    values = context.params
    for name in ("method", "methods", "a", "b"):
        for method in [values[name]] if isinstance(values.get(name), str) else values.get(name) or ():
            known(method)
    if command.name == "train":
        asked: list[Any] = []
        monkeypatch.setattr(train_command, "begin", lambda found, **how: asked.append(found))
        monkeypatch.setattr("rekindle.train.runfile.read", lambda file: None)
        command.invoke(context)
        resolved(asked[0].method, asked[0].sets, asked[0].flags)
    elif command.name == "compare":
        for method in values["methods"]:
            resolved(method, values["sets"] or (), {})


def known(method: str) -> Any:
    """The method as it is found; for a file or a placeholder, GRPO in its place."""
    return find_method("grpo" if method in PLACEHOLDERS or ":" in method else method)


def resolved(method: str, sets: tuple[str, ...], flags: dict[str, Any]) -> None:
    """The run's options are resolved as by a run, without its data and model."""
    found = known(method)
    resolve(found.name, make_method(found), essence=found.essence, profile={}, toml=None, sets=sets, flags=flags)


def synopsis(line: str) -> None:
    """`rekindle COMMAND ARG [--option VALUE]`: every option is one of the command."""
    for one in re.findall(r"rekindle .*?(?=rekindle |$)", line):
        first, second, *_ = [*one.split()[1:], ""]
        group = hasattr(leaf([first])[0], "commands")
        found = [leaf([first, name])[0] for name in second.split("|")] if group else [leaf([first])[0]]
        names = {name for command in found for parameter in command.params for name in parameter.opts}
        told = set(re.findall(r"(?<![\w-])--?[a-z][\w-]*", one))
        assert told <= names, f"{first} has no {told - names}"
