"""vLLM in this process: one engine whose weights can be reached, because it starts no process of its own.

Nothing here is imported before a user asks for vLLM. Traps that this file knows: after a reload vLLM leaves the packed
copy of a tied output layer as it was, log-probs are of the untempered distribution by default, and cached prefixes
belong to the old weights.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rekindle.errors import EngineDead, InputError
from rekindle.tokens.sampling.engine import About, Ask, Got, How
from rekindle.tokens.sampling.fingerprints import Prints, engine_prints, headless
from rekindle.tokens.sampling.vllm_found import found, import_problem

ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
}
"""In one process; the trainer's threads stay where they are; quiet; nothing is reported to anyone."""


@dataclass(frozen=True, kw_only=True)
class Start:
    """How an engine is started. model: a folder or hub id; dtype: as torch calls it.

    seats: sequences decoded at once. memory: share of the device's memory; on a CPU only as much as the seats need.
    eager: no compilation; None: on a CPU, where starting takes a third of the time and sampling is as fast.
    """

    model: str
    dtype: str = "float32"
    max_model_len: int
    seats: int = 256
    memory: float = 0.3
    eager: bool | None = None
    sleep: bool = True


class VllmEngine:
    """An `Engine` over `vllm.LLM`."""

    def __init__(self, start: Start) -> None:
        """Raises `InputError` where vLLM is not usable here or refuses the model."""
        self._vllm = import_vllm()
        self.start = start
        device = importlib.import_module("vllm.platforms").current_platform.device_type
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings(action="ignore"):
            self._llm = self._started(device)
        self.about = About(
            version=self._vllm.__version__,
            device=device,
            dtype=start.dtype,
            max_model_len=start.max_model_len,
            where="in this process",
        )
        self._asleep = False

    def _started(self, device: str) -> Any:
        start, cpu = self.start, device == "cpu"
        shape = Attention.of(start.model)
        if cpu:
            _check_head(start.model, shape)
        try:
            return self._vllm.LLM(
                model=start.model,
                trust_remote_code=False,
                dtype=start.dtype,
                max_model_len=start.max_model_len,
                max_num_seqs=start.seats,
                enforce_eager=cpu if start.eager is None else start.eager,
                gpu_memory_utilization=start.memory,
                kv_cache_memory_bytes=shape.cache_bytes(start) if cpu else None,
                enable_sleep_mode=start.sleep and not cpu,
                logprobs_mode="processed_logprobs",
                generation_config="vllm",
                disable_log_stats=True,
                use_tqdm_on_load=False,
                seed=0,
            )
        except (
            ValueError,
            RuntimeError,
            TypeError,
            ImportError,
            OSError,
            AssertionError,
        ) as error:
            raise InputError(
                f"vLLM {self._vllm.__version__} ({device}) cannot serve the model '{start.model}' ({one_line(error)}): "
                "use --sampler local, another model, or other options of the section vllm (docs/vllm.md)"
            ) from error

    def generate(self, asks: Sequence[Ask], how: How) -> list[Got]:
        """See `Engine`. Raises `EngineDead` where vLLM fails."""
        settings = [self._params(ask.seed, how) for ask in asks]
        prompts = [self._vllm.TokensPrompt(prompt_token_ids=list(ask.prompt)) for ask in asks]
        try:
            outputs = self._llm.generate(prompts, settings, use_tqdm=False)
        except Exception as error:  # vLLM's own kinds have no common parent, and none of them leaves a usable engine
            raise EngineDead(f"vLLM failed while it sampled ({one_line(error)}): run again with --resume") from error
        return [_got(output.outputs[0], how.ends) for output in outputs]

    def _params(self, seed: int, how: How) -> Any:
        return self._vllm.SamplingParams(
            temperature=how.temperature,
            top_p=how.top_p,
            top_k=how.top_k,
            max_tokens=how.max_tokens,
            stop=list(how.stop) or None,
            include_stop_str_in_output=True,
            stop_token_ids=list(how.ends),
            ignore_eos=True,
            seed=seed,
            logprobs=0,
            detokenize=bool(how.stop),
        )

    def load(self, weights: Mapping[str, Tensor]) -> Prints:
        """See `Engine`. Raises `InputError` where the tensors are not those of the engine's model.

        What training has reserved on a GPU and no longer uses is given back first, or vLLM could not take its share.
        """
        try:
            if self._asleep:
                torch.cuda.empty_cache()
                self._llm.wake_up()
                self._asleep = False
            told = self._llm.collective_rpc(_load, args=(weights,))[0]
        except torch.OutOfMemoryError as error:
            raise EngineDead(
                f"vLLM cannot take its memory back after training ({one_line(error)}): lower vllm.memory or "
                "descent.micro_batch, in a new run (--model CHECKPOINT)"
            ) from error
        except (RuntimeError, ValueError, KeyError, AttributeError, AssertionError) as error:
            raise InputError(
                f"vLLM does not take the weights of the training model ({one_line(error)}): the engine must be started "
                "with the same model as the run"
            ) from error
        self._llm.reset_prefix_cache()
        return told

    def sleep(self) -> None:
        """See `Engine`. Level 1: weights go to host memory, the cache is dropped."""
        if self.start.sleep and self.about.device != "cpu" and not self._asleep:
            self._llm.sleep(level=1)
            self._asleep = True

    def close(self) -> None:
        """See `Engine`. An engine that is gone already is no error, or it would hide the one that ended the run."""
        with contextlib.suppress(Exception):
            self._llm.llm_engine.engine_core.shutdown()


