"""Functions from the user's own Python files, by `FILE.py:function`."""

from __future__ import annotations

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
    head, _, name = spec.rpartition(":")
    if not head or not name:
        raise InputError(f"'{spec}' is not of the form FILE.py:function")
    path = Path(head).expanduser()
    if not path.is_file():
        raise InputError(f"{head}: no such file: check the path in '{spec}'")
    members = vars(_run(path))
    functions = [key for key, value in members.items() if callable(value) and not key.startswith("_")]
    if name not in members:
        raise InputError(f"{head}: no function '{name}' in it: {nearest(name, functions)}")
    if not callable(members[name]):
        raise InputError(f"{head}: '{name}' is not a function: {nearest(name, functions)}")
    return members[name]


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
