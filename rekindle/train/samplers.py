"""Which sampler a run has, and how far its numbers may lie from the trainer's."""

from __future__ import annotations

import math
from dataclasses import replace

from rekindle.errors import InputError
from rekindle.tokens.heads import unwrapped
from rekindle.tokens.loader import Loaded, context_length
from rekindle.tokens.lora import adapted_layers
from rekindle.tokens.sampling.access import read_token
from rekindle.tokens.sampling.base import Sampler
from rekindle.tokens.sampling.engine import Engine
from rekindle.tokens.sampling.local import LocalSampler
from rekindle.tokens.sampling.vllm import TOLERANCE, Probe, Tolerance, VllmSampler
from rekindle.tokens.sampling.vllm_engine import Start, VllmEngine
from rekindle.tokens.sampling.vllm_remote import RemoteEngine
from rekindle.tokens.tasks.base import Task
from rekindle.train.corrected import same_numbers
from rekindle.train.fleets import local_fleet, model_place, vllm_fleet
from rekindle.train.settings import RunConfig

NUMBERS = tuple(TOLERANCE)


def make_sampler(config: RunConfig, loaded: Loaded, task: Task) -> Sampler:
    """The sampler that `config` names; `InputError` where it cannot serve this model or is not usable here."""
    if config.rollout.sampler == "local":
        return LocalSampler(loaded.model, loaded.tokenizer, loaded.encode, config.precision)
    if config.rollout.sampler == "ray":
        return make_ray(config, loaded, task)
    engine = make_engine(config, loaded, task)
    if engine.about.dtype not in TOLERANCE:
        raise InputError(f"vLLM computes in {engine.about.dtype}: set vllm.dtype={' or '.join(NUMBERS)}")
    allowed = tolerance(engine.about.dtype, config.precision, config.vllm.tolerance)
    probe = make_probe(config, loaded, task)
    return VllmSampler(loaded.model, loaded.tokenizer, loaded.encode, engine, probe, allowed)


def make_ray(config: RunConfig, loaded: Loaded, task: Task) -> Sampler:
    """A fleet of local samplers or of vLLM engines.

    Its `apart` is None where its numbers are the trainer's own, and infinite where it samples by older weights: then
    the gap is expected, logged and corrected, and only log-probs that are no numbers stop the run.
    """
    if config.ray.engine == "vllm":
        start = make_start(config, loaded, task)
        allowed = tolerance(start.dtype, config.precision, config.vllm.tolerance)
        return vllm_fleet(config, loaded, start, make_probe(config, loaded, task), allowed)
    if same_numbers(config):
        if adapted_layers(loaded.model):  # of the hub: what it is was not known when the record was made
            raise InputError(
                f"model '{config.model}' is an adapter, which a fleet gets merged: add --lora with its rank"
            )
        return local_fleet(config, loaded, None)
    kind = config.dtype if config.dtype in TOLERANCE else "float32"
    allowed = tolerance(kind, config.precision, config.vllm.tolerance)
    return local_fleet(config, loaded, math.inf if config.ray.staleness else allowed.mean)


def make_probe(config: RunConfig, loaded: Loaded, task: Task) -> Probe:
    """What is drawn after each push, to be scored by the training model."""
    prompts = [tuple(loaded.encode(example)) for example in task.split("train")[: config.vllm.probe]]
    tokens = min(32, config.rollout.max_tokens)
    return Probe(prompts=tuple(prompts), temperature=config.rollout.temperature, tokens=tokens)


def make_engine(config: RunConfig, loaded: Loaded, task: Task) -> Engine:
    """vLLM in this process, or the server that `vllm.url` names."""
    asked = config.vllm
    if asked.url is not None:
        return RemoteEngine(asked.url, asked.timeout, read_token(asked.token_file))
    return VllmEngine(make_start(config, loaded, task))


def make_start(config: RunConfig, loaded: Loaded, task: Task) -> Start:
    """How a vLLM engine of the run is started."""
    asked = config.vllm
    dtype = asked.dtype or config.dtype
    if dtype not in TOLERANCE:
        raise InputError(f"vLLM does not compute in {dtype}: set vllm.dtype={' or '.join(NUMBERS)}, or --sampler local")
    ray = config.rollout.sampler == "ray"
    return Start(
        model=model_place(loaded) if ray else str(unwrapped(loaded.model).name_or_path),
        dtype=dtype,
        max_model_len=asked.max_model_len or longest(config, loaded, task),
        seats=asked.seats,
        memory=asked.memory,
        eager=asked.eager,
        sleep=asked.sleep and not ray,
    )


def longest(config: RunConfig, loaded: Loaded, task: Task) -> int:
    """Tokens of the longest prompt of the task and of a response, within the model's context."""
    prompts = [len(loaded.encode(example)) for split in task.splits for example in task.split(split)]
    wanted, limit = max(prompts) + config.rollout.max_tokens, context_length(loaded.model)
    return wanted if limit is None else min(wanted, limit)


def tolerance(dtype: str, precision: str, mean: float | None) -> Tolerance:
    """What is let pass between an engine of this number format and the trainer. mean: as the user wants it."""
    coarser = TOLERANCE["bfloat16"] if precision == "bf16" else TOLERANCE[dtype]
    usual = replace(coarser, weights=TOLERANCE[dtype].weights)
    return usual if mean is None else replace(usual, mean=mean, most=100 * mean)
