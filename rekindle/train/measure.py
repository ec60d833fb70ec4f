"""A model measured by its name: the one evaluation of `rekindle eval`, `rekindle.api.evaluate` and comparisons."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from jaxtyping import Int
from torch import Tensor

from rekindle.errors import InputError, unknown
from rekindle.tokens.loader import Loaded, load_model
from rekindle.tokens.rollouts import Example, Rollouts
from rekindle.tokens.sampling.base import Samples, Sampling
from rekindle.tokens.sampling.local import LocalSampler
from rekindle.tokens.tasks import load_task
from rekindle.tokens.tasks.base import Task
from rekindle.tokens.tasks.files import load_files
from rekindle.tokens.verify import Verifier
from rekindle.train.evaluate import Evaluation, evaluate, spread
from rekindle.train.graded import profile_grading, task_grader
from rekindle.train.refusals import check_prompts
from rekindle.train.sections import Grading
from rekindle.train.settings import TASKS_OWN

KS = (1, 4, 16)
"""The k of pass@k and maj@k where none are given."""

Progress = Callable[[int, int], None]
"""Takes (prompts done, prompts in all)."""


@dataclass(frozen=True, kw_only=True)
class Measure:
    """How a model is measured: `prompts` of each split (None: all), `samples` each, k of `ks` (None: KS)."""

    prompts: int | None = None
    samples: int = 32
    ks: tuple[int, ...] | None = None
    seed: int = 0
    device: str = "cpu"
    dtype: str = "float32"
    system_prompt: str | None = TASKS_OWN
    chat_template: str | None = None
    thinking: bool | None = None
    grading: Grading | None = None
    """None: as the task's profile says."""
    option: str = "max_tokens"
    """What the caller's user knows the longest response by, for the error that names it."""


def evaluate_model(
    model: str | Path,
    task: Task,
    splits: Sequence[str],
    settings: Sampling,
    how: Measure,
    progress: Progress | None = None,
) -> dict[str, Evaluation]:
    """Split -> its evaluation by the model (a run folder, a model folder, a hub id or "embedded").

    The prompts are `how.prompts` labelled ones of each split, evenly spread. InputError before anything is loaded where
    a split is unknown or has no answers, and after loading where a prompt leaves no room in the model's context.
    """
    chosen = {split: chosen_examples(task, split, how.prompts) for split in splits}
    prompt = task.system_prompt if how.system_prompt == TASKS_OWN else how.system_prompt
    loaded = open_model(model, task, how.device, how.dtype, prompt, how.chat_template, how.thinking)
    for examples in chosen.values():
        check_prompts(loaded, examples, settings.max_tokens, how.option)
    local: Samples = LocalSampler(loaded.model, loaded.tokenizer, loaded.encode)
    sampler = local if progress is None else Counting(local, progress, sum(map(len, chosen.values())))
    ks = default_ks(how.samples) if how.ks is None else how.ks
    grader = task_grader(how.grading or profile_grading(task), task)
    with closing(Verifier(task, grader=grader)) as verifier:
        return {
            split: evaluate(sampler, verifier, examples, settings, samples=how.samples, ks=ks, seed=how.seed)
            for split, examples in chosen.items()
        }


def default_ks(samples: int) -> tuple[int, ...]:
    """Those of KS that `samples` samples a prompt allow."""
    return tuple(k for k in KS if k <= samples)


def load_source(task: str | None, data: str | Path | None) -> Task:
    """The task of the package ("reduce" where nothing is said), or of the user's file; InputError where both are given.

    The command line and the Python interface name them alike.
    """
    if task is not None and data is not None:
        raise InputError(f"task {task} and data {data} are both given: drop one")
    return load_files(data) if data is not None else load_task(task or "reduce")


def task_sampling(task: Task, max_tokens: int | None) -> Sampling:
    """Temperature 1 and top-p 1, with `max_tokens` or, where it is None, the task's longest response."""
    return Sampling(max_tokens=task.profile["rollout.max_tokens"] if max_tokens is None else max_tokens)


def chosen_examples(task: Task, split: str, prompts: int | None) -> list[Example]:
    """The examples of `split` that have an answer, `prompts` of them; InputError where there are none."""
    if split not in task.splits:
        raise unknown("split", split, task.splits)
    examples = [example for example in task.split(split) if example.answer is not None]
    if not examples:
        raise InputError(f"split '{split}' has no answers to grade against: add an 'answer' column to the data")
    return examples if prompts is None else spread(examples, prompts)


def model_folder(spec: str) -> str:
    """The model of a run folder; any other spec as it is. InputError for a run that is not finished."""
    path = Path(spec).expanduser()
    if not (path / "run.toml").is_file():
        return spec
    if not (path / "final").is_dir():
        raise InputError(f"the run in {spec} is not finished: go on with it (--resume), or name one of its checkpoints")
    return str(path / "final")


def open_model(
    spec: str | Path,
    task: Task,
    device: str,
    dtype: str,
    system_prompt: str | None,
    chat_template: str | None = None,
    thinking: bool | None = None,
) -> Loaded:
    """The model `spec`, or the base of an adapter with it, prompted with `system_prompt` where it has a chat template.

    chat_template, thinking: as the options of a run.
    """
    return load_model(
        model_folder(str(spec)),
        task_name=task.name,
        device=device,
        dtype=dtype,
        system_prompt=system_prompt,
        chat_template=chat_template,
        thinking=thinking,
    )


@dataclass
class Counting:
    """A sampler that tells `progress` how many of `total` prompts it has answered."""

    inner: Samples
    progress: Progress
    total: int
    done: int = 0

    def sample(
        self, examples: Sequence[Example], n: int, settings: Sampling, key: Int[Tensor, ""], first_group: int
    ) -> Rollouts:
        """As the inner sampler."""
        rollouts = self.inner.sample(examples, n, settings, key, first_group)
        self.done += len(examples)
        self.progress(self.done, self.total)
        return rollouts
