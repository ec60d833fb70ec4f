"""`report` and `watch`: a run as one page, once it is over or while it goes on."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rekindle.cli.common import say
from rekindle.errors import InputError

if TYPE_CHECKING:
    from rekindle.report.recording import Recording


class Origin(StrEnum):
    """Whose rollouts a folder holds."""

    trl = "trl"
    verl = "verl"


Runs = Annotated[list[str], typer.Argument(help="run folders, or the folder of a comparison", metavar="RUN...")]
From = Annotated[Origin | None, typer.Option("--from", help="the folders are another trainer's: trl or verl")]
Out = Annotated[str | None, typer.Option(help="the file (default: RUN/report.html, of several ./report.html)")]
Port = Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one")]
MEGABYTE = 1_000_000


def report(runs: Runs, origin: From = None, out: Out = None) -> None:
    """Write one self-contained HTML page of runs: what they gained, what they lost, and every token of why."""
    from rekindle.report.page.build import document, page
    from rekindle.train.durable import write_text

    found = opened(runs, origin)
    folder = Path(runs[0]).expanduser()
    file = Path(out).expanduser() if out else (folder if len(runs) == 1 and folder.is_dir() else Path()) / "report.html"
    if file.is_dir():
        raise InputError(f"--out {file} is a folder: give the name of a file in it")
    text = page(document(found))
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_text(file, text)
    except OSError as error:
        raise InputError(f"cannot write {file} ({error.strerror}): give an --out that you can write to") from error
    print(f"report: {file} ({len(text.encode()) / MEGABYTE:.1f} MB, {len(found)} run{'s' * (len(found) > 1)})")


def watch(runs: Runs, port: Port = 8765) -> None:
    """Serve the page of runs on this machine, and keep it up to date while they go on. Ctrl-C ends it."""
    from rekindle.report.page.live import serve

    opened(runs, None)  # what is wrong is told here, not in a browser
    try:
        server = serve(lambda: opened(runs, None), port)
    except OSError as error:
        raise InputError(f"--port {port} cannot be had ({error.strerror}): give another one, or 0") from error
    print(f"watching on http://127.0.0.1:{server.server_address[1]}/ (Ctrl-C ends it)")
    sys.stdout.flush()
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        say("watch ended")
    finally:
        server.server_close()


def opened(runs: Sequence[str], origin: Origin | None) -> list[Recording]:
    """All runs of the folders, each once."""
    from rekindle.report.recording import recordings

    folders = [Path(run).expanduser() for run in runs]
    twice = next((str(f) for i, f in enumerate(folders) if f.resolve() in [g.resolve() for g in folders[:i]]), None)
    if twice is not None:
        raise InputError(f"'{twice}' is given twice: name each run once")
    if origin is None:
        return [run for folder in folders for run in recordings(folder)]
    return [foreign(folder, origin) for folder in folders]


def foreign(folder: Path, origin: Origin) -> Recording:
    """The run of another trainer in a folder."""
    from rekindle.report.recording import of_tables

    if origin is Origin.trl:
        from rekindle.interop.trl.dumps import read_dump
    else:
        from rekindle.interop.verl.dumps import read_dump
    found = read_dump(folder)
    return of_tables(folder, "TRL" if origin is Origin.trl else "verl", found.steps, found.tables, found.config)
