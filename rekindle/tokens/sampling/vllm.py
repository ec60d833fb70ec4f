"""Sampling by vLLM from a copy of the weights, which is brought up to date after every update and never trusted.

What could go wrong silently is checked by numbers: each push by fingerprints of what arrived and by tokens that the
engine draws and the training model scores; each step by the log-probs of the step's own tokens (`agreement`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from rekindle.core.random import pack_key, uniforms
from rekindle.core.types import Metrics
from rekindle.errors import GuardStop, InputError
from rekindle.tokens.heads import unwrapped
from rekindle.tokens.loader import eos_ids
from rekindle.tokens.lora import plain_weights
from rekindle.tokens.rollouts import Example, PromptRows, Rollouts
from rekindle.tokens.sampling.base import Sampling
from rekindle.tokens.sampling.engine import Ask, Engine, Got, How
from rekindle.tokens.sampling.fingerprints import differing
from rekindle.tokens.sampling.stops import cut


@dataclass(frozen=True)
class Tolerance:
    """How far two sound computations of a token's log-prob may lie apart, in nats: the mean and the largest of many.

    weights: how far products with the weights may, as a share of the weights' norm.
    """

    mean: float
    most: float
    weights: float


TOLERANCE = {"float32": Tolerance(1e-4, 1e-2, 1e-5), "bfloat16": Tolerance(1e-2, 2.0, 2e-2)}
"""By the engine's number format; what was measured is in docs/vllm.md."""


@dataclass(frozen=True, kw_only=True)
class Probe:
    """Tokens that are drawn after each push, to be scored by the training model: a response to each of `prompts`."""

    prompts: tuple[tuple[int, ...], ...]
    temperature: float = 1.0
    tokens: int = 32


