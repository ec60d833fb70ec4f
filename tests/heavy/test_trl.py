"""Loss, gradient and advantages against the real GRPOTrainer of TRL 1.16, with matching flags.

TRL's fused head accumulates in float32 whatever the model's dtype, so its loss as a whole is gated at 2e-6; with full
logits in the place of that head, TRL's `_compute_loss` is gated at 1e-10.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from rekindle.core.advantages import GroupNormalized
from rekindle.core.aggregate import Aggregate, FixedLength, SequenceMean, TokenMean
from rekindle.core.descend import backward
from rekindle.core.method import TokenTerm
from rekindle.core.objectives import Clip
from rekindle.core.terms import EntropyBonus, KLToReference
from rekindle.core.types import Batch
from rekindle.methods import grpo
from rekindle.tokens.policy import LMPolicy
from rekindle.tokens.rollouts import PromptRows
from tests.tiny_models import VOCABULARY, build, tokenizer

# TRL's and its dependencies' own warnings are not ours to fix.
pytestmark = [pytest.mark.heavy, pytest.mark.filterwarnings("ignore")]

LIMIT = 10
LENGTHS = (9, 4, 7, 1, 9, 5, 2, 8)
BETA = 0.04
REWARDS = (1.0, 0.0, 0.0, 0.0)


@dataclass(frozen=True)
class Case:
    """The same loss, said in TRL's words and in ours."""

    aggregate: Aggregate
    flags: dict[str, Any]
    objective: Clip = field(default_factory=lambda: Clip(low=0.8, high=1.2))
    terms: tuple[TokenTerm, ...] = ()
    beta: float = 0.0


CASES = {
    "dapo": Case(TokenMean(), {"loss_type": "dapo"}),
    "bnpo": Case(TokenMean(), {"loss_type": "bnpo"}),
    "grpo": Case(SequenceMean(), {"loss_type": "grpo"}),
    "dr_grpo": Case(FixedLength(LIMIT), {"loss_type": "dr_grpo"}),
    "clip_higher": Case(TokenMean(), {"loss_type": "dapo", "epsilon_high": 0.28}, Clip(low=0.8, high=1.28)),
    "kl": Case(TokenMean(), {"loss_type": "dapo"}, terms=(KLToReference(coef=BETA),), beta=BETA),
    "kl_by_sequence": Case(
        SequenceMean(), {"loss_type": "grpo"}, terms=(KLToReference(coef=BETA, aggregate=SequenceMean()),), beta=BETA
    ),
    "sequence_level": Case(
        SequenceMean(),
        {"loss_type": "grpo", "importance_sampling_level": "sequence", "epsilon": 0.01},
        Clip(low=0.99, high=1.01, level="sequence"),
    ),
    "entropy": Case(TokenMean(), {"loss_type": "dapo", "entropy_coef": 0.01}, terms=(EntropyBonus(coef=0.01),)),
    "temperature": Case(TokenMean(), {"loss_type": "dapo", "temperature": 0.7}),
}

MakeTrainer = Callable[..., Any]


@pytest.fixture
def make_trainer(tmp_path: Path) -> MakeTrainer:
    pytest.importorskip("trl", reason="real TRL is in the environment of `make test-heavy` only")
    from datasets import Dataset  # type: ignore[import-not-found]
    from trl import GRPOConfig, GRPOTrainer  # type: ignore[import-not-found]

    def make(model: PreTrainedModel, beta: float = 0.0, **flags: Any) -> Any:
        config = GRPOConfig(
            output_dir=str(tmp_path),
            report_to=[],
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            per_device_train_batch_size=8,
            num_generations=4,
            max_completion_length=LIMIT,
            beta=0.0,
            use_bias_correction_kl=False,
            **flags,
        )
        trainer = GRPOTrainer(
            model=model,
            args=config,
            reward_funcs=lambda completions, **_: list(REWARDS) * (len(completions) // len(REWARDS)),
            processing_class=tokenizer(),
            train_dataset=Dataset.from_dict({"prompt": ["abc", "de"]}),
        )
        # A beta in the config would load a reference by the model's name; the loss reads log-probs from its inputs.
        trainer.beta = beta
        trainer.current_gradient_accumulation_steps = 1
        trainer.model.train()
        return trainer

    return make


def random_batch(model: PreTrainedModel, temperature: float, prompt_lengths: tuple[int, ...]) -> Batch:
    """Eight rows in two groups; log-probs of old and reference lie around the model's own, far enough to be clipped."""
    rng = torch.Generator().manual_seed(5)
    mask = torch.arange(max(LENGTHS)) < torch.tensor(LENGTHS)[:, None]
    prompts = tuple(tuple(torch.randint(3, VOCABULARY, (n,), generator=rng).tolist()) for n in prompt_lengths)
    batch = Batch(
        action=torch.randint(3, VOCABULARY, mask.shape, generator=rng).where(mask, 0),
        mask=mask,
        uid=torch.arange(8),
        group=torch.arange(8) // 4,
        success=torch.arange(8) % 3 == 0,
        graded=torch.ones(8, dtype=torch.bool),
        score=(torch.arange(8) % 3 == 0).double(),
        prompt=PromptRows(prompts),
        key=torch.tensor(0),
    )
    with torch.no_grad():
        logp = LMPolicy(model, temperature)(batch).logp
    noise = torch.randn(2, *mask.shape, generator=rng, dtype=torch.float64) * 0.4
    old, reference = (logp + noise).where(mask, 0.0)
    batch = batch.with_columns(logp_old=old, logp_ref=reference)
    return batch.with_columns(advantage=GroupNormalized()(batch))


def trl_inputs(batch: Batch) -> dict[str, Tensor]:
    """The batch as TRL's trainer holds it: prompts padded at the left, responses at the right."""
    rows = batch.prompt.ids  # type: ignore[attr-defined]
    width = max(map(len, rows))
    return {
        "prompt_ids": torch.tensor([[0] * (width - len(row)) + list(row) for row in rows]),
        "prompt_mask": torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows]),
        "completion_ids": batch.action,
        "completion_mask": batch.mask.long(),
        "advantages": batch.advantage[:, 0],
        "old_per_token_logps": batch.logp_old,
        "ref_per_token_logps": batch.column("logp_ref"),
        "num_items_in_batch": batch.mask.sum(),
    }


