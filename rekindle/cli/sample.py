"""`sample`: what a model answers to one prompt."""

from __future__ import annotations

from typing import Annotated

import typer

from rekindle.cli.evaluate import Device, Dtype, MaxTokens, Model, Seed, TaskName

LONGEST = 256
"""Longest response, where the model's context has room for it."""


def sample(
    model: Model,
    prompt: Annotated[str, typer.Argument(help="the prompt, such as '5*9+3*5-2='")],
    n: Annotated[int, typer.Option("-n", min=1, help="responses")] = 4,
    task: TaskName = None,
    seed: Seed = 0,
    temperature: Annotated[float, typer.Option(help="divides the logits")] = 1.0,
    device: Device = "cpu",
    dtype: Dtype = "float32",
    max_tokens: MaxTokens = None,
) -> None:
    """Print responses to a prompt, each with its finish reason and log-probability."""
    from rekindle.core.random import pack_key
    from rekindle.tokens.loader import context_length
    from rekindle.tokens.rollouts import Example
    from rekindle.tokens.sampling.base import Sampling
    from rekindle.tokens.sampling.local import LocalSampler
    from rekindle.train.measure import load_source, open_model
    from rekindle.train.refusals import check_prompts

    source = load_source(task, None)
    loaded = open_model(model, source, device, dtype, source.system_prompt)
    example = Example("of the command line", prompt)
    context = context_length(loaded.model)
    room = LONGEST if context is None else context - len(loaded.encode(example))
    limit = max_tokens or max(1, min(LONGEST, room))
    check_prompts(loaded, [example], limit, "--max-tokens")
    settings = Sampling(temperature=temperature, max_tokens=limit)
    sampler = LocalSampler(loaded.model, loaded.tokenizer, loaded.encode)
    found = sampler.sample([example], n, settings, pack_key(seed, 0, 0), 0)
    for row, (text, finish) in enumerate(zip(found.text, found.finish, strict=True)):
        said = found.logp_sampled if found.logp is None else found.logp
        logp, count = said[row].sum().item(), int(found.mask[row].sum())
        print(f"[{row + 1}] {finish}, {count} tokens, log-prob {logp:.3f}\n{text}")
