"""The supervised warm start: a small causal language model trained from scratch on a task's written examples.

The result is a plain Hugging Face folder plus `warm.json`, which holds the command, the seed, the loss curve and the
accuracies. The same arguments on the same machine give the same weights.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Protocol, cast, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast, Qwen3Config

from rekindle.errors import GuardStop, InputError
from rekindle.tokens.charset import build_tokenizer
from rekindle.tokens.loader import quiet
from rekindle.tokens.recipes import PROMPTS, Recipe, command
from rekindle.tokens.recipes import RECIPES as RECIPES
from rekindle.tokens.tasks.base import Task
from rekindle.tokens.warm_accuracy import measure

CONTEXT = 256
HEAD_SIZE = 32
_BUCKET = 8
"""Batches drawn together and sorted by length, so that a batch holds little padding."""


@runtime_checkable
class WarmTask(Protocol):
    """A task that can write its own training examples."""

    @property
    def name(self) -> str:
        """The task's name."""
        ...

    def warm_examples(self, seed: int) -> Iterator[tuple[str, str]]:
        """Endless (prompt, response) pairs, the same ones for the same seed."""
        ...


def build_model(recipe: Recipe, tokenizer: PreTrainedTokenizerFast) -> PreTrainedModel:
    """An untrained model of the recipe's sizes, float32, its weights a function of the recipe's seed."""
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=recipe.hidden,
        intermediate_size=3 * recipe.hidden,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        num_key_value_heads=recipe.kv_heads,
        head_dim=HEAD_SIZE,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        initializer_range=0.06,
        pad_token_id=cast(int, tokenizer.pad_token_id),
        eos_token_id=cast(int, tokenizer.eos_token_id),
        bos_token_id=None,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        return AutoModelForCausalLM.from_config(config, dtype=torch.float32)


@dataclass(frozen=True)
class _Encoded:
    """A training example as token ids; `start` is the place of the first response token."""

    ids: list[int]
    start: int


def _encode(tokenizer: PreTrainedTokenizerFast, pairs: Sequence[tuple[str, str]]) -> list[_Encoded]:
    texts = tokenizer([p for p, _ in pairs] + [r for _, r in pairs], add_special_tokens=False)["input_ids"]
    rows = cast(list[list[int]], texts)
    end = cast(int, tokenizer.eos_token_id)
    return [_Encoded([*p, *r, end], len(p)) for p, r in zip(rows[: len(pairs)], rows[len(pairs) :], strict=True)]


def _batches(task: WarmTask, tokenizer: PreTrainedTokenizerFast, recipe: Recipe) -> Iterator[list[_Encoded]]:
    examples = task.warm_examples(recipe.seed)
    generator = torch.Generator().manual_seed(recipe.seed)
    while True:
        drawn = _encode(tokenizer, list(islice(examples, recipe.batch * _BUCKET)))
        drawn.sort(key=lambda e: len(e.ids))
        for i in torch.randperm(_BUCKET, generator=generator).tolist():
            yield drawn[i * recipe.batch : (i + 1) * recipe.batch]


def _tensors(rows: Sequence[_Encoded], pad: int) -> tuple[Int[Tensor, "B T"], Int[Tensor, "B T"]]:
    """Token ids and next-token targets, right-padded; a target is -100 where the next token is not of the response."""
    width = max(len(r.ids) for r in rows)
    ids = torch.full((len(rows), width), pad)
    targets = torch.full((len(rows), width), -100)
    for i, row in enumerate(rows):
        ids[i, : len(row.ids)] = torch.tensor(row.ids)
        targets[i, row.start - 1 : len(row.ids) - 1] = torch.tensor(row.ids[row.start :])
    return ids, targets


def response_loss(model: PreTrainedModel, rows: Sequence[_Encoded], pad: int) -> Float[Tensor, ""]:
    """Mean cross-entropy (nats a token) of the response tokens. Right padding needs no mask under causal attention."""
    ids, targets = _tensors(rows, pad)
    hidden = model.base_model(input_ids=ids, use_cache=False).last_hidden_state
    chosen = targets >= 0
    head = cast(torch.nn.Linear, model.get_output_embeddings())
    logits = functional.linear(hidden[chosen], head.weight)
    return functional.cross_entropy(logits, targets[chosen])


