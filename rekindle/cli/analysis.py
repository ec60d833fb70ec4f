"""`forecast`, `subnet` and `pick-examples`: what a finished or a running run shows. They change no run."""

from __future__ import annotations

import importlib.resources
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rekindle.cli import analysis_text as text
from rekindle.cli.common import print_json
from rekindle.errors import InputError

if TYPE_CHECKING:
    from rekindle.report.origin import Origin

Run = Annotated[str, typer.Argument(help="a run folder")]
Events = Annotated[str, typer.Argument(help="a run folder, or an events.jsonl", metavar="RUN")]
First = Annotated[float | None, typer.Option(help="fit this share of the steps and predict the rest", metavar="SHARE")]
Json = Annotated[bool, typer.Option("--json", help="print an object")]
Base = Annotated[str, typer.Argument(help="the model before training: a folder, or 'embedded' for a run from it")]
Tuned = Annotated[str, typer.Argument(help="the model after training: a run folder or a model folder")]
Other = Annotated[str | None, typer.Option(help="another model from BASE: how far do the updates overlap?")]
Atol = Annotated[float, typer.Option(min=0.0, help="a change up to this counts as none")]
Ranks = Annotated[bool, typer.Option("--rank/--no-rank", help="singular values; slow for large matrices")]
Top = Annotated[int, typer.Option(min=1, help="prompts to print")]

VOTED = "the run is label-free: its successes are by its own label (the vote, for one), not by the truth"


def forecast(run: Events, first: First = None, json: Json = False) -> None:
    """Fit R = -a e^H + b and the decay of entropy to a run so far: the ceiling, and when entropy is spent."""
    from rekindle.report.forecast import forecast as fit
    from rekindle.report.origin import saved_options
    from rekindle.train.events import read_events

    path = Path(run).expanduser()
    events = path / "events.jsonl" if path.is_dir() else path
    found = fit(read_events(events), saved_options(events.parent), first)
    if json:
        print_json(text.forecast_fields(found))
    else:
        text.print_forecast(found)


def subnet(
    base: Base, tuned: Tuned, other: Other = None, atol: Atol = 1e-5, ranks: Ranks = True, json: Json = False
) -> None:
    """Measure what training changed: sparsity, rank and overlap of the update, in bf16 and in fp32."""
    from rekindle.report.origin import origin, tuned_folder
    from rekindle.report.subnet import measure
    from rekindle.report.weights import Weights

    paths = [tuned_folder(Path(spec).expanduser()) for spec in (tuned, *([other] if other else []))]
    origins = [origin(path) for path in paths]
    with ExitStack() as stack:
        first, *rest = (stack.enter_context(Weights(path)) for path in (base_folder(base, origins[0]), *paths))
        found = measure(first, rest[0], rest[1] if other else None, atol=atol, ranks=ranks)
    if json:
        print_json(text.subnet_fields(found, origins, atol))
    else:
        text.print_subnet(found, origins, atol)


def base_folder(spec: str, source: Origin | None) -> Path:
    """The folder of BASE; 'embedded' is the packaged model of the task that TUNED's run was trained on."""
    from rekindle.report.origin import tuned_folder

    if spec != "embedded":
        return tuned_folder(Path(spec).expanduser())
    if source is None or source.task is None:
        raise InputError("BASE 'embedded' needs a TUNED from a run on a task of the package: give BASE as a folder")
    return Path(str(importlib.resources.files("rekindle"))) / "assets" / source.task


def pick_examples(run: Run, top: Top = 10, json: Json = False) -> None:
    """Rank the prompts of a run by the variance of their success share over its visits, for `train --one-shot ID`."""
    from rekindle.report.examples import flat, rank, read_history
    from rekindle.report.origin import saved_options
    from rekindle.report.series import label_free

    read = read_history(Path(run).expanduser())
    ranked = rank(read.history)
    same = flat(ranked)
    notes = [VOTED] if label_free(saved_options(Path(run).expanduser())) else []
    if json:
        rows = [text.ranked_fields(row) for row in ranked[:top]]
        counts = {"prompts": len(ranked), "never_varied": vars(same)}
        print_json({"source": read.source, **counts, "ranked": rows, "notes": notes})
        return
    text.print_ranked(ranked, top)
    print(f"{len(ranked)} prompts visited, from {read.source}")
    print(
        f"{same.prompts} never varied ({same.never} never solved, {same.always} always, {same.once} visited once): "
        "their order is arbitrary"
    )
    for note in notes:
        print(f"note: {note}")