def full_logits_scores(trainer: Any) -> Callable[..., tuple[Tensor, Tensor, None]]:
    """What stands in for TRL's fused head: log-probs and entropies from full logits, in the model's own dtype."""

    def scores(model: Any, ids: Tensor, attention: Tensor, keep: int, **_: Any) -> tuple[Tensor, Tensor, None]:
        logits = model(input_ids=ids, attention_mask=attention).logits[:, -keep - 1 : -1]
        table = (logits / trainer.temperature).log_softmax(dim=-1)
        taken = table.gather(2, ids[:, -keep:, None])[:, :, 0]
        return taken, -(table.exp() * table).sum(dim=-1), None

    return scores


def compare(
    make_trainer: MakeTrainer, case: Case, prompt_lengths: tuple[int, ...] = (4,) * 8, own_head: bool = False
) -> tuple[float, float, dict]:
    """(difference of the losses, largest difference of gradients over the largest gradient, our metrics)."""
    temperature = case.flags.get("temperature", 1.0)
    theirs = build("llama", torch.float64)
    ours = deepcopy(theirs)
    batch = random_batch(ours, temperature, prompt_lengths)
    trainer = make_trainer(theirs, case.beta, **case.flags)
    if not own_head:
        trainer._get_per_token_logps_and_entropies = full_logits_scores(trainer)
    their_loss = trainer._compute_loss(trainer.model, trl_inputs(batch))
    their_loss.backward()
    method = grpo.method().replace(objective=case.objective, aggregate=case.aggregate, terms=case.terms)
    loss, _, metrics = backward(LMPolicy(ours, temperature), batch, method, 3)
    gradients = [(p.grad, q.grad) for p, q in zip(theirs.parameters(), ours.parameters(), strict=True)]
    pairs = [(a, b) for a, b in gradients if a is not None and b is not None]
    assert len(pairs) == len(gradients)
    scale = max(a.abs().max().item() for a, _ in pairs)
    assert scale > 1e-3, "no gradient: the comparison proves nothing"
    apart = max((a - b).abs().max().item() for a, b in pairs) / scale
    return abs(their_loss.item() - loss), apart, metrics


@pytest.mark.parametrize("name", CASES)
def test_loss_and_gradient(make_trainer: MakeTrainer, name: str) -> None:
    loss, gradient, metrics = compare(make_trainer, CASES[name])
    assert loss <= 1e-10 and gradient <= 1e-10
    assert metrics["clip_high"][0] > 0 and metrics["clip_low"][0] > 0, "nothing was clipped"


@pytest.mark.parametrize("name", CASES)
def test_loss_and_gradient_through_their_own_head(make_trainer: MakeTrainer, name: str) -> None:
    loss, gradient, _ = compare(make_trainer, CASES[name], own_head=True)
    assert loss <= 2e-6 and gradient <= 2e-6


def test_ragged_prompts(make_trainer: MakeTrainer) -> None:
    # Padding at the left moves TRL's rows to other positions, whose rotary angles transformers takes in float32.
    loss, gradient, _ = compare(make_trainer, CASES["dapo"], (4, 1, 2, 4, 3, 3, 1, 2))
    assert loss <= 1e-5 and gradient <= 1e-5


def test_a_wrong_flag_is_seen(make_trainer: MakeTrainer) -> None:
    loss, gradient, _ = compare(make_trainer, Case(TokenMean(), {"loss_type": "grpo"}))
    assert loss > 1e-4 and gradient > 1e-3


@pytest.mark.parametrize("scaling", ["group", "none"])
def test_advantages_of_real_rollouts(make_trainer: MakeTrainer, scaling: str) -> None:
    trainer = make_trainer(build("llama"), scale_rewards=scaling)
    rows = [{"prompt": prompt} for prompt in ("abc", "de") for _ in range(4)]
    theirs = trainer._generate_and_score_completions(rows)["advantages"]
    batch = Batch(
        action=torch.ones(8, 1, dtype=torch.int64),
        mask=torch.ones(8, 1, dtype=torch.bool),
        uid=torch.arange(8),
        group=torch.arange(8) // 4,
        success=torch.tensor(REWARDS * 2) > 0.5,
        graded=torch.ones(8, dtype=torch.bool),
        score=torch.tensor(REWARDS * 2),
        prompt=PromptRows(((1,),) * 8),
        key=torch.tensor(0),
    )
    ours = GroupNormalized(std="sample" if scaling == "group" else "none", eps=1e-4)(batch)[:, 0]
    assert ours.tolist() == pytest.approx(theirs.tolist(), abs=1e-6)
    assert ours[0].item() == pytest.approx(1.4997 if scaling == "group" else 0.75, abs=1e-4)
