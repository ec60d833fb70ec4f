"""`explain`: a method or a run in the words of TRL or verl; `import-config`: their configuration as a run.toml."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rekindle.cli.common import print_json, say

if TYPE_CHECKING:
    from rekindle.train.config import Resolved

Target = Annotated[str, typer.Argument(help="a method (evol_rl, A+B, FILE.py:function) or a run's folder")]
As = Annotated[str, typer.Option("--as", help="trl or verl", metavar="TRAINER")]
Sets = Annotated[list[str] | None, typer.Option("--set", help="any option, repeatable", metavar="PATH=VALUE")]
Json = Annotated[bool, typer.Option("--json", help="print flags, lacks and differences as JSON")]

File = Annotated[str, typer.Argument(help="a YAML or JSON file, or a script with a.b=c in it")]
From = Annotated[str, typer.Option("--from", help="trl or verl", metavar="TRAINER")]
Out = Annotated[str, typer.Option(help="the run.toml to write", metavar="run.toml")]


def explain(target: Target, rival: As, sets: Sets = None, json: Json = False) -> None:
    """Say a method, or a run, in the flags of another trainer, and what these do not say."""
    from rekindle.interop.explain.answer import as_json
    from rekindle.interop.explain.answer import explain as answered
    from rekindle.interop.explain.text import text

    resolved = resolved_of(target, sets or [])
    answer = answered(resolved, rival)
    for note in resolved.notes:
        say(f"note: {note}")
    if json:
        print_json(as_json(answer))
    else:
        print(text(answer))


def resolved_of(target: str, sets: list[str]) -> Resolved:
    """A run's folder (or its run.toml) as it was resolved, or a method with its own numbers and no task's profile.

    InputError for a path at which there is neither, and for a method that there is not.
    """
    from rekindle.errors import InputError
    from rekindle.train.config import resolve
    from rekindle.train.find import find_method, make_method
    from rekindle.train.folder import Folder
    from rekindle.train.runfile import read

    path, toml, name = Path(target).expanduser(), None, target
    if path.is_dir() or path.suffix == ".toml":
        file = Folder(path).config if path.is_dir() else path
        toml = read(file)
        if not isinstance(toml.get("method"), str):
            raise InputError(f"{file} names no method: give a run.toml that says method = NAME")
        name = toml["method"]
    elif ":" not in target and not target.endswith(".py") and ("/" in target or target.startswith("~")):
        raise InputError(f"'{target}' is no folder: give a run's folder or its run.toml, or a method")
    found = find_method(name)
    return resolve(found.name, make_method(found), essence=found.essence, toml=toml, sets=sets)


def import_config(file: File, rival: From, out: Out) -> None:
    """Write another trainer's configuration as a run.toml, and say what was not understood."""
    from rekindle.errors import InputError
    from rekindle.interop.explain.written import imported
    from rekindle.train.durable import write_text

    found = imported(file, rival)
    path = Path(out).expanduser()
    if path.exists():
        raise InputError(f"{path} is there already: give another --out, or move it away")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, found.text)
    except OSError as error:
        raise InputError(f"cannot write {path} ({error.strerror}): give an --out that you can write to") from error
    print("\n".join(found.notes))
    print(f"wrote {path}: rekindle train {found.method} --config {path}")
