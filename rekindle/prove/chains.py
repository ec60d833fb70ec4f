"""The bed `chains`: sums modulo 10, one term at a time, by a tiny model that learnt to write the running sums down.

The small experiment for soft thinking (SofT-GRPO, Zheng et al., arXiv 2511.06411): four thinking steps, an end marker,
then the answer, a digit. The model is trained on the spot; its steps are right about six times in seven.
"""

from __future__ import annotations

import atexit
import functools
import itertools
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from types import MappingProxyType
from typing import Any

from rekindle.tokens.rollouts import Example
from rekindle.tokens.tasks.base import Derivation

CHAINS = "chains"
TERMS, END, WRONG = 5, ">", 0.15
"""Terms of a sum; what ends thinking; how often a written step of the warm start is a random digit."""
RECIPE: Mapping[str, Any] = MappingProxyType(
    {"steps": 450, "batch": 128, "lr": 4e-3, "seed": 0, "hidden": 64, "layers": 2, "heads": 2, "kv_heads": 2}
)
OPTIONS: Mapping[str, Any] = MappingProxyType(
    {
        "steps": 100,
        "rollout.prompts": 8,
        "rollout.group": 16,
        "rollout.max_tokens": TERMS + 2,
        "descent.lr": 2e-4,
        "descent.minibatches": 2,
        "evaluate.every": 0,
        "empty_steps": 0,
    }
)
PROMPTS, SAMPLES = 60, 16


@dataclass(eq=False)
class Chains:
    """Prompts such as `3+4+8+1+6=`; the warm start writes `7562>2`. The answer is what stands behind the marker."""

    name: str = "chains"
    version: int = 1
    profile: Mapping[str, Any] = field(default_factory=lambda: {"rollout.max_tokens": TERMS + 2})
    system_prompt: str | None = None
    splits: tuple[str, ...] = ("train", "heldout", "ood")
    ways: tuple[str, ...] = ()
    step_delimiters: tuple[str, ...] = ("\n",)

    def split(self, name: str) -> Sequence[Example]:
        """200 sums of "train", 60 others of "heldout" and of "ood" (no harder); ValueError for another name."""
        if name not in self.splits:
            raise ValueError(f"the bed 'chains' has no split '{name}': there are {', '.join(self.splits)}")
        rng = Random(f"chains/{name}")
        rows = [[rng.randrange(10) for _ in range(TERMS)] for _ in range(200 if name == "train" else PROMPTS)]
        return [Example(f"{name}-{i}", prompt(row), str(sum(row) % 10)) for i, row in enumerate(rows)]

    def warm_examples(self, seed: int) -> Iterator[tuple[str, str]]:
        """Endless (prompt, response) pairs; a step that is wrong is gone on from."""
        rng = Random(f"chains/warm/{seed}")
        for _ in itertools.count():
            row = [rng.randrange(10) for _ in range(TERMS)]
            said, total = [], row[0]
            for term in row[1:]:
                total = rng.randrange(10) if rng.random() < WRONG else (total + term) % 10
                said.append(str(total))
            yield prompt(row), f"{''.join(said)}{END}{said[-1]}"

    def extract(self, text: str) -> str | None:
        """What stands behind the marker; None where there is none."""
        return text.partition(END)[2] or None

    def grade(self, answer: str | None, reference: str | None) -> bool | None:
        """Equality."""
        return None if reference is None else answer == reference

    def well_formed(self, text: str) -> bool:
        """Whether a digit stands behind the marker."""
        return (self.extract(text) or "").isdigit()

    def steps(self, text: str) -> str:
        """What stands before the marker."""
        return text.partition(END)[0]

    def derivation(self, example: Example, text: str) -> Derivation | None:
        """None: soft steps show no more than their heaviest tokens."""
        return None


def prompt(terms: Sequence[int]) -> str:
    """The sum as text."""
    return "+".join(map(str, terms)) + "="


@functools.cache
def start_model() -> Path:
    """The folder of the model that all runs begin with, trained once a process; it goes when the process ends."""
    from rekindle.tokens.warm import warm

    folder = Path(tempfile.mkdtemp(prefix="rekindle-chains-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    warm(Chains(), folder / "model", threads=1, prompts=1, **RECIPE)
    return folder / "model"


def run_chains(
    bed_options: Mapping[str, Any], method: str, options: Mapping[str, Any], seed: int, train: bool
) -> dict[str, float]:
    """Train and evaluate by the sampling that the method trains with; metric -> mean over held-out prompts.

    bed_options: any dotted option of a run, for both arms. Metrics of training come as `train/NAME`.
    """
    from rekindle.core.types import mean_metrics
    from rekindle.train.build import make_run
    from rekindle.train.config import resolve
    from rekindle.train.evaluate import evaluate, evaluation_sampling
    from rekindle.train.find import find_method, make_method
    from rekindle.train.ruled import evaluated_by

    task, found = Chains(), find_method(method)
    flags = {**OPTIONS, **bed_options, **options, "model": str(start_model()), "seed": seed}
    how = {"essence": found.essence, "profile": {}, "toml": None, "sets": (), "flags": flags}
    run = make_run(resolve(found.name, make_method(found), **how), task)
    logged: dict[str, list[float]] = {}
    while train and run.step_index < run.resolved.config.steps:
        for name, value in mean_metrics(run.record.step(run)).items():
            logged.setdefault(f"train/{name}", []).append(value)
        run.step_index, run.last_rollouts = run.step_index + 1, []
    run.fresh()
    settings, ks = evaluation_sampling(run.resolved), (1, 4, SAMPLES)
    asked = {"samples": SAMPLES, "ks": ks, "seed": seed}
    seen = evaluate(evaluated_by(run), run.verifier, task.split("heldout"), settings, **asked)
    return {**seen.mean, **{name: sum(values) / len(values) for name, values in logged.items()}}
