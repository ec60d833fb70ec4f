"""How a run tries candidates: each rank by itself, with an engine of its own that has the weights of its candidate."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from torch import Tensor, nn

from rekindle.core.types import add_metrics
from rekindle.tokens.lora import TRAINED, adapted_layers
from rekindle.tokens.rollouts import Example, Rollouts
from rekindle.tokens.sampling.base import Sampler
from rekindle.train.drawn import sampling_of
from rekindle.train.shared_sampler import SharedSampler

if TYPE_CHECKING:
    from rekindle.train.run import Run


def factor_pairs(model: nn.Module) -> list[tuple[Tensor, Tensor]]:
    """(A, B) of the adapter that trains, layer by layer in the model's order: the tensors themselves."""
    found = []
    for layer in adapted_layers(model).values():
        if TRAINED in layer.lora_A:
            found.append((layer.lora_A[TRAINED].weight, layer.lora_B[TRAINED].weight))
        elif TRAINED in layer.lora_embedding_A:
            found.append((layer.lora_embedding_A[TRAINED], layer.lora_embedding_B[TRAINED]))
    return found


def own(sampler: Sampler) -> Sampler:
    """The engine of this rank, which the others do not wait for."""
    return sampler.inner if isinstance(sampler, SharedSampler) else sampler


def tried(run: Run, examples: Sequence[Example], greedy: bool) -> Rollouts:
    """A response to each prompt by the weights that this rank has now. No other rank takes part.

    All candidates of a step draw by the same numbers: groups and uids are those that come next, and stay free.
    """
    began, engine = time.perf_counter(), own(run.sampler)
    if run.stale:
        run.observed = add_metrics(run.observed, engine.push())
        run.stale = False
    settings = sampling_of(run.resolved)
    settings = replace(settings, top_k=1) if greedy else settings
    rollouts = engine.sample(examples, 1, settings, run.key, first_group=run.memory["groups"])
    run.seconds["try"] = run.seconds.get("try", 0.0) + time.perf_counter() - began
    return rollouts
