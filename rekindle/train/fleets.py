"""A run's fleet of samplers: what its actors hold, what is asked of them, and what a run with one refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch

from rekindle.errors import InputError
from rekindle.tokens.collect import InOrder, Once
from rekindle.tokens.heads import unwrapped
from rekindle.tokens.loader import Loaded, eos_ids, load_model
from rekindle.tokens.lora import plain_weights
from rekindle.tokens.sampling.fleet import Fleet
from rekindle.tokens.sampling.foreman import Rules
from rekindle.tokens.sampling.hands import LocalPlan, Plan, VllmPlan
from rekindle.tokens.sampling.proofs import Exact, Probed, Proves
from rekindle.tokens.sampling.ray_fleet import Place, RayCrew
from rekindle.tokens.sampling.ray_sampler import RaySampler
from rekindle.tokens.sampling.vllm import Probe, Tolerance
from rekindle.tokens.sampling.vllm_engine import Start
from rekindle.train.settings import RunConfig, parts


@runtime_checkable
class DrawsMore(Protocol):
    """A part that draws responses of its own besides the step's."""

    draws_more: ClassVar[bool]


def model_place(loaded: Loaded) -> str:
    """The folder or hub id of the model, as a process elsewhere on this machine finds it."""
    name = str(unwrapped(loaded.model).name_or_path)
    return str(Path(name).resolve()) if Path(name).is_dir() else name


def make_fleet(
    config: RunConfig, loaded: Loaded, plan: Plan, proof: Proves, apart: float | None, dtype: torch.dtype | None
) -> RaySampler:
    """The sampler over actors made by `plan`. dtype: that weights travel in, None as they are."""
    asked, blocks = config.ray, -(-config.rollout.prompts // config.rollout.block)
    size = sum(value.numel() * (dtype or value.dtype).itemsize for value in plain_weights(loaded.model).values())
    place = Place(address=asked.address, cpus=asked.cpus, gpus=asked.gpus, versions=asked.staleness + 1)
    rules = Rules(
        depth=asked.depth,
        room=max((asked.staleness + 1) * blocks, asked.samplers),
        health=asked.health,
        restarts=asked.restarts,
    )
    fleet = Fleet(RayCrew(plan, asked.samplers, place, size), rules, proof)
    together = asked.staleness == 0
    return RaySampler(loaded.model, loaded.encode, fleet, proof, apart=apart, together=together, dtype=dtype)


def local_fleet(config: RunConfig, loaded: Loaded, apart: float | None) -> RaySampler:
    """Actors that draw as the local sampler does."""
    plan = LocalPlan(
        model=model_place(loaded),
        device="cuda" if config.ray.gpus else "cpu",
        dtype=config.dtype,
        precision=config.precision,
        threads=config.ray.threads,
    )
    return make_fleet(config, loaded, plan, Exact(config.ray.staleness), apart, None)


def vllm_fleet(config: RunConfig, loaded: Loaded, start: Start, probe: Probe, allowed: Tolerance) -> RaySampler:
    """Actors that hold a vLLM engine each."""
    plan = VllmPlan(
        start=start, ends=eos_ids(unwrapped(loaded.model), loaded.tokenizer), probe=probe, threads=config.ray.threads
    )
    staleness = config.ray.staleness
    model = loaded.model
    if staleness:  # the model trains while actors are checked
        model = load_model(model_place(loaded), device=config.device, dtype=config.dtype).model
    proof = Probed(model, allowed, probe.temperature, staleness)
    apart = float("inf") if staleness else allowed.mean
    return make_fleet(config, loaded, plan, proof, apart, vars(torch)[start.dtype])


def check_fleet(config: RunConfig, record: Any) -> None:
    """InputError for what a fleet, or responses of older weights, cannot serve."""
    asked, sampler = config.ray, config.rollout.sampler
    if asked.staleness and sampler != "ray":
        raise InputError(
            f"ray.staleness is {asked.staleness}, but with --sampler {sampler} nothing samples while the model trains: "
            "add --sampler ray, or drop --staleness"
        )
    if sampler != "ray":
        return
    if config.rollout.admit:
        raise InputError(
            "rollout.admit is for one process, and --sampler ray shares blocks out: set rollout.admit=false"
        )
    if config.ranks > 1 and asked.staleness:
        raise InputError(
            f"ray.staleness is {asked.staleness} and ranks {config.ranks}, but what is drawn ahead is drawn for one "
            "training process: set ranks=1 or ray.staleness=0"
        )
    if config.device.startswith("cuda") and not asked.gpus and asked.engine == "local":
        raise InputError("the model trains on a GPU and ray.gpus=0 has samplers compute on a CPU: set ray.gpus=1")
    if asked.staleness:
        check_ahead(config, record)


def check_ahead(config: RunConfig, record: Any) -> None:
    """InputError naming the part of the method that needs a step's responses to be drawn within the step."""
    remedy = "set ray.staleness=0"
    if len(record.methods) > 1:
        raise InputError(f"responses are drawn across steps, and the run changes its method in between: {remedy}")
    collect = record.methods[0].collect
    if not isinstance(collect.prompts, InOrder):
        raise InputError(
            f"{type(collect.prompts).__name__} chooses prompts by what the steps before showed, and ray.staleness="
            f"{config.ray.staleness} draws ahead of them: {remedy}"
        )
    if not isinstance(collect.draw, Once):
        raise InputError(
            f"{type(collect.draw).__name__} decides within a step what is drawn, and ray.staleness="
            f"{config.ray.staleness} draws ahead of it: {remedy}"
        )
    more = [part for part in parts(record) if isinstance(part, DrawsMore) and part.draws_more is True]
    if more:
        raise InputError(f"{type(more[0]).__name__} draws responses of its own within the step: {remedy}")
