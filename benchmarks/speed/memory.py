"""(c) Memory of one update at a large vocabulary: the peak resident size above that of the loaded model.

Each side runs in a fresh process. It loads its model, takes the loss and gradient of a few tokens once (imports, thread
pools and buffers of the library come into being), drops them, and only then the peak is reset and the update is run.
The optimiser's own step is not part of it: its state is the same on both sides.
"""

from __future__ import annotations

import ctypes
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.speed import ours
from benchmarks.speed.models import SIZES, make_model, make_prompts, make_tokenizer
from benchmarks.speed.plan import MEMORY, ROWS
from rekindle.core.descend import backward
from rekindle.core.types import Batch
from rekindle.methods import grpo
from rekindle.tokens.policy import LMPolicy
from rekindle.tokens.rollouts import PromptRows

PROMPT = 16


def measure(name: str, length: int, work: Path, setting: str) -> dict[str, Any]:
    """Bytes at the peak above the loaded model, of one setting."""
    size = SIZES[name]
    folder = work / "model"
    make_model(size, tied=True).save_pretrained(folder)
    make_tokenizer(size.vocab).save_pretrained(folder)
    texts = make_prompts(size.vocab, 8, 4, 8)
    lines = [f'{{"id": "{i}", "prompt": "{text}"}}' for i, text in enumerate(texts)]
    (folder / "prompts.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    rows, checkpointing = MEMORY[setting]
    if setting.startswith("trl"):
        model, update = their_update(folder, work, size.vocab, rows, checkpointing)
    else:
        model, update = our_update(folder, size.vocab, rows)
    update(1, 4)
    model.zero_grad(set_to_none=True)
    found = peak(lambda: update(ROWS, length))
    gradient = sum(p.grad.numel() * p.grad.element_size() for p in model.parameters() if p.grad is not None)
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    return {"vocab": size.vocab, "hidden": size.hidden, "rows": ROWS, "prompt": PROMPT, "length": length} | {
        **found,
        "gradient": gradient,
        "weights": weights,
    }


def our_update(folder: Path, vocab: int, micro_batch: int) -> tuple[Any, Callable[[int, int], None]]:
    """(the model, an update of `rows` responses of `length` tokens) by the policy of a run."""
    run = ours.make(folder, ours.Job(prompts=2, group=2, limit=8))
    method = grpo.method()

    def update(rows: int, length: int) -> None:
        backward(run.policy, batch_of(run.policy, vocab, rows, length), method, micro_batch)

    return run.loaded.model, update


def batch_of(policy: LMPolicy, vocab: int, rows: int, length: int) -> Batch:
    """Rows of full length, each of a prompt of its own."""
    from benchmarks.speed.theirs import rows_of

    data = rows_of(vocab, rows, PROMPT, length)
    batch = Batch(
        action=data["completion_ids"],
        mask=data["completion_mask"].bool(),
        uid=torch.arange(rows),
        group=torch.arange(rows),
        success=torch.ones(rows, dtype=torch.bool),
        graded=torch.ones(rows, dtype=torch.bool),
        score=torch.ones(rows, dtype=torch.float64),
        prompt=PromptRows(tuple(tuple(ids) for ids in data["prompt_ids"].tolist())),
        key=torch.tensor(0),
    )
    advantage = data["advantages"].double()[:, None].expand(rows, length)
    logp = torch.full((rows, length), -11.9)
    return batch.with_columns(logp_old=logp, advantage=advantage)


def their_update(
    folder: Path, work: Path, vocab: int, micro_batch: int, checkpointing: bool
) -> tuple[Any, Callable[[int, int], None]]:
    """(the model, TRL's `_compute_loss` and its gradient on the same rows, `micro_batch` at a time)."""
    from benchmarks.speed import theirs

    options = {"gradient_checkpointing": checkpointing, "num_generations": 2}
    trainer = theirs.make_trainer(folder, work / "trl", ours.Job(prompts=2, group=2, limit=8), 4, **options)
    trainer.model.train()
    if checkpointing:  # as Trainer does when training begins
        trainer.model.gradient_checkpointing_enable(trainer.args.gradient_checkpointing_kwargs)

    def update(rows: int, length: int) -> None:
        inputs = theirs.rows_of(vocab, rows, PROMPT, length)
        inputs["old_per_token_logps"] = torch.full((rows, length), -11.9)
        for start in range(0, rows, micro_batch):
            piece = {n: v[start : start + micro_batch] if v.dim() else v for n, v in inputs.items()}
            theirs.backward(trainer, piece)

    return trainer.model, update


def peak(work: Callable[[], None]) -> dict[str, float]:
    """Bytes above the resident size before. reset: whether the kernel let the peak be counted from there."""
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    try:
        Path("/proc/self/clear_refs").write_text("5")
        reset = True
    except OSError:
        reset = False
    before = _status("VmRSS")
    work()
    most = _status("VmHWM") if reset else 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"before": before, "peak": most - before, "reset": reset}


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))
