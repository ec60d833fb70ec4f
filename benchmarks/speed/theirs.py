"""TRL's side: its own GRPOTrainer with its own training loop, stopped between two steps so that the others can work."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback

from benchmarks.speed.models import reward
from benchmarks.speed.ours import Job
from benchmarks.speed.work import Lengths
from rekindle.tokens.tasks.files import load_files

MICRO_BATCHES = (8, 16, 32, 64, 128, 256)
WORTH = 0.97  # a larger micro-batch is tried as long as the one before saved this much


class Between(TrainerCallback):
    """Calls `work(seconds of the step)` after each optimiser step of TRL's loop; ends training where it says so."""

    def __init__(self, work: Callable[[float], bool]) -> None:
        self.work = work
        self.began = 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Starts the clock: preparing the loop is not measured."""
        self.began = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """The step is over: sampling, scoring, backward, clipping, AdamW and zeroing gradients are done."""
        seconds = time.perf_counter() - self.began
        control.should_training_stop = not self.work(seconds)
        self.began = time.perf_counter()


def make_trainer(folder: Path, out: Path, job: Job, micro_batch: int, **options: Any) -> Any:
    """A GRPOTrainer on CPU: no bf16, no checkpointing, no logging, no files; `micro_batch` rows a backward pass."""
    from datasets import Dataset  # type: ignore[import-not-found]
    from trl import GRPOConfig, GRPOTrainer  # type: ignore[import-not-found]

    settings: dict[str, Any] = {
        "output_dir": str(out),
        "report_to": [],
        "logging_strategy": "no",
        "save_strategy": "no",
        "disable_tqdm": True,
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "per_device_train_batch_size": micro_batch,
        "gradient_accumulation_steps": job.rows // micro_batch,
        "num_generations": job.group,
        "max_completion_length": job.limit,
        "num_iterations": 1,
        "max_steps": 1_000_000,
        "learning_rate": job.lr,
        "lr_scheduler_type": "constant",
        "weight_decay": 0.01,
        "max_grad_norm": 1.0,
        "beta": 0.0,
        "loss_type": "dapo",
        "delta": 3.0,
        "temperature": 1.0,
    }
    prompts = [example.prompt for example in load_files(folder / "prompts.jsonl", rewarded=True).split("train")]
    return GRPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32),
        args=GRPOConfig(**settings | options),
        reward_funcs=reward,
        processing_class=AutoTokenizer.from_pretrained(folder),
        train_dataset=Dataset.from_dict({"prompt": prompts}),
    )


def train_between(trainer: Any, work: Callable[[float, Lengths], bool]) -> None:
    """Train; after each step `work` gets its seconds and lengths, and says whether to go on."""
    trainer.add_callback(Between(lambda seconds: work(seconds, last_lengths(trainer))))
    trainer.train()


def last_lengths(trainer: Any) -> Lengths:
    """What the trainer's last step worked on."""
    groups: list[tuple[int, ...]] = []
    prompts: list[int] = []
    responses: list[int] = []
    for piece in trainer._buffered_inputs:
        prompts += (sizes := piece["prompt_mask"].sum(dim=1).tolist())
        ids = piece["prompt_ids"].tolist()
        groups += [tuple(row[len(row) - size :]) for row, size in zip(ids, sizes, strict=True)]
        responses += piece["completion_mask"].sum(dim=1).tolist()
    return Lengths.of(groups, prompts, responses)


def backward(trainer: Any, inputs: dict[str, Tensor]) -> None:
    """TRL's own loss of given rows, and its gradient."""
    trainer.current_gradient_accumulation_steps = 1
    trainer._compute_loss(trainer.model, inputs).backward()


def rows_of(vocab: int, rows: int, prompt: int, response: int) -> dict[str, Tensor]:
    """Rows as the trainer holds them, all of full length."""
    rng = torch.Generator().manual_seed(0)
    return {
        "prompt_ids": torch.randint(3, vocab, (rows, prompt), generator=rng),
        "prompt_mask": torch.ones(rows, prompt, dtype=torch.int64),
        "completion_ids": torch.randint(3, vocab, (rows, response), generator=rng),
        "completion_mask": torch.ones(rows, response, dtype=torch.int64),
        "advantages": torch.randn(rows, generator=rng),
        "num_items_in_batch": torch.tensor(rows * response),
    }


def best_micro_batch(folder: Path, out: Path, job: Job, prompt: int, sizes: Sequence[int]) -> dict[str, float]:
    """Rows a backward pass -> seconds a row, upwards until more rows gain nothing. The fastest is TRL's setting."""
    trainer = make_trainer(folder, out, job, job.rows)
    trainer.model.train()
    vocab = trainer.model.config.vocab_size
    found: dict[str, float] = {}
    for size in [n for n in sizes if job.rows % n == 0 and n <= job.rows]:
        inputs = rows_of(vocab, size, prompt, job.limit)
        if not found:
            backward(trainer, inputs)
        found[str(size)] = fastest(lambda inputs=inputs: backward(trainer, inputs)) / size
        trainer.model.zero_grad(set_to_none=True)
        values = list(found.values())
        if len(values) > 2 and min(values[-2:]) > min(values[:-2]) * WORTH:
            break
    return found


def fastest(work: Callable[[], None], repeats: int = 5, budget: float = 2.0) -> float:
    """The fewest seconds of a few repeats; of fewer where they are long."""
    seconds: list[float] = []
    while len(seconds) < repeats and sum(seconds) < budget:
        began = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - began)
    return min(seconds)
