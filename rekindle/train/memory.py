"""What an update needs in memory, and the sentence for a run that does not get it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from rekindle.core.types import Batch
from rekindle.errors import GuardStop
from rekindle.tokens.heads import unwrapped
from rekindle.tokens.policy import LMPolicy, prompts_of
from rekindle.tokens.scores import chunk_of

_WIDE, _INNER = 18, 4  # floats kept a token and layer: of the hidden size, and of the width of the MLP


@dataclass(frozen=True)
class Estimate:
    """Bytes of an update. weights: with gradients and the optimiser's two moments."""

    weights: int
    activations: int
    logits: int

    def __str__(self) -> str:
        parts = {"weights and optimiser": self.weights, "activations": self.activations, "logits": self.logits}
        total = sum(parts.values())
        return f"about {gib(total)} ({', '.join(f'{name} {gib(size)}' for name, size in parts.items())})"


def estimate(policy: LMPolicy, tokens: int, checkpointing: bool = False) -> Estimate:
    """An update's memory where a micro-batch has `tokens` real tokens. Activations are right within a factor of two.

    Not counted: what sampling holds, and the scores of attention.
    """
    model = unwrapped(policy.model)
    config = model.config.get_text_config()
    width, layers = config.hidden_size, config.num_hidden_layers
    inner = config.to_dict().get("intermediate_size") or 4 * width
    kept = 1 if checkpointing else layers
    floats = tokens * (kept * (_WIDE * width + _INNER * inner) + layers * width * checkpointing)
    size = next(model.parameters()).element_size()
    weights = sum(p.numel() * p.element_size() * (4 if p.requires_grad else 1) for p in model.parameters())
    chunk = policy.chunk or chunk_of(policy.parts.vocabulary, tokens)
    logits = 2 * min(tokens, chunk) * policy.parts.vocabulary * max(size, 4)
    return Estimate(weights, floats * size, logits)


@contextmanager
def memory_told(policy: LMPolicy, batch: Batch, micro_batch: int, checkpointing: bool) -> Iterator[None]:
    """Turns an allocation that fails inside into a GuardStop that names the setting to lower and the estimate."""
    try:
        yield
    except RuntimeError as error:
        if not _out_of_memory(error):
            raise
        longest = sorted(len(p) + int(n) for p, n in zip(prompts_of(batch), batch.mask.sum(1), strict=True))
        tokens = sum(longest[-micro_batch:])
        needs = estimate(policy, tokens, checkpointing)
        remedies = [f"descent.micro_batch={max(1, micro_batch // 2)}"] if micro_batch > 1 else []
        remedies += [] if checkpointing else ["checkpointing=true"]
        remedies += ["rollout.max_tokens to less than it is"] if not remedies else []
        raise GuardStop(
            f"out of memory in an update with descent.micro_batch={micro_batch} ({tokens} tokens at most), which needs "
            f"{needs}{_free(policy.parts.device)}: set {' or '.join(remedies)}, then --resume"
        ) from None


def gib(size: int) -> str:
    """Bytes in words."""
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.0f} MiB"


def _out_of_memory(error: RuntimeError) -> bool:
    """CPU allocations fail with a RuntimeError of no class of its own."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def _free(device: torch.device) -> str:
    if device.type != "cuda":
        return ""
    return f", where {gib(torch.cuda.mem_get_info(device)[0])} are free"
