"""Imports run one way: core <- tokens <- methods <- train <- prove <- (report, interop) <- cli; core knows torch."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

from scripts.house import Module, imported, read

PACKAGE = Path(__file__).parents[1] / "rekindle"
LEVELS = {"core": 0, "tokens": 1, "control": 1, "methods": 2, "train": 3, "prove": 4, "report": 5, "interop": 5}
LEVELS["cli"] = 6
ANYWHERE = {"errors"}
CORE_MAY_IMPORT = {"torch", "jaxtyping", "rekindle"} | set(sys.stdlib_module_names)


def wing(path: Path) -> str | None:
    """The wing that a file belongs to; None for the files at the top, which belong to the user's side."""
    first = path.relative_to(PACKAGE).parts[0]
    return first if first in LEVELS else None


def edges(module: Module) -> list[tuple[int, str]]:
    """(line, dotted name) of every import, also of those inside functions."""
    found = []
    for node in ast.walk(module.tree):
        if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module == "rekindle":
            found += [(node.lineno, f"rekindle.{alias.name}") for alias in node.names]
        elif isinstance(node, ast.Import | ast.ImportFrom):
            found += [(node.lineno, name) for name in imported(node)]
    return found


def wrong_way(module: Module) -> list[str]:
    """The imports of one module that point the wrong way."""
    own = wing(module.path)
    wrong = []
    for line, name in edges(module):
        parts = name.split(".")
        inner = parts[0] == "rekindle" and len(parts) > 1 and parts[1] not in ANYWHERE
        outside_core = own == "core" and parts[0] not in CORE_MAY_IMPORT
        if outside_core or (inner and own is not None and not allowed(own, parts[1])):
            wrong.append(f"{module.path.relative_to(PACKAGE.parent)}:{line} imports {name}")
    return wrong


def allowed(own: str, other: str) -> bool:
    """Whether wing `own` may import from `other`: itself, or a wing on a lower level."""
    return own == other or LEVELS.get(other, 99) < LEVELS[own]


MODULES = read(PACKAGE)


def test_imports_run_one_way() -> None:
    assert len(MODULES) > 20
    assert [fault for module in MODULES for fault in wrong_way(module)] == []


def test_no_relative_imports() -> None:
    relative = [
        f"{module.path}:{node.lineno}"
        for module in MODULES
        for node in ast.walk(module.tree)
        if isinstance(node, ast.ImportFrom) and node.level > 0
    ]
    assert relative == []


def test_every_wing_is_known() -> None:
    folders = {p.name for p in PACKAGE.iterdir() if p.is_dir() and (p / "__init__.py").exists()}
    assert folders <= set(LEVELS) | {"assets"}


@pytest.mark.parametrize(
    ("file", "text", "wrong"),
    [
        ("core/a.py", "import transformers", True),
        ("core/a.py", "from rekindle.tokens.policy import LMPolicy", True),
        ("core/a.py", "def f():\n    from rekindle import tokens", True),
        ("core/a.py", "import math, torch\nfrom rekindle.core.types import Batch", False),
        ("tokens/a.py", "from rekindle.control import x", True),
        ("tokens/a.py", "from rekindle.core.types import Batch\nfrom rekindle.errors import InputError", False),
        ("methods/a.py", "import rekindle.train.run", True),
        ("train/a.py", "from rekindle.cli.main import app", True),
        ("report/a.py", "from rekindle.cli.main import app", True),
        ("train/a.py", "from rekindle.report.fits import Law", True),
        ("cli/a.py", "from rekindle.report import html", False),
        ("cli/a.py", "from rekindle.train.run import run", False),
    ],
)
def test_the_walk_sees_the_direction(file: str, text: str, wrong: bool) -> None:
    assert bool(wrong_way(Module(PACKAGE / file, text, ast.parse(text)))) == wrong
