"""What the tests with real TRL share: a tiny model that answers in letters, and trainers on it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from rekindle.tokens.embed import HashedNgrams
from tests.tiny_models import build, tokenizer

LIMIT, GROUP, PROMPTS = 8, 4, ["abc", "de", "fgh", "i"]


def answer(text: str) -> str | None:
    """The vote of a text of letters: in which third of the alphabet its last letter lies."""
    return str((ord(text[-1]) - ord("a")) // 8) if text else None


def by_letters(completions: list[str], **_: Any) -> list[float]:
    """A reward that differs within groups."""
    return [float(sum(map(ord, text)) % 5 > 2) for text in completions]


def by_letter_pairs(texts: Sequence[str]) -> Tensor:
    """n-grams of letters, for a text of this model is one word."""
    return HashedNgrams()([" ".join(text) for text in texts])


def config(folder: Path, **flags: Any) -> Any:
    """TRL's settings for a run on the CPU of a second; four completions a prompt."""
    from trl import GRPOConfig  # type: ignore[import-not-found]

    own = {
        "per_device_train_batch_size": 8,
        "max_steps": 3,
        "logging_steps": 1,
        "learning_rate": 1e-2,
        "save_strategy": "no",
    }
    return GRPOConfig(
        output_dir=str(folder),
        report_to=[],
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        num_generations=GROUP,
        max_completion_length=LIMIT,
        disable_tqdm=True,
        **{**own, **flags},
    )


def trainer(
    folder: Path, kind: Any, rewards: Any = by_letters, *, more: dict[str, Any] | None = None, **flags: Any
) -> Any:
    """A trainer of class `kind` on the tiny model; `more`: its own arguments, flags: those of `GRPOConfig`."""
    from datasets import Dataset  # type: ignore[import-not-found]

    return kind(
        model=build("llama"),
        args=config(folder, **flags),
        reward_funcs=rewards,
        processing_class=tokenizer(),
        train_dataset=Dataset.from_dict({"prompt": PROMPTS}),
        **(more or {}),
    )