def _rate(recipe: Recipe, step: int) -> float:
    """The learning rate at `step`: a warm-up over a twentieth of the steps, then a cosine to a twentieth."""
    ramp = max(1, recipe.steps // 20)
    if step < ramp:
        return recipe.lr * (step + 1) / ramp
    return recipe.lr * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * (step - ramp) / max(1, recipe.steps - ramp))))


Progress = Callable[[int, float], None]


def _train(
    model: PreTrainedModel, batches: Iterator[list[_Encoded]], recipe: Recipe, progress: Progress | None
) -> list[float]:
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.lr, betas=(0.9, 0.98), weight_decay=0.01)
    losses = []
    model.train()
    for step, rows in enumerate(islice(batches, recipe.steps)):
        for group in optimizer.param_groups:
            group["lr"] = _rate(recipe, step)
        loss = response_loss(model, rows, cast(int, model.config.pad_token_id))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        losses.append(loss.item())
        if not math.isfinite(losses[-1]):
            raise GuardStop(f"the loss of the warm start is not finite at step {step}: use a smaller learning rate")
        optimizer.step()
        if progress is not None:
            progress(step, losses[-1])
    return losses


def _checked(task: Task, out: Path) -> WarmTask:
    file = next((place for place in (out, *out.parents) if place.is_file()), None)
    if file is not None:
        raise InputError(f"{file} is a file: give an --out that is a new or empty folder")
    if not isinstance(task, WarmTask):
        raise InputError(
            f"task '{task.name}' has no warm examples: use a task that has `warm_examples`, such as reduce"
        )
    if out.exists() and any(out.iterdir()):
        raise InputError(f"the folder {out} is not empty: give an --out that is new, or empty it")
    return task


def warm(
    task: Task,
    out: Path,
    *,
    steps: int,
    batch: int,
    lr: float,
    seed: int,
    hidden: int,
    layers: int,
    heads: int,
    kv_heads: int,
    threads: int,
    progress: Progress | None = None,
    prompts: int = PROMPTS,
) -> dict[str, Any]:
    """Train a model on the warm examples of `task`, write it to the new or empty folder `out`, return `warm.json`.

    `progress(step, loss)` is called after each step; `prompts` is the number measured on each split at the end.
    Raises `InputError` if `out` holds something or is a file, or the task has no warm examples.
    """
    recipe = Recipe(steps, batch, lr, seed, hidden, layers, heads, kv_heads, threads)
    source = _checked(task, out)
    began, before = time.perf_counter(), torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        tokenizer = build_tokenizer(CONTEXT)
        model = build_model(recipe, tokenizer)
        losses = _train(model, _batches(source, tokenizer, recipe), recipe, progress)
        trained = time.perf_counter() - began
        accuracy = measure(task, model, tokenizer, prompts, 8, seed)
    finally:
        torch.set_num_threads(before)
    said = command(task.name, recipe, prompts)
    return _write(out, said, task, recipe, model, tokenizer, losses, accuracy, trained)


def _write(
    out: Path,
    said: str,
    task: Task,
    recipe: Recipe,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    losses: list[float],
    accuracy: dict[str, Any],
    seconds: float,
) -> dict[str, Any]:
    every = max(1, len(losses) // 50)
    report = {
        "command": said,
        "task": task.name,
        "task_version": task.version,
        "recipe": asdict(recipe),
        "parameters": sum(p.numel() for p in model.parameters()),
        "loss": [[i, round(sum(part) / len(part), 4)] for i, part in _blocks(losses, every)],
        "accuracy": accuracy,
        "seconds": round(seconds, 1),
        "torch": torch.__version__,
    }
    out.mkdir(parents=True, exist_ok=True)
    with quiet():
        model.save_pretrained(out)
        tokenizer.save_pretrained(out)
    (out / "warm.json").write_text(json.dumps(report, indent=1) + "\n")
    return report


def _blocks(values: Sequence[float], size: int) -> Iterator[tuple[int, Sequence[float]]]:
    return ((i, values[i : i + size]) for i in range(0, len(values), size))
