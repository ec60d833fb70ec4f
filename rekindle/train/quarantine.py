"""Where a batch goes whose loss was not finite: plain safetensors in the run folder, to be looked at."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from rekindle.core.types import Batch, Now
from rekindle.errors import GuardStop


def quarantine(folder: Path | None, step: int, index: int, batch: Batch, now: Now | None) -> str:
    """Write every tensor of the batch and, where it was asked, what the policy said; returns where, if anywhere."""
    if folder is None:
        return "no run folder (none was asked for)"
    path = folder / f"bad-batch-step-{step:06d}-update-{index}.safetensors"
    said = {} if now is None else {"now.logp": now.logp, "now.entropy": now.entropy}
    save_file(batch_tensors(batch) | {name: own(value) for name, value in said.items()}, path)
    return str(path)


def batch_tensors(batch: Batch) -> dict[str, Tensor]:
    """Every tensor of a batch as safetensors take it, its columns as `extra.NAME`; prompts and other rows are none."""
    tensors = {
        "action": batch.action,
        "mask": batch.mask,
        "uid": batch.uid,
        "group": batch.group,
        "success": batch.success,
        "graded": batch.graded,
        "score": batch.score,
        "key": batch.key,
        **{f"extra.{name}": value for name, value in batch.extra.items() if isinstance(value, Tensor)},
    }
    return {name: own(value) for name, value in tensors.items()}


def own(value: Tensor) -> Tensor:
    """A copy with memory of its own, in order."""
    return torch.clone(value, memory_format=torch.contiguous_format)


def not_finite(step: int, index: int, loss: float, norm: float, where: str, more: str = "") -> GuardStop:
    """The stop before an update whose loss or gradient is no number. where: the batch lies; more: of the gradient."""
    return GuardStop(
        f"step {step}, update {index}: loss {loss:g}, gradient norm {norm:g}{more}; stopped before the optimiser step, "
        f"the batch is in {where}; lower descent.lr or look at the scores, in a new run (--model CHECKPOINT)"
    )
