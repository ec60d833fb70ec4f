"""TRL's side: its trainers' own scoring of given rollouts, and their `_compute_loss` on given log-probs."""

from __future__ import annotations

import functools
import tempfile
from dataclasses import dataclass
from typing import Any

import torch
from datasets import Dataset  # type: ignore[import-not-found]
from torch import Tensor
from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer  # type: ignore[import-not-found]

from benchmarks.judge.cases import ROWS, WIDTH, Case
from benchmarks.judge.sides import Said, leaves
from tests.tiny_models import build, tokenizer

GROUP = 4


@dataclass(frozen=True)
class Trainer:
    """A real trainer of a tiny model, and the rewards that its reward function is to give next."""

    made: Any
    scores: list[float | None]


@functools.cache
def trainer(pieces: int, flags: tuple[tuple[str, Any], ...], rloo: bool = False) -> Trainer:
    """One a setting, with TRL's defaults but `flags`; 4 generations a prompt, on the CPU."""
    given, scores = {"beta": 0.0, **dict(flags)}, []
    # A beta in the configuration would load a reference model by name, and use_vllm would start an engine.
    beta, correct = given["beta"], "vllm_importance_sampling_mode" in given
    make, configure = (RLOOTrainer, RLOOConfig) if rloo else (GRPOTrainer, GRPOConfig)
    config = configure(
        output_dir=tempfile.gettempdir(),
        report_to=[],
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        per_device_train_batch_size=ROWS // pieces,
        gradient_accumulation_steps=pieces,
        num_generations=GROUP,
        max_completion_length=WIDTH,
        **{**given, "beta": 0.0},
    )
    made = make(
        model=build("llama"),
        args=config,
        reward_funcs=lambda completions, **_: scores[: len(completions)],
        processing_class=tokenizer(),
        train_dataset=Dataset.from_dict({"prompt": ["abc", "de", "f", "gh"]}),
    )
    made.beta, made.use_vllm = beta, correct
    made.current_gradient_accumulation_steps = pieces
    made.model.train()
    return Trainer(made, scores)


def loss(case: Case, pieces: int = 1, **flags: Any) -> Said:
    """Loss and gradient on the case's own advantages, in `pieces` micro-batches."""
    batch, leaf, total = case.batch, leaves(case), 0.0
    made = trainer(pieces, tuple(flags.items())).made
    for rows in torch.arange(len(batch)).chunk(pieces):
        piece = batch.take(rows)
        inputs = {
            "completion_ids": piece.action,
            "completion_mask": piece.mask.long(),
            "advantages": piece.advantage,
            "old_per_token_logps": piece.logp_old,
            "ref_per_token_logps": piece.column("logp_ref"),
            "num_items_in_batch": batch.mask.sum(),
        }
        total += _descend(made, inputs, leaf[:, rows])
    return Said(loss=total, gradient=leaf.grad)


def whole(case: Case, **flags: Any) -> Said:
    """From scores to gradient, by the trainer's own scoring of the rollouts."""
    found = trainer(1, tuple(flags.items()))
    inputs = _scored(found, case)
    inputs["old_per_token_logps"] = case.batch.logp_old
    leaf = leaves(case)
    value = _descend(found.made, inputs, leaf)
    return Said(_by_token(inputs["advantages"], case), value, leaf.grad)


def advantage(case: Case, rloo: bool = False, **flags: Any) -> Said:
    """Advantages of rollouts whose rewards are the case's scores; a row that is not graded is rewarded None."""
    return Said(advantage=_by_token(_scored(trainer(1, tuple(flags.items()), rloo), case)["advantages"], case))


def rloo_loss(case: Case, **flags: Any) -> Said:
    """Loss and gradient of the RLOO trainer on the case's own advantages, one a row."""
    batch, leaf = case.batch, leaves(case)
    inputs = {
        "completion_ids": batch.action,
        "completion_mask": batch.mask.long(),
        "advantages": batch.advantage[:, 0],
        "old_logps": batch.logp_old.where(batch.mask, 0.0).sum(dim=1),
    }
    return Said(loss=_descend(trainer(1, tuple(flags.items()), True).made, inputs, leaf), gradient=leaf.grad)


def kept_share(case: Case, share: float) -> float:
    """Share of the tokens whose entropy reaches the trainer's quantile."""
    made = trainer(1, ()).made
    kept = made.get_high_entropy_mask(case.entropy, case.batch.mask.long(), 1 - share)
    return kept.sum().item() / case.batch.mask.sum().item()


def _descend(made: Any, inputs: dict[str, Any], leaf: Tensor) -> float:
    """Adds the gradient of `_compute_loss` to the leaf, which stands for the model; returns the loss."""
    made._get_per_token_logps_and_entropies = lambda *_, **__: (leaf[0], leaf[1], None)
    one = torch.ones(leaf.shape[1], 1, dtype=torch.int64)
    found = made._compute_loss(made.model, {"prompt_ids": one, "prompt_mask": one, **inputs})
    found.backward()
    return found.item()


def _scored(found: Trainer, case: Case) -> dict[str, Any]:
    """What the trainer makes of the case's rollouts: it generates nothing, all else is its own."""
    batch, made = case.batch, found.made
    graded = zip(batch.score.tolist(), batch.graded.tolist(), strict=True)
    found.scores[:] = [score if ok else None for score, ok in graded]
    # Full rows with gaps as tool masks: TRL's completions have no gaps of their own.
    rollouts = ([[5]] * ROWS, batch.action.tolist(), batch.mask.long().tolist(), ["a"] * ROWS)
    sampled = batch.column("logp_sampled").tolist()
    made._generate = lambda prompts, *_: (*rollouts, sampled, {}, None, None)
    if isinstance(made, RLOOTrainer):
        made._generate = lambda prompts, *_: (rollouts[0], rollouts[1], rollouts[3])
    made._get_per_token_logps_and_entropies = lambda *_, **__: (batch.logp_old, case.entropy, None)
    prompts = [{"prompt": prompt} for prompt in ("abc", "de", "f", "gh") for _ in range(GROUP)]
    return made._generate_and_score_completions(prompts)


def _by_token(row: Tensor, case: Case) -> Tensor:
    return row[:, None].double().expand(case.batch.mask.shape).where(case.batch.mask, 0.0)
