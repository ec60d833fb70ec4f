"""Programs in another sandbox than Rekindle's own: a container, a machine elsewhere. `grading.sandbox` names it.

A sandbox is a function (source, call, stdin, seconds) -> `Ran`, in the user's file or a module. It is called in a
grading worker, under that worker's deadline. `whole` writes a program that any Python 3 runs by itself, and `read`
reads what came back; nothing that tells right from wrong leaves the worker.
"""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from rekindle.errors import InputError
from rekindle.tokens.grading.sandbox import OUTPUT, Ran
from rekindle.tokens.plugins import load_object

FORM = "FILE.py:function or module:function"
_PROGRAM = Path(__file__).with_name("candidate") / "program.py"
_MAIN = """
def main(source, call, nonce):
    sys.dont_write_bytecode = True
    if call is None:
        load("__main__", source, {{}})
        return
    answer = os.dup(1)
    silent = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silent, 1)
    module = load("solution", source, {{}})
    names = methods(vars(module).get("Solution")) | vars(module)
    value = vars(load("call", "result = " + call + "\\n", names))["result"]
    write(answer, nonce, encoded(value, 0))


main(*json.loads({job!r}))
"""


@runtime_checkable
class Sandbox(Protocol):
    """Runs one program: as a script with `stdin`, where `call` is None, else loaded and asked for the value of `call`.

    It must end the program, and all that this started, after `seconds`, and let it reach nothing that matters.
    """

    def __call__(self, source: str, call: str | None, stdin: str, seconds: float) -> Ran:
        """How it ended. An exception says that the sandbox failed, not the program: the response is not graded."""
        ...


def whole(source: str, call: str | None, nonce: str) -> str:
    """A program that does what is asked by itself, in a writable folder: `source` as a script, or loaded, `call` made,
    and [nonce, value] written to standard output as JSON, which what the program itself prints does not reach."""
    job = json.dumps([source, call, nonce])
    return _PROGRAM.read_text(encoding="utf-8") + _MAIN.format(job=job)


def read(status: str, output: str, call: str | None, nonce: str) -> Ran:
    """What a run of `whole` printed, as a `Ran`. status: as there."""
    if len(output) > OUTPUT:
        return Ran("output")
    if call is None:
        return Ran(status, output)
    try:
        found = json.loads(output)
    except (ValueError, RecursionError):
        return Ran(status)
    good = isinstance(found, list) and len(found) == 2 and found[0] == nonce
    return Ran(status, value=found[1], answered=True) if good else Ran(status)


@lru_cache(maxsize=4)
def load_sandbox(spec: str) -> Sandbox:
    """The sandbox `FILE.py:function` or `module:function`; InputError naming what is wrong."""
    try:
        return load_object(spec)
    except InputError as error:
        raise InputError(f"grading.sandbox={spec}: {error} (it names {FORM})") from error


def run_elsewhere(spec: str, source: str, call: str | None, stdin: str, seconds: float) -> Ran:
    """One program in the sandbox `spec`. RuntimeError where that gives no `Ran`: the grader failed, not the program."""
    ran: Any = load_sandbox(spec)(source, call, stdin, seconds)
    if not isinstance(ran, Ran):
        raise RuntimeError(f"grading.sandbox={spec} gave a {type(ran).__name__}: return a Ran of {Ran.__module__}")
    return ran
