"""A small model with a trained adapter, rows, and a reward that grades finely: what searches are tried on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from rekindle.api import train
from tests.tiny_models import save_chat_model

SMALL: dict[str, Any] = {
    "rollout.prompts": 3,
    "rollout.max_tokens": 8,
    "rollout.block": 2,
    "search.population": 5,
    "checkpoint.every": 1,
    "checkpoint.keep": 9,
}
REWARD = """def letters(completions, **columns):
    return [sum(map(ord, text)) % 97 / 97 for text in completions]
"""


def given(place: Path) -> Path:
    """`place` with `model`, `adapter` (rank 4, trained for a step), `rows.jsonl` and `reward.py`."""
    save_chat_model(place / "model", "qwen3")
    rows = [{"prompt": f"what is {n} plus one?", "answer": str(n + 1)} for n in range(6)]
    (place / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (place / "reward.py").write_text(REWARD)
    descent = {"lora.rank": 4, "descent.lr": 0.02, "rollout.prompts": 2, "rollout.group": 4, "rollout.max_tokens": 8}
    said = {"model": str(place / "model"), "data": place / "rows.jsonl", "reward": (f"{place / 'reward.py'}:letters",)}
    done = train("grpo", steps=1, out=place / "first", options=descent, **said)
    (done / "final").rename(place / "adapter")
    loud(place / "adapter" / "adapter_model.safetensors")
    return place


def loud(file: Path) -> None:
    """Make the adapter say enough that its singular values matter."""
    tensors = load_file(file)
    rng = torch.Generator().manual_seed(0)
    louder = {n: 0.3 * torch.randn(t.shape, generator=rng) if "lora_B" in n else t for n, t in sorted(tensors.items())}
    save_file({name: value.contiguous() for name, value in louder.items()}, file, {"format": "pt"})


def words(place: Path, model: str = "adapter") -> dict[str, Any]:
    """What a run on it is asked with."""
    return {
        "model": str(place / model),
        "data": str(place / "rows.jsonl"),
        "reward": (f"{place / 'reward.py'}:letters",),
    }
