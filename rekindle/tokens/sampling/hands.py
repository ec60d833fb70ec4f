"""What a worker of a fleet holds: a model of its own that samples, and how it is made where the worker runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor
from transformers import AutoTokenizer

from rekindle.core.random import pack_key
from rekindle.errors import GuardStop, InputError
from rekindle.tokens.heads import Precision
from rekindle.tokens.loader import Loaded, load_model, quiet
from rekindle.tokens.rollouts import Example, PromptRows, Rollouts
from rekindle.tokens.sampling.base import Sampling
from rekindle.tokens.sampling.crew import Block, Told
from rekindle.tokens.sampling.engine import Ask, Engine
from rekindle.tokens.sampling.fingerprints import exact
from rekindle.tokens.sampling.local import LocalSampler
from rekindle.tokens.sampling.stops import cut
from rekindle.tokens.sampling.vllm import Probe, how, seeds, tables
from rekindle.tokens.sampling.vllm_engine import Start, VllmEngine


@runtime_checkable
class Hand(Protocol):
    """A model that samples."""

    def load(self, version: int, weights: Mapping[str, Tensor]) -> Told:
        """Take these weights, and say what is computed with now."""
        ...

    def draw(self, block: Block) -> Rollouts:
        """The responses of a block; their examples have an id and nothing else."""
        ...


@runtime_checkable
class Plan(Protocol):
    """How a worker comes by its model: plain values, for they travel to another process."""

    def build(self) -> Hand:
        """The model; `InputError` where it is not usable there."""
        ...


@dataclass(frozen=True, kw_only=True)
class LocalPlan:
    """A copy of the model in plain PyTorch. model: a folder or hub id; threads: that it computes with."""

    model: str
    device: str = "cpu"
    dtype: str = "float32"
    precision: Precision = "full"
    threads: int = 1

    def build(self) -> LocalHand:
        """See `Plan`."""
        torch.set_num_threads(self.threads)
        return LocalHand(load_model(self.model, device=self.device, dtype=self.dtype), self.precision)


class LocalHand:
    """Draws as the local sampler does, by a copy of the weights."""

    def __init__(self, loaded: Loaded, precision: Precision = "full") -> None:
        self.model = loaded.model
        self.sampler = LocalSampler(loaded.model, loaded.tokenizer, _ids, precision)

    @torch.no_grad()
    def load(self, version: int, weights: Mapping[str, Tensor]) -> Told:
        """See `Hand`. `InputError` where the weights are not those of this model."""
        parameters = dict(self.model.named_parameters(remove_duplicate=False))
        own = parameters | dict(self.model.named_buffers(remove_duplicate=False))
        there = {name: value for name, value in weights.items() if name in own}
        for name, value in there.items():
            own[name].copy_(value)
        filled = {id(own[name]) for name in there}
        missing = [name for name, parameter in parameters.items() if id(parameter) not in filled]
        if missing:
            raise InputError(f"the weights lack '{missing[0]}': samplers must be started with the run's own model")
        return Told({name: {"hash": exact(own[name]) if name in own else None} for name in weights})

    def draw(self, block: Block) -> Rollouts:
        """See `Hand`."""
        return self.sampler.sample(
            nameless(block), block.n, block.settings, torch.tensor(block.key), first_group=block.first_group
        )


@dataclass(frozen=True, kw_only=True)
class VllmPlan:
    """A vLLM engine. ends: ids that end a response. threads: that it computes with on a CPU."""

    start: Start
    ends: tuple[int, ...]
    probe: Probe
    threads: int = 1

    def build(self) -> VllmHand:
        """See `Plan`."""
        torch.set_num_threads(self.threads)
        with quiet():
            tokenizer = AutoTokenizer.from_pretrained(self.start.model, trust_remote_code=False)
        return VllmHand(VllmEngine(self.start), tokenizer, self.ends, self.probe)


class VllmHand:
    """Draws by an engine of its own."""

    def __init__(self, engine: Engine, tokenizer: Any, ends: tuple[int, ...], probe: Probe) -> None:
        self.engine, self.tokenizer, self.ends, self.probe = engine, tokenizer, ends, probe

    def load(self, version: int, weights: Mapping[str, Tensor]) -> Told:
        """See `Hand`; the engine then draws the probe."""
        prints = self.engine.load(weights)
        uid = torch.arange(len(self.probe.prompts))
        pairs = zip(self.probe.prompts, seeds(pack_key(version, 0, 1), uid), strict=True)
        asks = tuple(Ask(prompt, seed) for prompt, seed in pairs)
        settings = Sampling(temperature=self.probe.temperature, max_tokens=self.probe.tokens)
        return Told(prints, asks, tuple(self.engine.generate(asks, how(settings, self.ends))) if asks else ())

    def draw(self, block: Block) -> Rollouts:
        """See `Hand`. `GuardStop` on log-probs that are no numbers."""
        limit, longest = self.engine.about.max_model_len, max(map(len, block.prompts))
        if longest + block.settings.max_tokens > limit:
            raise InputError(
                f"a prompt of {longest} tokens and {block.settings.max_tokens} of the response are above the {limit} "
                "that vLLM was started for: raise vllm.max_model_len"
            )
        group = torch.arange(len(block.prompts)).repeat_interleave(block.n) + block.first_group
        uid = group * block.n + torch.arange(block.n).repeat(len(block.prompts))
        prompts = [prompt for prompt in block.prompts for _ in range(block.n)]
        asks = [Ask(p, s) for p, s in zip(prompts, seeds(torch.tensor(block.key), uid), strict=True)]
        got = self.engine.generate(asks, how(block.settings, self.ends))
        ids, mask, logp = tables(got)
        if not torch.isfinite(logp[mask]).all():
            raise GuardStop("vLLM gave log-probs that are no numbers: the weights it samples from hold nan or inf")
        text = self.tokenizer.batch_decode([one.ids for one in got], skip_special_tokens=True)
        cuts = [cut(t, block.settings.stop) if one.finish == "stop" else None for t, one in zip(text, got, strict=True)]
        return Rollouts(
            example=[example for example in nameless(block) for _ in range(block.n)],
            prompt=PromptRows(tuple(prompts)),
            ids=ids,
            mask=mask,
            logp=None if block.settings.truncates else logp,
            logp_sampled=logp,
            entropy=None,
            text=[whole if short is None else short for whole, short in zip(text, cuts, strict=True)],
            finish=[one.finish for one in got],
            group=group,
            uid=uid,
        )


def nameless(block: Block) -> list[Example]:
    """The prompts of a block as a sampler takes them."""
    pairs = zip(block.names, block.prompts, strict=True)
    return [Example(id=name, prompt="", meta={"ids": list(ids)}) for name, ids in pairs]


def named(rollouts: Rollouts, examples: list[Example]) -> Rollouts:
    """Rollouts of a whole call with the run's own examples in place of the nameless ones."""
    n = len(rollouts) // len(examples)
    return replace(rollouts, example=[example for example in examples for _ in range(n)])


def _ids(example: Example) -> list[int]:
    return example.meta["ids"]
