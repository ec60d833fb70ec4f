"""The command line. Nothing heavy is imported here: `rekindle --help` answers at once."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from rekindle.cli import (
    analysis,
    compare,
    data,
    doctor,
    draft,
    evaluate,
    explain,
    export,
    prove,
    report,
    sample,
    serve,
    shelf,
    train,
    travel,
    warm,
)
from rekindle.cli.common import run_safely
from rekindle.cli.common import version as installed

app = typer.Typer(
    name="rekindle",
    help="Reinforcement learning of language models that keeps exploring.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _version(asked: bool | None) -> None:
    if asked:
        print(f"rekindle {installed()}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool | None, typer.Option("--version", callback=_version, is_eager=True, help="print the version")
    ] = None,
) -> None:
    """Reinforcement learning of language models that keeps exploring."""


app.command("train")(train.train)
app.command("eval")(evaluate.evaluate)
app.command("compare")(compare.compare)
app.add_typer(data.app, name="data")
app.command("sample")(sample.sample)
app.add_typer(draft.app, name="draft")
app.command("export")(export.export)
app.command("warm")(warm.warm)
app.command("methods")(shelf.methods)
app.command("show")(shelf.show)
app.command("diff")(shelf.diff)
app.command("explain")(explain.explain)
app.command("import-config")(explain.import_config)
app.command("prove")(prove.prove)
app.command("serve")(serve.serve)
app.command("doctor")(doctor.doctor)
app.command("forecast")(analysis.forecast)
app.command("subnet")(analysis.subnet)
app.command("pick-examples")(analysis.pick_examples)
app.command("replay")(travel.replay)
app.command("bisect")(travel.bisect)
app.command("report")(report.report)
app.command("watch")(report.watch)


def main(argv: Sequence[str] | None = None) -> None:
    """The entry point of the command `rekindle`."""
    code = run_safely(app, argv)
    if os.environ.get("WORLD_SIZE", "1") != "1":
        leave(code)
    sys.exit(code)


def leave(code: int) -> None:
    """End a process that was one of several ranks, at once.

    Threads of torch outlive the process group where weights are shared (`shard=full`), and now and then abort the
    process where the interpreter is taken down around them: a run that is finished would look killed.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
