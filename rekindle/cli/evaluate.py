"""`eval`: what a model does on a split of a task, with standard errors."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rekindle.cli.common import print_json, print_table, say
from rekindle.errors import InputError

if TYPE_CHECKING:
    from rekindle.train.evaluate import Evaluation

Model = Annotated[str, typer.Argument(help="a run folder, a model folder, a hub id, or 'embedded'")]
TaskName = Annotated[str | None, typer.Option(help="a task: reduce (default), digit_sum, rg:NAME of reasoning-gym")]
Data = Annotated[str | None, typer.Option(help="a JSONL or parquet file with answers, a data set folder or hub id")]
Split = Annotated[str | None, typer.Option(help="heldout (default) or ood; of a --data file, all rows")]
Samples = Annotated[int, typer.Option("-n", min=1, help="responses a prompt")]
Ks = Annotated[list[int] | None, typer.Option("-k", min=1, help="k of pass@k and maj@k, repeatable (default 1 4 16)")]
Prompts = Annotated[int | None, typer.Option(min=1, help="prompts to take, evenly spread (default: all)")]
Seed = Annotated[int, typer.Option(min=0, help="seed of the samples")]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1 or auto")]
Dtype = Annotated[str, typer.Option(help="float32, bfloat16 or float64")]
MaxTokens = Annotated[int | None, typer.Option(min=1, help="longest response (default: the task's, or 256)")]
Grade = Annotated[str | None, typer.Option(help="exact, math, choice, json or code (default: as the data's layout)")]
Extract = Annotated[str | None, typer.Option(help="boxed, hash, last_number, choice, whole or any")]
Sandbox = Annotated[str | None, typer.Option(help="runs programs elsewhere", metavar="FILE.py:function")]
Unsafe = Annotated[bool, typer.Option("--unsafe-sandbox", help="--grade code even where a program could read files")]
Keep = Annotated[str | None, typer.Option(help="a run whose report shows this: as its start, or of RUN itself as now")]
Json = Annotated[bool, typer.Option("--json", help="print {METRIC: number}")]


def evaluate(
    model: Model,
    task: TaskName = None,
    data: Data = None,
    split: Split = None,
    n: Samples = 32,
    k: Ks = None,
    prompts: Prompts = None,
    seed: Seed = 0,
    device: Device = "cpu",
    dtype: Dtype = "float32",
    max_tokens: MaxTokens = None,
    grade: Grade = None,
    extract: Extract = None,
    sandbox: Sandbox = None,
    unsafe_sandbox: Unsafe = False,
    keep: Keep = None,
    json: Json = False,
) -> None:
    """Measure a model at temperature 1 and top-p 1: pass@k, maj@k, entropy, distinct derivations."""
    from rekindle.train.counts import prompts_of, shelf_of, write_counts
    from rekindle.train.measure import load_source
    from rekindle.train.refusals import evaluated_split

    ks = checked_ks(k, n)
    if keep is not None and task is None and data is None:
        task, data = prompts_of(Path(keep).expanduser())
    kept = None if keep is None else shelf_of(Path(keep).expanduser(), model, task, data)
    found = measure(
        model,
        source=(task, data),
        split=split,
        prompts=prompts,
        n=n,
        ks=ks,
        seed=seed,
        place=(device, dtype),
        max_tokens=max_tokens,
        grading=(grade, extract),
        programs=(sandbox, unsafe_sandbox),
    )
    if kept is not None:
        name = split or evaluated_split(load_source(task, data))
        say(f"kept for the report: {write_counts(kept[0], kept[1], name, found)}")
    if json:
        print_json(dict(found.mean))
        return
    rows = [(name, f"{value:.4f}", error_text(found.error[name])) for name, value in found.mean.items()]
    print_table(("metric", "value", "standard error"), rows)
    if "invalid_right" in found.mean:
        print("invalid_right: share of right answers with an invalid step, over the prompts that have a right answer")
    print(f"{found.prompts} prompts, {found.samples} samples each")


def checked_ks(k: Sequence[int] | None, n: int) -> tuple[int, ...]:
    """The k that are measured; InputError for one that is above `n`."""
    from rekindle.train.measure import default_ks

    wanted = tuple(sorted(set(k or default_ks(n))))
    if wanted[-1] > n:
        raise InputError(f"-k {wanted[-1]} needs as many samples a prompt, and -n is {n}: give -n {wanted[-1]} or more")
    return wanted


def measure(
    spec: str,
    *,
    source: tuple[str | None, str | None],
    split: str | None,
    prompts: int | None,
    n: int,
    ks: tuple[int, ...],
    seed: int,
    place: tuple[str, str],
    max_tokens: int | None,
    grading: tuple[str | None, str | None] = (None, None),
    programs: tuple[str | None, bool] = (None, False),
) -> Evaluation:
    """The evaluation of the model `spec` on the (task, data) `source` and the (device, dtype) `place`.

    grading: (how answers are compared, where they stand), None as the data's layout says. programs: (the sandbox that
    runs them, whether an unsafe one is allowed).
    """
    from rekindle.tokens.grading.programs import Programs
    from rekindle.train.graded import profile_grading
    from rekindle.train.measure import Measure, evaluate_model, load_source, task_sampling
    from rekindle.train.refusals import evaluated_split

    task = load_source(*source)
    name = split or evaluated_split(task)
    how = Measure(
        prompts=prompts,
        samples=n,
        ks=ks,
        seed=seed,
        device=place[0],
        dtype=place[1],
        grading=profile_grading(task, *grading, Programs(programs[0] or "", programs[1])),
        option="--max-tokens",
    )
    if programs[1]:
        say("note: PROGRAMS OF THE MODEL MAY RUN UNSAFELY (--unsafe-sandbox): rekindle doctor says what they reach")
    with counting() as progress:
        return evaluate_model(spec, task, (name,), task_sampling(task, max_tokens), how, progress)[name]


@contextmanager
def counting() -> Iterator[Callable[[int, int], None] | None]:
    """A progress bar on stderr, None where stderr is no terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("prompts", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def error_text(value: float) -> str:
    """A standard error; `-` where one prompt gives none."""
    return f"{value:.4f}" if value == value else "-"
