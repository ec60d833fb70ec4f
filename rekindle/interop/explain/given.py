"""A configuration file of another trainer as flat names, each with its line, and what became of each."""

from __future__ import annotations

import json
import math
import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml  # transformers brings it

from rekindle.errors import InputError
from rekindle.tokens.reading import text_of

_PIECE = re.compile(r"""(?P<comment>#.*)|(?:'[^']*'|"(?:\\.|[^"\\])*"|\\.|[^\s'"\\])+|.""", re.DOTALL)
"""A comment, a word, or what stands between words: for the shell a # inside a word is a part of it."""


@dataclass(kw_only=True)
class Given:
    """The values of a file by dotted name, and three lists for whoever reads the result.

    unread: not understood. left: at our default, where the trainer's own is another. means: says something else here.
    """

    file: str
    values: Mapping[str, Any]
    lines: Mapping[str, int]
    used: set[str] = field(default_factory=set)
    unread: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    means: list[str] = field(default_factory=list)

    def has(self, name: str) -> bool:
        """Whether the file says it, and says something."""
        return self.values.get(name) is not None

    def number(self, name: str, default: Any = None) -> Any:
        """A number, `default` where the file says none; texts such as 1e-6, which YAML takes for no number, count."""
        value = self.take(name, default)
        try:
            real = float(value) if isinstance(value, str) else value
        except ValueError:
            raise self.wrong(name, "a number") from None
        if real is default or (isinstance(real, int | float) and not isinstance(real, bool) and math.isfinite(real)):
            return real
        raise self.wrong(name, "a finite number")

    def whole(self, name: str, default: Any = None, *, least: int = 1) -> Any:
        """A whole number from `least` up."""
        value = self.number(name, default)
        if value is default or (value == int(value) and value >= least):
            return value if value is default else int(value)
        raise self.wrong(name, f"a whole number from {least} up")

    def above(self, name: str, most: float = math.inf) -> float | None:
        """A number above 0, up to `most`; None where the file says none."""
        value = self.number(name)
        if value is None or 0 < value <= most:
            return None if value is None else float(value)
        raise self.wrong(name, "a number above 0" + (f", up to {most:g}" if math.isfinite(most) else ""))

    def reals(self, name: str, count: int | None = None) -> list[float] | None:
        """A list of finite numbers, of `count` where it is given; None where the file says none."""
        said = self.take(name)
        if said is None:
            return None
        try:
            found = [float(value) for value in said] if isinstance(said, list) else []
        except (TypeError, ValueError):
            found = []
        if not found or count not in (None, len(found)) or not all(map(math.isfinite, found)):
            raise self.wrong(name, f"a list of {count or 'finite'} numbers")
        return found

    def truth(self, name: str, default: bool = False) -> bool:
        """True or false."""
        value = self.take(name, default)
        if isinstance(value, str) and value.lower() in ("true", "false"):
            return value.lower() == "true"
        if not isinstance(value, bool):
            raise self.wrong(name, "true or false")
        return value

    def text(self, name: str, default: str) -> str:
        """A text, in lower case."""
        value = self.take(name, default)
        if isinstance(value, list | dict):
            raise self.wrong(name, "a text")
        return str(value).lower()

    def take(self, name: str, default: Any = None) -> Any:
        """The value as it stands; null counts as not said."""
        self.used.add(name)
        value = self.values.get(name)
        return default if value is None else value

    def wrong(self, name: str, kind: str) -> InputError:
        """The error for a value of another kind."""
        return InputError(f"{self.at(name)}: {name} is {kind}, not {self.values[name]!r}: correct it")

    def at(self, name: str) -> str:
        """File and line."""
        return f"{self.file}, line {self.lines.get(name, 1)}"

    def refused(self, name: str, why: str) -> None:
        """Note that what the file says of `name` was not understood, and why."""
        self.used.add(name)
        line = f", line {self.lines[name]}" if name in self.lines else ""
        self.unread.append(f"{name}={_shown(self.values.get(name))}{line}: {why}")

    def rest(self) -> None:
        """Note every name that nobody asked for."""
        for name, value in self.values.items():
            if name not in self.used and value is not None:
                self.refused(name, "no option of ours")


