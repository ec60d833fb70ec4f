"""Load everything that a run needs: model, heads, sampler, optimiser, reference, data."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rekindle.core.method import PolicyGradient
from rekindle.core.stages import Stages
from rekindle.tokens.embed import HashedNgrams, PolicyStates
from rekindle.tokens.heads import split
from rekindle.tokens.loader import load_model
from rekindle.tokens.packed import checkpoint_layers
from rekindle.tokens.policy import LMPolicy
from rekindle.tokens.rewards import load_rewards
from rekindle.tokens.tasks.base import Task
from rekindle.tokens.verify import Verifier
from rekindle.train.config import Resolved
from rekindle.train.refusals import check_prompts, check_run
from rekindle.train.run import Run
from rekindle.train.samplers import make_sampler


def make_run(resolved: Resolved, task: Task, folder: Path | None = None) -> Run:
    """Load everything a run needs, at its start weights. InputError where the model or the data cannot serve it."""
    check_run(resolved, task)
    config, method = resolved.config, resolved.record
    where = {"device": config.device, "dtype": config.dtype}
    loaded = load_model(config.model, task_name=task.name, system_prompt=config.system(task.system_prompt), **where)
    loaded.model.train()
    rewards = load_rewards(config.reward) if config.reward else None
    examples = task.split("train")
    check_prompts(loaded, examples, config.rollout.max_tokens)
    frozen = _frozen(loaded.model) if _wants_reference(method, config.embed) else None
    if config.checkpointing:
        checkpoint_layers(loaded.model)
    policy = LMPolicy(
        loaded.model,
        temperature=config.rollout.temperature,
        precision=config.precision,
        heads=make_heads(loaded.model, method),
    )
    return Run(
        resolved=resolved,
        method=method,
        record=method.at(0.0),
        task=task,
        loaded=loaded,
        policy=policy,
        sampler=make_sampler(config, loaded, task),
        verifier=Verifier(task, rewards),
        embed=HashedNgrams() if frozen is None or config.embed == "ngrams" else PolicyStates(frozen, loaded.tokenizer),
        references={} if frozen is None else {"reference": frozen},
        optimizer=make_optimizer(loaded.model, method.methods[0], policy.heads),
        examples=examples,
        folder=folder,
    )


def make_heads(model: torch.nn.Module, method: PolicyGradient | Stages) -> torch.nn.ModuleDict:
    """The scalar heads that the method's parts want, linear in the hidden states and zero at the start."""
    names = dict.fromkeys(head for one in method.methods for head in one.heads())
    weight = split(model, probe=False).head.weight
    assert isinstance(weight, Tensor)
    heads = {name: torch.nn.Linear(weight.shape[1], 1, dtype=weight.dtype, device=weight.device) for name in names}
    for head in heads.values():
        torch.nn.init.zeros_(head.weight)
        torch.nn.init.zeros_(head.bias)
    return torch.nn.ModuleDict(heads)


def make_optimizer(
    model: torch.nn.Module, record: PolicyGradient, heads: torch.nn.ModuleDict | None = None
) -> torch.optim.AdamW:
    """AdamW over the parameters that train, with the record's settings; heads are a group of their own."""
    descent = record.descent
    groups = [{"params": [p for p in model.parameters() if p.requires_grad]}]
    if heads:
        groups.append({"params": list(heads.parameters())})
    betas = (descent.beta1, descent.beta2)
    return torch.optim.AdamW(groups, lr=1.0, betas=betas, weight_decay=descent.weight_decay, fused=True)


def _wants_reference(method: PolicyGradient | Stages, embed: str) -> bool:
    return embed == "policy" or any("reference" in need.passes for need in method.needs())


def _frozen(model: Any) -> Any:
    reference = copy.deepcopy(model)
    for parameter in reference.parameters():
        parameter.requires_grad_(False)
    return reference
