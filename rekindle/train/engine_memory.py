"""What vLLM in the training process takes, needs to start, and is handed: for the plan of a run."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from rekindle.train.config import Resolved
from rekindle.train.footprint import Footprint
from rekindle.train.hardware import TAKEN, Hardware
from rekindle.train.lengths import Lengths
from rekindle.train.settings import RunConfig

BYTES: Mapping[str, int] = MappingProxyType({"float32": 4, "bfloat16": 2, "float64": 8})
"""Of a weight by the option `dtype`."""


def engine_bytes(resolved: Resolved, model: Footprint, found: Lengths, hardware: Hardware) -> int:
    """What vLLM in this process takes: its share of a GPU; on a CPU its weights and the cache of its seats."""
    config = resolved.config
    if config.rollout.sampler != "vllm" or config.vllm.url is not None:
        return 0
    if hardware.gpu:
        return round(config.vllm.memory * hardware.memory)
    return _engine(config, model, found, config.vllm.seats)


def engine_least(resolved: Resolved, model: Footprint, found: Lengths, hardware: Hardware) -> int:
    """What vLLM in this process needs to start on a GPU: weights, the cache of one response, its libraries; else 0."""
    config = resolved.config
    if config.rollout.sampler != "vllm" or config.vllm.url is not None or not hardware.gpu:
        return 0
    return _engine(config, model, found, 1) + TAKEN["gpu"]


def _engine(config: RunConfig, model: Footprint, found: Lengths, seats: int) -> int:
    width = BYTES[config.vllm.dtype or config.dtype]
    length = config.vllm.max_model_len or found.longest + found.response
    return width * (model.parameters + seats * length * 2 * model.key * model.layers)


def pushed_bytes(resolved: Resolved, model: Footprint) -> int:
    """What is held beside model and engine while weights go to vLLM: adapters merged in, and a copy in its format."""
    config = resolved.config
    if config.rollout.sampler != "vllm":
        return 0
    width, theirs = BYTES[config.dtype], BYTES[config.vllm.dtype or config.dtype]
    merged = width * model.linear if config.lora.rank or model.adapter else 0
    return merged + (theirs * model.parameters if theirs != width else 0)
