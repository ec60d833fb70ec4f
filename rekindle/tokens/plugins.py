"""Functions from the user's own Python files, by `FILE.py:function`, and from modules, by `package.module:function`."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import traceback
import zlib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from rekindle.errors import InputError, nearest


def load_function(spec: str) -> Callable[..., Any]:
    """The function that `FILE.py:function` names; the file is run once, with its own folder importable.

    InputError: a spec of another form, a missing file, an error while the file runs (file and line), no such function
    (the nearest names), or something that cannot be called.
    """
    head, name = _parts(spec)
    return _callable(head, name, _member(head, name, _run(_path(head, spec))))


def load_object(spec: str, opened: dict[str, ModuleType] | None = None) -> Callable[..., Any]:
    """What `FILE.py:name` or `package.module:name` names: a function, a partial, a class or an object to call.

    opened: files that were run already, and where this one is noted: two functions of a file then share its globals.
    A module is imported as Python imports it. InputError as `load_function`.
    """
    head, name = _parts(spec)
    return _callable(head, name, load_value(spec, opened))


def load_value(spec: str, opened: dict[str, ModuleType] | None = None) -> Any:
    """What `FILE.py:name` or `package.module:name` names, whatever it is. As `load_object` otherwise."""
    head, name = _parts(spec)
    there = {} if opened is None else opened
    if head not in there:
        there[head] = _imported(head, name) if is_module(head) else _run(_path(head, spec))
    return _member(head, name, there[head])


def _imported(head: str, name: str) -> ModuleType:
    try:
        return importlib.import_module(head)
    except (Exception, SystemExit) as error:
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        what = f"{type(error).__name__}: {' '.join(str(error).split())}"
        if missing is not None and f"{head}.".startswith(f"{missing}."):
            what = f"no module '{missing}'"
        raise InputError(f"{head}: {what}: install it, or name a file as FILE.py:{name}") from error


def is_module(head: str) -> bool:
    """Whether `head` is the dotted name of a module rather than a path: `a.b`, but not `a.py`, `./a` or a file."""
    dotted = all(part.isidentifier() for part in head.split("."))
    return dotted and not head.endswith(".py") and not Path(head).is_file()


def file_of(head: str) -> str | None:
    """The file behind the part of a spec before the colon: a path as it is, a module's source; None where it has none.

    Only the packages above a module are imported for it.
    """
    if not is_module(head):
        return head
    try:
        spec = importlib.util.find_spec(head)
    except (ImportError, ValueError):
        return None
    return spec.origin if spec is not None and spec.has_location else None


def _parts(spec: str) -> tuple[str, str]:
    head, _, name = spec.rpartition(":")
    if not head or not name:
        raise InputError(f"'{spec}' is not of the form FILE.py:function")
    return head, name


def _path(head: str, spec: str) -> Path:
    path = Path(head).expanduser()
    if not path.is_file():
        raise InputError(f"{head}: no such file: check the path in '{spec}'")
    return path


def _member(head: str, name: str, module: ModuleType) -> Any:
    members = vars(module)
    if name not in members:
        functions = [key for key, value in members.items() if callable(value) and not key.startswith("_")]
        remedy = nearest(name, functions) if functions else "define it there"
        raise InputError(f"{head}: no function '{name}' in it: {remedy}")
    return members[name]


def _callable(head: str, name: str, found: Any) -> Callable[..., Any]:
    if not callable(found):
        raise InputError(f"{head}: '{name}' is not a function: name one that can be called")
    return found


def _run(path: Path) -> ModuleType:
    # Registered in sys.modules, since dataclasses and pickle look a class's module up there.
    where = path.resolve()
    name = f"rekindle_user_{where.stem.replace('-', '_')}_{zlib.crc32(str(where).encode('utf-8', 'surrogatepass')):08x}"
    spec = importlib.util.spec_from_file_location(name, where)
    if spec is None or spec.loader is None:
        raise InputError(f"{path}: not a Python file: name one that ends in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    sys.path.insert(0, str(where.parent))
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        what = f"{type(error).__name__}: {error}"
        raise InputError(f"{path}, line {_line(error, where)}: {what}: fix the file") from error
    finally:
        sys.path.remove(str(where.parent))
    return module


def _line(error: BaseException, path: Path) -> int:
    if isinstance(error, SyntaxError) and error.filename == str(path):
        return error.lineno or 1
    frames = traceback.extract_tb(error.__traceback__)
    return next((frame.lineno or 1 for frame in reversed(frames) if frame.filename == str(path)), 1)
