"""The sentence for an update that does not get its memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from rekindle.core.types import Batch
from rekindle.errors import GuardStop
from rekindle.tokens.heads import unwrapped
from rekindle.tokens.lora import ALL_LINEAR, adapted_layers
from rekindle.tokens.policy import LMPolicy, prompts_of
from rekindle.train.account import Estimate, estimate, gib
from rekindle.train.footprint import Unmeasured, measured
from rekindle.train.workload import Setup, Work


@contextmanager
def memory_told(policy: LMPolicy, batch: Batch, micro_batch: int, checkpointing: bool) -> Iterator[None]:
    """Turns an allocation that fails inside into a GuardStop that names the setting to lower and the estimate."""
    try:
        yield
    except RuntimeError as error:
        if not _out_of_memory(error):
            raise
        needs = _told(policy, batch, micro_batch, checkpointing)
        remedies = [f"descent.micro_batch={max(1, micro_batch // 2)}"] if micro_batch > 1 else []
        remedies += [] if checkpointing else ["checkpointing=true"]
        remedies += ["rollout.max_tokens to less than it is"] if not remedies else []
        raise GuardStop(
            f"out of memory in an update with descent.micro_batch={micro_batch}{needs}"
            f"{_free(policy.parts.device)}: set {' or '.join(remedies)}, in a new run (--model CHECKPOINT)"
        ) from None


def _told(policy: LMPolicy, batch: Batch, micro_batch: int, checkpointing: bool) -> str:
    """What the update needs, in words; nothing for a model whose memory is not known."""
    try:
        needs, tokens = of_update(policy, batch, micro_batch, checkpointing)
    except Unmeasured:
        return ""
    return f" ({tokens} tokens at most), which needs {needs}"


def of_update(policy: LMPolicy, batch: Batch, micro_batch: int, checkpointing: bool) -> tuple[Estimate, int]:
    """(the memory of an update by this policy, the tokens of its longest micro-batch, prompts counted once)."""
    model = unwrapped(policy.model)
    weights = list(model.parameters())
    frozen = any(not p.requires_grad for p in weights)
    trained = sum(p.numel() for p in weights if p.requires_grad)
    held = [p for p in weights if p.is_floating_point() and not (frozen and p.requires_grad)]
    size, sizes = max(p.element_size() for p in held), measured(model)
    targets = tuple(adapted_layers(policy.model)) or ALL_LINEAR
    rows = min(micro_batch, len(batch))
    lengths, prompts = batch.mask.sum(1), prompts_of(batch)
    setup = Setup(
        element=size,
        narrow=policy.precision == "bf16",
        checkpointing=checkpointing,
        lora=max(1, trained // max(sizes.adapters(1, targets), 1)) if frozen else 0,
        targets=targets,
        base=sum(p.numel() * p.element_size() for p in weights if not p.requires_grad) / max(1, sizes.parameters),
        heads=sum(p.numel() for p in policy.heads.parameters()),
        gpu=policy.parts.device.type == "cuda",
    )
    work = Work(
        rows=rows,
        group=max(1, len(batch) // max(1, len(set(prompts)))),
        prompt=max((len(ids) for ids in prompts), default=0),
        response=int(lengths.max()) if len(lengths) else 0,
        pieces=-(-len(batch) // micro_batch),
    )
    return estimate(sizes, setup, work), work.tokens


def _out_of_memory(error: RuntimeError) -> bool:
    """CPU allocations fail with a RuntimeError of no class of its own."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def _free(device: torch.device) -> str:
    if device.type != "cuda":
        return ""
    return f", where {gib(torch.cuda.mem_get_info(device)[0])} are free"