def _shown(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def read(path: str) -> Given:
    """The file as names and values; InputError, with file and line, where it cannot be read.

    JSON and YAML by their endings; anything else is a script or a list of `a.b=c`.
    """
    text = text_of(Path(path), "give a configuration", f"the configuration '{path}'")
    ending, unread = Path(path).suffix.lower(), []
    if ending == ".json":
        values, lines = _json(text, path), {}
    elif ending in (".yaml", ".yml"):
        values, lines = _yaml(text, path)
    else:
        values, lines, unread = _overrides(text, path)
    if not values:
        raise InputError(f"{path} says nothing: give a YAML or JSON file, or a script with a.b=c in it")
    return Given(file=path, values=values, lines=lines, unread=unread)


def _json(text: str, path: str) -> dict[str, Any]:
    try:
        tree = json.loads(text, object_pairs_hook=lambda pairs: _once(pairs, path))
    except json.JSONDecodeError as error:
        raise InputError(f"{path}, line {error.lineno} is no valid JSON: {error.msg}: fix the line") from error
    except InputError:
        raise
    except (ValueError, RecursionError):
        raise InputError(f"{path} cannot be read as JSON: give shorter values") from None
    return _flat(_mapping(tree, path))


def _once(pairs: list[tuple[str, Any]], path: str) -> dict[str, Any]:
    """An object of JSON; InputError for a name that stands twice, of which JSON would drop the first."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise InputError(f"{path}: {twice} stands twice in an object: drop one")
    return found


def _yaml(text: str, path: str) -> tuple[dict[str, Any], dict[str, int]]:
    try:
        tree, node = yaml.safe_load(text), yaml.compose(text, Loader=yaml.SafeLoader)
        return _flat(_mapping(tree, path)), dict(_marks(node, path)) if node else {}
    except InputError:
        raise
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise InputError(f"{path}, line {line} is no valid YAML: {error.problem}: fix the line") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise InputError(f"{path} cannot be read as YAML ({type(error).__name__}): write it anew") from None


def _mapping(tree: Any, path: str) -> Mapping[Any, Any]:
    if tree is not None and not isinstance(tree, Mapping):
        raise InputError(
            f"{path}, line 1: names with values are wanted, not a {type(tree).__name__}: write NAME: VALUE"
        )
    return tree or {}


def _flat(tree: Mapping[Any, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        inner = isinstance(value, Mapping) and value
        flat |= _flat(value, f"{prefix}{key}.") if inner else {f"{prefix}{key}": value}
    return flat


def _marks(node: Any, path: str, prefix: str = "") -> Iterator[tuple[str, int]]:
    """(dotted name, line); InputError for a name that stands twice, of which YAML would drop the first."""
    seen: dict[str, int] = {}
    for key, value in node.value if isinstance(node, yaml.MappingNode) else ():
        name, line = f"{prefix}{key.value}", key.start_mark.line + 1
        if name in seen:
            raise InputError(f"{path}, line {line}: {name} stands in line {seen[name]}, too: drop one")
        seen[name] = line
        yield name, line
        yield from _marks(value, path, f"{name}.")


def _overrides(text: str, path: str) -> tuple[dict[str, Any], dict[str, int], list[str]]:
    """The words `a.b=c` of a script, and notes of those that say no value here; others are passed over."""
    values: dict[str, Any] = {}
    lines: dict[str, int] = {}
    unread: list[str] = []
    for number, line in enumerate(text.splitlines(), 1):
        try:
            words = shlex.split(_uncommented(line.rstrip().removesuffix("\\")))
        except ValueError as error:
            raise InputError(f"{path}, line {number}: {error}: close the quotation") from error
        for word in words:
            name, equals, value = word.lstrip("+~").partition("=")
            if "." not in name or not name.replace(".", "").replace("_", "").isalnum():
                continue
            if word.startswith("~"):
                unread.append(f"{_shown(word)}, line {number}: hydra takes the option out: say what is to hold instead")
            if not equals or word.startswith("~"):
                continue
            values.pop(name, None)  # the last word counts
            if "$" in value:
                unread.append(f"{name}={_shown(value)}, line {number}: a variable of the shell: write its value")
                continue
            values[name], lines[name] = _word(value, path, number), number
    return values, lines, unread


def _uncommented(line: str) -> str:
    return "".join(piece[0] for piece in _PIECE.finditer(line) if piece["comment"] is None)


def _word(value: str, path: str, number: int) -> Any:
    """The value as YAML reads it, but for a # that YAML would begin a comment at: the shell has done with those."""
    if value[:1] not in "'\"[{" and re.search(r"(?:^|\s)#", value):
        return value
    try:
        return yaml.safe_load(value) if value else None
    except ValueError:  # a day that there is not, as in 2001-99-99: a text like others
        return value
    except (yaml.YAMLError, RecursionError):
        raise InputError(f"{path}, line {number}: the value {value!r} cannot be read: put it in quotes") from None
