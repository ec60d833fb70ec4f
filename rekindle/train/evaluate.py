"""Evaluation: many samples a prompt at temperature 1, top-p 1, and what they show with standard errors over prompts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np

from rekindle.core.random import pack_key
from rekindle.errors import InputError
from rekindle.tokens.grading.base import Grade
from rekindle.tokens.rollouts import Example, Rollouts
from rekindle.tokens.sampling.base import Samples, Sampling
from rekindle.tokens.verify import Verifier
from rekindle.train.config import Resolved
from rekindle.train.estimators import maj_at_k, pass_at_k, standard_error

EVAL_SALT = 1 << 20
"""Added to the seed of evaluation keys, so that no evaluation replays a training step's uniforms."""
_BLOCKS_ADMITTED = 8  # blocks of prompts that are handed over at once where the sampler admits them one after another


T = TypeVar("T")


@dataclass(frozen=True)
class Evaluation:
    """Metric -> mean over prompts, and metric -> standard error over prompts. `prompts` and `samples` say how many.

    A metric that exists for no prompt is absent from both; the standard error of a single prompt is NaN. right: id of
    a prompt -> how many of its samples were right.
    """

    mean: Mapping[str, float]
    error: Mapping[str, float]
    prompts: int
    samples: int
    right: Mapping[str, int] = field(default_factory=dict)


def evaluate(
    sampler: Samples,
    verifier: Verifier,
    examples: Sequence[Example],
    settings: Sampling,
    *,
    samples: int,
    ks: Sequence[int],
    seed: int,
    at_once: int = 1,
) -> Evaluation:
    """Sample each labelled example `samples` times and measure.

    at_once: blocks of prompts that are handed over in one call, for ranks and actors to share.

    pass@k, maj@k (k in `ks`), avg@n, entropy (nats a token), length, distinct (right valid derivations a prompt),
    invalid_right (share of a prompt's right answers whose derivation is not valid; its mean is over the prompts that
    have a right answer, absent where none has), ways/NAME (share of each way of working).
    InputError where no example has a reference, or a k exceeds `samples`.
    """
    if max(ks, default=1) > samples:
        raise InputError(f"pass@{max(ks)} needs {max(ks)} samples a prompt, not {samples}: take more or a smaller k")
    labelled = [e for e in examples if e.answer is not None]
    if not labelled:
        raise InputError("nothing to evaluate: no example has an answer: add an 'answer' column to the data")
    key = pack_key(seed + EVAL_SALT, 0, 0)
    table: dict[str, list[float]] = {}
    size = settings.block * at_once * (_BLOCKS_ADMITTED if settings.admit else 1)
    for start in range(0, len(labelled), size):
        some = labelled[start : start + size]
        rollouts = sampler.sample(some, samples, settings, key, first_group=start)
        grades = verifier.grades(rollouts)
        for i in range(len(some)):
            rows = np.arange(i * samples, (i + 1) * samples)
            for name, value in measure(_rows(rollouts, rows), verifier, ks, [grades[r] for r in rows]).items():
                table.setdefault(name, []).append(value)
    there = {name: values for name, values in table.items() if not np.isnan(values).all()}
    return Evaluation(
        mean={name: float(np.nanmean(values)) for name, values in there.items()},
        error={name: standard_error([v for v in values if not np.isnan(v)]) for name, values in there.items()},
        prompts=len(labelled),
        samples=samples,
        right={e.id: round(share * samples) for e, share in zip(labelled, table[f"avg@{samples}"], strict=True)},
    )


def quick_ks(samples: int) -> list[int]:
    """The k of pass@k and maj@k that a run measures while it trains."""
    return [k for k in (1, 4, 16) if k <= samples]


def blocks_at_once(run: Any) -> int:
    """How many blocks of prompts all ranks, or all actors, of a run have work with."""
    config = run.resolved.config
    return run.ranks.count * (config.ray.samplers * config.ray.depth if config.rollout.sampler == "ray" else 1)


def evaluation_sampling(resolved: Resolved) -> Sampling:
    """A run's sampler settings for evaluation: temperature 1 and the full distribution, whatever training uses."""
    rollout = resolved.config.rollout
    return Sampling(max_tokens=rollout.max_tokens, stop=rollout.stop, block=rollout.block, admit=rollout.admit)


def spread(examples: Sequence[T], count: int) -> list[T]:
    """`count` examples evenly spaced over the list (all of them where there are no more): a split keeps its mixture."""
    if len(examples) <= count:
        return list(examples)
    return [examples[i * len(examples) // count] for i in range(count)]


def _rows(rollouts: Rollouts, rows: np.ndarray) -> Rollouts:
    import torch

    return rollouts.take(torch.from_numpy(rows))


def measure(group: Rollouts, verifier: Verifier, ks: Sequence[int], grades: Sequence[Grade]) -> dict[str, float]:
    """The metrics of the graded samples of one prompt; NaN where a metric does not exist (no right answer, for one)."""
    n = len(group)
    answers = [grade.extracted for grade in grades]
    ended = [finish != "length" for finish in group.finish]
    right = [bool(grade.success) and end for grade, end in zip(grades, ended, strict=True)]
    out = {f"pass@{k}": pass_at_k(n, sum(right), k) for k in ks}
    out |= {f"maj@{k}": maj_at_k(answers, right, k) for k in ks if k > 1}
    out[f"avg@{n}"] = sum(right) / n
    if group.entropy is not None:
        out["entropy"] = float(group.entropy[group.mask].double().mean())
    out["length"] = float(group.mask.sum(dim=1).double().mean())
    out["truncated"] = 1.0 - sum(ended) / n
    return out | derivation_metrics(group, right, verifier)


def derivation_metrics(group: Rollouts, right: Sequence[bool], verifier: Verifier) -> dict[str, float]:
    """distinct, invalid_right (NaN where no answer is right) and the share of each way of working."""
    task = verifier.task
    pairs = zip(group.example, group.text, strict=True)
    found = [task.derivation(example, text) for example, text in pairs]
    good = [d for d, r in zip(found, right, strict=True) if d is not None and r]
    if not any(d is not None for d in found):
        return {}
    out = {
        "distinct": float(len({d.key for d in good if d.valid})),
        "invalid_right": sum(not d.valid for d in good) / len(good) if good else float("nan"),
    }
    return out | {f"ways/{way}": sum(d is not None and d.way == way for d in found) / len(found) for way in task.ways}