class VllmSampler:
    """A `Sampler` over an `Engine`. The model is only read: its weights are pushed and its log-probs compared."""

    def __init__(
        self,
        model: nn.Module,
        tokenizer: PreTrainedTokenizerBase,
        encode: Callable[[Example], list[int]],
        engine: Engine,
        probe: Probe,
        tolerance: Tolerance | None = None,
    ) -> None:
        """tolerance: None takes that of the engine's number format."""
        self.model, self.tokenizer, self.encode, self.engine, self.probe = model, tokenizer, encode, engine, probe
        self.ends = eos_ids(unwrapped(model), tokenizer)
        self.tolerance = tolerance or TOLERANCE[engine.about.dtype]
        self.apart: float | None = self.tolerance.mean
        self._pushed = 0
        longest, limit = max(map(len, probe.prompts), default=0), engine.about.max_model_len
        if longest + probe.tokens > limit:
            raise InputError(
                f"a prompt has {longest} tokens, which with {probe.tokens} of a response is above the {limit} that "
                "vLLM was started for: raise vllm.max_model_len (a server's --max-model-len)"
            )

    def sample(
        self, examples: Sequence[Example], n: int, settings: Sampling, key: Int[Tensor, ""], first_group: int
    ) -> Rollouts:
        """`n` responses to each example; see `Sampler`. Entropies are unknown, log-probs are the engine's.

        Raises `InputError` where there is nothing to sample or a prompt leaves no room, `GuardStop` on log-probs that
        are no numbers, `EngineDead` where the engine is gone.
        """
        if not examples or n < 1:
            raise InputError(f"{len(examples)} prompts with {n} responses each: sample at least one of both")
        prompts = [self._encoded(example, settings.max_tokens) for example in examples for _ in range(n)]
        group = torch.arange(len(examples)).repeat_interleave(n) + first_group
        uid = group * n + torch.arange(n).repeat(len(examples))
        asks = [Ask(prompt, seed) for prompt, seed in zip(prompts, seeds(key, uid), strict=True)]
        got = self.engine.generate(asks, how(settings, self.ends))
        ids, mask, logp = tables(got)
        if not torch.isfinite(logp[mask]).all():
            raise GuardStop("vLLM gave log-probs that are no numbers: the weights it samples from hold nan or inf")
        return Rollouts(
            example=[example for example in examples for _ in range(n)],
            prompt=PromptRows(tuple(prompts)),
            ids=ids,
            mask=mask,
            logp=None if settings.truncates else logp,
            logp_sampled=logp,
            entropy=None,
            text=self._texts(got, settings.stop),
            finish=[one.finish for one in got],
            group=group,
            uid=uid,
        )

    def push(self) -> Metrics:
        """See `Sampler`: the weights, their fingerprints, then the probe."""
        weights = self._weights()
        told = self.engine.load(weights)
        wrong = differing(weights, told, self.tolerance.weights)
        if wrong:
            raise GuardStop(
                f"after a push, vLLM ({self.engine.about.where}) computes with other weights than the training model "
                f"in {len(wrong)} of {len(weights)} tensors ({', '.join(wrong[:3])}, ...): start the engine with the "
                "run's own model; if it is, vLLM cannot take this model's weights in place: use --sampler local"
            )
        self._pushed += 1
        return {"sampler/tensors": (float(len(weights)), 1.0), **self._probed()}

    def rest(self) -> None:
        """See `Sampler`."""
        self.engine.sleep()

    def close(self) -> None:
        """See `Sampler`."""
        self.engine.close()

    def _weights(self) -> dict[str, Tensor]:
        kind = {"float32": torch.float32, "bfloat16": torch.bfloat16}[self.engine.about.dtype]
        weights = plain_weights(self.model)
        return {name: value.to(kind) for name, value in weights.items() if value.is_floating_point()}

    @torch.no_grad()
    def _probed(self) -> Metrics:
        if not self.probe.prompts:
            return {}
        settings = Sampling(temperature=self.probe.temperature, max_tokens=self.probe.tokens)
        uid = torch.arange(len(self.probe.prompts))
        asks = [Ask(p, s) for p, s in zip(self.probe.prompts, seeds(pack_key(self._pushed, 0, 1), uid), strict=True)]
        got = self.engine.generate(asks, how(settings, self.ends))
        pairs = zip(asks, got, strict=True)
        gaps = torch.cat([self._gap(ask.prompt, one, self.probe.temperature) for ask, one in pairs])
        mean, most = gaps.mean().item(), gaps.max().item()
        allowed = self.tolerance
        if not (mean <= allowed.mean and most <= allowed.most):
            raise GuardStop(
                f"after a push, vLLM ({self.engine.about.where}) and the training model disagree on the log-probs of "
                f"{len(gaps)} tokens drawn at temperature {self.probe.temperature:g}: mean difference {mean:.2g} "
                f"(allowed {allowed.mean:g}), largest {most:.2g} (allowed {allowed.most:g}); check that both run the "
                "same model at one temperature and number format (vllm.dtype), or raise vllm.tolerance"
            )
        return {"sampler/probe_mean": (mean, 1.0), "sampler/probe_max": (most, 1.0)}

    def _gap(self, prompt: tuple[int, ...], got: Got, temperature: float) -> Float[Tensor, " T"]:
        """|engine - training model| of each token's log-prob."""
        device = next(self.model.parameters()).device
        ids = torch.tensor([[*prompt, *got.ids]], device=device)
        logits = self.model(input_ids=ids, use_cache=False).logits[0, len(prompt) - 1 : -1].float() / temperature
        ours = logits.log_softmax(dim=-1).gather(1, ids[0, len(prompt) :, None])[:, 0].cpu()
        return (ours - torch.tensor(got.logp)).abs().nan_to_num(nan=math.inf)

    def _encoded(self, example: Example, max_tokens: int) -> tuple[int, ...]:
        ids, limit = self.encode(example), self.engine.about.max_model_len
        if not ids:
            raise InputError(f"the prompt of example '{example.id}' has no tokens: give it text or a BOS token")
        if len(ids) + max_tokens > limit:
            raise InputError(
                f"the prompt of example '{example.id}' has {len(ids)} tokens, which with {max_tokens} of the response "
                f"is above the {limit} that vLLM was started for: raise vllm.max_model_len (a server's --max-model-len)"
            )
        return tuple(ids)

    def _texts(self, got: Sequence[Got], stop: tuple[str, ...]) -> list[str]:
        whole = self.tokenizer.batch_decode([one.ids for one in got], skip_special_tokens=True)
        cuts = [cut(text, stop) if one.finish == "stop" else None for text, one in zip(whole, got, strict=True)]
        return [text if short is None else short for text, short in zip(whole, cuts, strict=True)]


def how(settings: Sampling, ends: tuple[int, ...]) -> How:
    """`Sampling` as an engine takes it."""
    return How(
        temperature=settings.temperature,
        top_p=settings.top_p,
        top_k=settings.top_k,
        max_tokens=settings.max_tokens,
        stop=settings.stop,
        ends=ends,
    )


def seeds(key: Int[Tensor, ""], uid: Int[Tensor, " B"]) -> list[int]:
    """A seed a row from (key, uid), below 2**50."""
    return (uniforms(key, uid, 1)[:, 0] * 2**50).long().tolist()


def tables(got: Sequence[Got]) -> tuple[Int[Tensor, "B T"], Tensor, Float[Tensor, "B T"]]:
    """Token ids, mask and log-probs, right-padded."""
    width = max(len(one.ids) for one in got)
    size = torch.tensor([len(one.ids) for one in got])
    ids = torch.tensor([[*one.ids, *[0] * (width - len(one.ids))] for one in got], dtype=torch.int64)
    logp = torch.tensor([[*one.logp, *[0.0] * (width - len(one.logp))] for one in got], dtype=torch.float32)
    return ids, torch.arange(width) < size[:, None], logp
