"""TRL's DPO trainer: its `_compute_loss` on given log-probs of pairs."""

from __future__ import annotations

import functools
import tempfile
from dataclasses import dataclass
from typing import Any

import torch
from datasets import Dataset  # type: ignore[import-not-found]
from torch import Tensor
from trl import DPOConfig, DPOTrainer  # type: ignore[import-not-found]

from benchmarks.judge.cases import ROWS, Case
from benchmarks.judge.sides import Said, leaves
from tests.tiny_models import build, tokenizer


@dataclass(frozen=True)
class Spoken:
    """What the trainer's fused head would have given; all but the log-probs is for its log alone."""

    log_probs: Tensor
    entropy: Tensor
    mean_logits: Tensor
    is_top1: Tensor


@functools.cache
def trainer(flags: tuple[tuple[str, Any], ...]) -> Any:
    """One a setting, with TRL's defaults but `flags`, on the CPU; the reference's log-probs are given."""
    config = DPOConfig(
        output_dir=tempfile.gettempdir(),
        report_to=[],
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        per_device_train_batch_size=ROWS // 2,
        **dict(flags),
    )
    pairs = {"prompt": ["a", "b"], "chosen": ["c", "d"], "rejected": ["e", "f"]}
    return DPOTrainer(
        model=build("llama"),
        ref_model=build("llama"),
        args=config,
        processing_class=tokenizer(),
        train_dataset=Dataset.from_dict(pairs),
    )


def loss(case: Case, **flags: Any) -> Said:
    """Loss and gradient of pairs: of each group the row with the higher score is the chosen one."""
    made, leaf, batch = trainer(tuple(flags.items())), leaves(case), case.batch
    order = torch.argsort(batch.group * 2 - batch.score.long(), stable=True)
    rows = torch.cat([order[::2], order[1::2]])  # TRL's batch: all chosen, then all rejected
    mask = batch.mask[rows]
    masks = torch.cat([torch.zeros(len(rows), 1, dtype=torch.int64), mask.long()], dim=1)
    logps = leaf[0, rows].where(mask, 0.0)
    other = torch.zeros_like(logps.detach())
    made.precompute_ref_logps = True
    reference = batch.column("logp_ref")[rows].where(mask, 0.0).sum(dim=1).chunk(2)
    inputs = {"input_ids": torch.ones_like(masks), "attention_mask": torch.ones_like(masks), "completion_mask": masks}
    inputs |= {"ref_chosen_logps": reference[0], "ref_rejected_logps": reference[1]}
    found = made._compute_loss(lambda **_: Spoken(logps, other, other, other.bool()), inputs, False)
    found.backward()
    return Said(loss=found.item(), gradient=leaf.grad)