def import_vllm() -> Any:
    """The module; `InputError` with the reason and the remedy where it is not usable."""
    known = found()
    if known.problem is not None:
        raise InputError(known.problem)
    os.environ.update(ENVIRONMENT)
    logging.getLogger("vllm").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(action="ignore"):
            return importlib.import_module("vllm")
    except (ImportError, RuntimeError, OSError, AttributeError) as error:
        raise InputError(import_problem(str(known.version), f"{type(error).__name__}: {error}")) from error


@dataclass(frozen=True)
class Attention:
    """What a model keeps of each position: `layers` times keys and values of `heads` heads of size `head`."""

    layers: int
    heads: int
    head: int

    @staticmethod
    def of(model: str) -> Attention:
        """As the configuration in the folder (or at the hub) `model` has it."""
        config = importlib.import_module("transformers").AutoConfig.from_pretrained(model, trust_remote_code=False)
        text = config.get_text_config()
        told = {**text.to_dict(), **{own: text.to_dict().get(other) for own, other in text.attribute_map.items()}}
        queries = told["num_attention_heads"]
        head = told.get("head_dim") or told["hidden_size"] // queries
        return Attention(told["num_hidden_layers"], told.get("num_key_value_heads") or queries, head)

    def cache_bytes(self, start: Start) -> int:
        """Bytes of keys and values that all seats need at full length, in blocks of 128 positions with one to spare."""
        positions = (start.max_model_len // 128 + 2) * 128
        size = 4 if start.dtype == "float32" else 2
        return 2 * self.layers * self.heads * self.head * positions * start.seats * size


def _check_head(model: str, shape: Attention) -> None:
    backend = importlib.import_module("vllm.v1.attention.backends.cpu_attn").CPUAttentionBackend
    sizes = backend.get_supported_head_sizes()
    if shape.head not in sizes:
        raise InputError(
            f"vLLM on a CPU takes attention heads of size {', '.join(map(str, sizes))}, and those of the model "
            f"'{model}' have {shape.head}: use --sampler local"
        )


def one_line(error: Exception) -> str:
    """The error's text, shortened."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 240 else text[:237] + "..."


def _load(worker: Any, weights: Mapping[str, Tensor]) -> Prints:
    """Runs beside the engine's model."""
    model = worker.get_model()
    heads = headless(model, weights)
    worker.reload_weights(weights_iterator=iter([pair for pair in weights.items() if pair[0] not in heads]))
    for layer in model.modules():
        # A tied output layer shares its weight but multiplies by a packed copy, which a reload does not renew.
        if "cpu_linear" in vars(layer) and layer.weight.numel():
            layer.quant_method.process_weights_after_loading(layer)
    shapes = {name: tuple(weight.shape) for name, weight in weights.items()}
    packed = model.packed_modules_mapping if hasattr(model, "packed_modules_mapping") else {}
    return engine_prints(model, shapes, packed, heads)


def _got(output: Any, ends: tuple[int, ...]) -> Got:
    ids = list(output.token_ids)
    logp = [step[token].logprob for step, token in zip(output.logprobs, ids, strict=True)]
    if isinstance(output.stop_reason, str):
        return Got(ids, logp, "stop")
    return Got(ids, logp, "eos" if ids and ids[-1] in ends else "length")
