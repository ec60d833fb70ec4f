"""Load everything that a run needs: model, heads, sampler, optimiser, reference, data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from rekindle.core.evolution import Evolution, Method
from rekindle.core.ranks import Alone, Ranks, Together
from rekindle.core.stages import Stages
from rekindle.tokens.embed import HashedNgrams, PolicyStates
from rekindle.tokens.grading.selfcheck import refuse_unsound, told
from rekindle.tokens.heads import split
from rekindle.tokens.loader import Loaded
from rekindle.tokens.lora import Weights
from rekindle.tokens.packed import checkpoint_layers
from rekindle.tokens.policy import LMPolicy
from rekindle.tokens.rollouts import Example
from rekindle.tokens.sampling.base import Sampler
from rekindle.tokens.sampling.ray_sampler import RaySampler
from rekindle.tokens.tasks.base import Task
from rekindle.tokens.tasks.lazy import looked_at
from rekindle.tokens.verify import Verifier
from rekindle.train.ahead import Window
from rekindle.train.config import Resolved
from rekindle.train.drawn import sampling_of
from rekindle.train.graded import task_grader
from rekindle.train.opened import start_model, start_weights
from rekindle.train.refusals import check_run, check_written, fitting
from rekindle.train.run import Run
from rekindle.train.settings import RunConfig
from rekindle.train.shard import copied, sharded
from rekindle.train.shared_sampler import ranked_sampler
from rekindle.train.snapshots import TEACHER, made, own_passes
from rekindle.train.source import data_rewards
from rekindle.train.teacher import foreign_ends, load_teacher


def make_run(
    resolved: Resolved,
    task: Task,
    folder: Path | None = None,
    ranks: Together | None = None,
    device: str | None = None,
) -> Run:
    """Load everything a run needs, at its start weights. InputError where the model or the data cannot serve it.

    ranks: that take its steps together (None: one process); device: of this one, where it is not the run's.
    """
    check_run(resolved, task)
    ranks, method = ranks or Alone(), resolved.record
    config = replace(resolved.config, device=device or resolved.config.device)
    verifier = make_verifier(config, task, ranks)
    loaded = start_model(config, task)
    examples = trained_examples(config, task, loaded, method)
    teacher = load_teacher(config, task, method.passes(), loaded)
    others = other_passes(loaded, method, config.embed, teacher)
    copy = copied(loaded.model) if ranks.sharded else None
    if config.checkpointing:
        checkpoint_layers(loaded.model)
    heads = make_heads(loaded.model, method)
    policy = LMPolicy(loaded.model, temperature=config.rollout.temperature, precision=config.precision, heads=heads)
    shares = sharded(policy, config.device, ranks.count) if ranks.sharded else None
    sampler = ranked_sampler(config, loaded, task, ranks, copy)
    return Run(
        resolved=resolved,
        method=method,
        record=method.at(0.0),
        task=task,
        loaded=loaded,
        policy=policy,
        sampler=sampler,
        ahead=make_ahead(resolved, sampler),
        verifier=verifier,
        embed=HashedNgrams() if config.embed == "ngrams" else PolicyStates(others["reference"], loaded.tokenizer),
        references=others,
        optimizer=make_optimizer(loaded.model, method.methods[0], policy.heads),
        examples=examples,
        folder=folder,
        foreign_ends=foreign_ends(loaded, teacher),
        ranks=ranks,
        shares=shares,
        copy=copy,
    )


def trained_examples(config: RunConfig, task: Task, loaded: Loaded, method: Method | Stages) -> Sequence[Example]:
    """The prompts that are trained on; InputError where one of them, or a response that it brings, does not fit."""
    examples = fitting(loaded, task.split("train"), config.rollout.max_tokens)
    check_written(loaded, method, examples, config.rollout.max_tokens)
    return examples


def other_passes(loaded: Loaded, method: Method | Stages, embed: str, teacher: Loaded | None) -> dict[str, Weights]:
    """The weights beside the policy's that a method or `embed` names: the start's, snapshots of it, and a teacher's."""
    passes: dict[str, Weights] = {name: made(loaded.model, name) for name in own_passes(method.passes())}
    if _wants_reference(method, embed):
        passes["reference"] = start_weights(loaded)
    return passes if teacher is None else {**passes, TEACHER: teacher.model}


def make_verifier(config: RunConfig, task: Task, ranks: Ranks) -> Verifier:
    """What grades: the user's rewards, or the data's references by the options `grading`, or the task itself.

    The references are tried first; InputError where too many cannot be compared with.
    """
    rewards = data_rewards(config, task)
    grader = task_grader(config.grading, task)
    if grader is None:
        return Verifier(task, rewards, ranks=ranks)
    failures = refuse_unsound(grader, list(looked_at(task.split("train"))), ranks) if rewards is None else []
    notes = (grader.warning, told(failures, grader) if failures else "")
    return Verifier(task, rewards, grader, ranks, notes=tuple(filter(None, notes)))


def make_ahead(resolved: Resolved, sampler: Sampler) -> Window | None:
    """The window of batches that are drawn while the run trains; None where each step draws its own."""
    staleness = resolved.config.ray.staleness
    if not staleness or not isinstance(sampler, RaySampler):
        return None
    return Window(sampler, staleness, sampling_of(resolved))


def make_heads(model: torch.nn.Module, method: Method | Stages) -> torch.nn.ModuleDict:
    """The scalar heads that the method's parts want, linear in the hidden states and zero at the start."""
    weight = split(model, probe=False).head.weight
    assert isinstance(weight, Tensor)
    dtype = torch.promote_types(weight.dtype, torch.float32)  # a frozen base may be narrower than what trains
    heads = {name: torch.nn.Linear(weight.shape[1], 1, dtype=dtype, device=weight.device) for name in method.heads()}
    for head in heads.values():
        torch.nn.init.zeros_(head.weight)
        torch.nn.init.zeros_(head.bias)
    return torch.nn.ModuleDict(heads)


def make_optimizer(
    model: torch.nn.Module, record: Method, heads: torch.nn.ModuleDict | None = None
) -> torch.optim.Optimizer:
    """AdamW over the parameters that train, with the record's settings; heads are a group of their own.

    A method that does not descend takes no step of it; it gets one that holds nothing.
    """
    if isinstance(record, Evolution):
        return torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.0)
    descent = record.descent
    groups = [{"params": [p for p in model.parameters() if p.requires_grad]}]
    if heads:
        groups.append({"params": list(heads.parameters())})
    betas = (descent.beta1, descent.beta2)
    return torch.optim.AdamW(groups, lr=1.0, betas=betas, weight_decay=descent.weight_decay, fused=True)


def _wants_reference(method: Method | Stages, embed: str) -> bool:
    return embed == "policy" or "reference" in method.passes()
