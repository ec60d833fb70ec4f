"""`eval`: what a model does on a split of a task, with standard errors."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rekindle.cli.common import print_json, print_table
from rekindle.errors import InputError, unknown

if TYPE_CHECKING:
    from rekindle.tokens.loader import Loaded
    from rekindle.tokens.rollouts import Example, Rollouts
    from rekindle.tokens.sampling.base import Sampler, Sampling
    from rekindle.tokens.tasks.base import Task
    from rekindle.train.evaluate import Evaluation

KS = (1, 4, 16)

Model = Annotated[str, typer.Argument(help="a run folder, a model folder, a hub id, or 'embedded'")]
TaskName = Annotated[str | None, typer.Option(help="a task of the package: reduce (default), digit_sum")]
Data = Annotated[str | None, typer.Option(help="a JSONL or parquet file with 'prompt' and 'answer'")]
Split = Annotated[str | None, typer.Option(help="heldout (default) or ood; of a --data file, all rows")]
Samples = Annotated[int, typer.Option("-n", min=1, help="responses a prompt")]
Ks = Annotated[list[int] | None, typer.Option("-k", min=1, help="k of pass@k and maj@k, repeatable (default 1 4 16)")]
Prompts = Annotated[int | None, typer.Option(min=1, help="prompts to take, evenly spread (default: all)")]
Seed = Annotated[int, typer.Option(min=0, help="seed of the samples")]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1, mps or auto")]
Dtype = Annotated[str, typer.Option(help="float32, bfloat16 or float64")]
MaxTokens = Annotated[int | None, typer.Option(min=1, help="longest response (default: the task's, or 256)")]
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
    json: Json = False,
) -> None:
    """Measure a model at temperature 1 and top-p 1: pass@k, maj@k, entropy, distinct derivations."""
    ks = checked_ks(k, n)
    chosen = load(task, data)
    examples = chosen_examples(chosen, split, prompts)
    limit = max_tokens or chosen.profile["rollout.max_tokens"]
    found = measure(model, chosen, examples, n=n, ks=ks, seed=seed, place=(device, dtype), limit=limit)
    if json:
        print_json(dict(found.mean))
        return
    rows = [(name, f"{value:.4f}", error_text(found.error[name])) for name, value in found.mean.items()]
    print_table(("metric", "value", "standard error"), rows)
    print(f"{found.prompts} prompts, {found.samples} samples each")


def checked_ks(k: Sequence[int] | None, n: int) -> tuple[int, ...]:
    """The k that are measured; InputError for one that is above `n`."""
    wanted = tuple(sorted(set(k or [k for k in KS if k <= n])))
    if wanted[-1] > n:
        raise InputError(f"-k {wanted[-1]} needs as many samples a prompt, and -n is {n}: give -n {wanted[-1]} or more")
    return wanted


def load(task: str | None, data: str | None) -> Task:
    """The task of the package, or of the user's file."""
    from rekindle.tokens.tasks import load_task
    from rekindle.tokens.tasks.files import load_files

    if task is not None and data is not None:
        raise InputError(f"--task {task} and --data {data} are both given: drop one")
    return load_files(data) if data is not None else load_task(task or "reduce")


def chosen_examples(task: Task, split: str | None, prompts: int | None) -> list[Example]:
    """The examples of `split` that have an answer, `prompts` of them; InputError where there are none."""
    from rekindle.train.run import evaluated_split
    from rekindle.train.worker import spread

    name = split or evaluated_split(task)
    if name not in task.splits:
        raise unknown("split", name, task.splits)
    examples = [example for example in task.split(name) if example.answer is not None]
    if not examples:
        raise InputError(f"split '{name}' has no answers to grade against: add an 'answer' column to the data")
    return spread(examples, prompts or len(examples))


def model_folder(spec: str) -> str:
    """The model of a run folder; any other spec as it is. InputError for a run that is not finished."""
    path = Path(spec).expanduser()
    if not (path / "run.toml").is_file():
        return spec
    if not (path / "final").is_dir():
        raise InputError(f"the run in {spec} is not finished: go on with it (--resume), or name one of its checkpoints")
    return str(path / "final")


def measure(
    spec: str,
    task: Task,
    examples: Sequence[Example],
    *,
    n: int,
    ks: Sequence[int],
    seed: int,
    place: tuple[str, str],
    limit: int,
) -> Evaluation:
    """The evaluation of the model `spec` on (device, dtype) `place`; progress goes to stderr where it is a terminal."""
    from rekindle.tokens.sampling.base import Sampling
    from rekindle.tokens.sampling.local import LocalSampler
    from rekindle.tokens.verify import Verifier
    from rekindle.train.evaluate import evaluate as evaluated
    from rekindle.train.run import check_prompts

    loaded = opened(spec, task, place)
    check_prompts(loaded, examples, limit, "--max-tokens")
    settings = Sampling(max_tokens=limit)
    local = LocalSampler(loaded.model, loaded.tokenizer, loaded.encode)
    with counting(local, len(examples)) as sampler:
        return evaluated(sampler, Verifier(task), examples, settings, samples=n, ks=ks, seed=seed)


def opened(spec: str, task: Task, place: tuple[str, str]) -> Loaded:
    """The model `spec` as the task prompts it."""
    from rekindle.tokens.loader import load_model

    folder = model_folder(spec)
    return load_model(folder, task_name=task.name, device=place[0], dtype=place[1], system_prompt=task.system_prompt)


@dataclass(frozen=True)
class Counting:
    """A sampler that tells `done` how many prompts it has answered."""

    inner: Sampler
    done: Any

    def sample(self, examples: Sequence[Example], n: int, settings: Sampling, key: Any, first_group: int) -> Rollouts:
        """As the inner sampler."""
        rollouts = self.inner.sample(examples, n, settings, key, first_group)
        self.done(len(examples))
        return rollouts


@contextmanager
def counting(sampler: Sampler, prompts: int) -> Iterator[Sampler]:
    """The sampler with a progress bar on stderr, or as it is where stderr is no terminal."""
    if not sys.stderr.isatty():
        yield sampler
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("prompts", total=prompts)
        yield Counting(sampler, lambda count: bar.advance(task, count))


def error_text(value: float) -> str:
    """A standard error; `-` where one prompt gives none."""
    return f"{value:.4f}" if value == value else "-"
