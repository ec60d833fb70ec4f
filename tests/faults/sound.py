"""Sound models, adapters and runs, which malformed ones are made of."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rekindle.cli.common import run_safely
from rekindle.cli.main import app
from rekindle.tokens.loader import load_model
from rekindle.tokens.lora import adapt, save_adapter
from tests.cli.folders import llama_folder

TEMPLATE = (
    "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)


def chat_model(folder: Path) -> Path:
    """A tiny Llama with a chat template, and room for 256 tokens."""
    llama_folder(folder, max_position_embeddings=256)
    file = folder / "tokenizer_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "chat_template": TEMPLATE}))
    return folder


def adapter(folder: Path, base: Path) -> Path:
    """A LoRA adapter of rank 2 on `base`, as PEFT saves it."""
    model: Any = adapt(load_model(str(base)).model, 2, None, ("q_proj", "v_proj"), 0)
    save_adapter(model, folder)
    return folder


def run(folder: Path) -> Path:
    """A finished run of two steps whose events go on for forty."""
    flags = ["--prompts", "2", "--group", "2", "--steps", "2", "--set", "rollout.votes=4", "--task", "digit_sum"]
    assert run_safely(app, ["train", "evol_rl", *flags, "--out", str(folder)]) == 0
    steps = [
        {
            "kind": "step",
            "step": n,
            "entropy": 2.0 * 0.9**n,
            "success": 1 - 0.9**n,
            "truth/pass@1": 1 - 0.9**n,
            "time": {},
        }
        for n in range(1, 41)
    ]
    (folder / "events.jsonl").write_text("".join(json.dumps(step) + "\n" for step in steps))
    return folder


def saved_set(folder: Path) -> Path:
    """Three rows as `datasets` saves them, in a dictionary of one split."""
    import datasets

    rows = [{"prompt": f"1+{n}=", "answer": str(n + 1), "id": str(n)} for n in range(3)]
    datasets.DatasetDict({"train": datasets.Dataset.from_list(rows)}).save_to_disk(str(folder))
    return folder
