"""A draft for a target, from nothing: the target's own answers, and runs of `sft` and `tvdpp` on them.

The training is that of `rekindle train`: each phase is a run folder that can be looked at, and gone on with, like any
other. Pre-training is next-token prediction on the same answers; there is no other text at hand.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rekindle.core.random import pack_key
from rekindle.errors import InputError
from rekindle.tokens.demonstrations import text_ids
from rekindle.tokens.encoder import load_encode
from rekindle.tokens.loader import Loaded, configured
from rekindle.tokens.rollouts import Example
from rekindle.tokens.sampling.base import Sampling
from rekindle.tokens.sampling.local import LocalSampler
from rekindle.train.lengths import tokenizer_source
from rekindle.train.measure import model_folder
from rekindle.train.refusals import check_prompts
from rekindle.train.start import Asked, launch, prepare

TEMPERATURES = (0.0, 0.3, 0.7, 1.0)
"""Temperatures at which the target answers (TVD++, arXiv 2403.00858); 0 takes the likeliest token."""
_NO_LIMIT = 10**9

Heard = Callable[[str, dict[str, Any]], None]
"""Takes (phase, record of its run)."""


@dataclass(frozen=True, kw_only=True)
class Phase:
    """One run: `name` is its folder's; loss: an objective of `tvdpp`, None for next-token prediction by `sft`."""

    name: str
    loss: str | None
    steps: int
    lr: float
    batch: int = 32


@dataclass(frozen=True, kw_only=True)
class Setup:
    """What all phases share. target: a folder or hub id. Prompts go to a chat template as they are in `data`."""

    target: str
    data: Path
    max_tokens: int
    seed: int = 0
    device: str = "cpu"


def target_place(spec: str, task_name: str) -> str:
    """The target as other runs can name it: they know no task, so that "embedded" becomes its folder."""
    return str(configured(spec, task_name)) if spec == "embedded" else model_folder(spec)


def distilled(
    target: Loaded, examples: Sequence[Example], temperatures: Sequence[float], max_tokens: int, seed: int
) -> tuple[list[dict[str, Any]], int]:
    """(rows of prompt and demonstration, how many answers were left out): the target's answers, one a temperature.

    The prompt is all that the target was told: messages, the system prompt among them, where it has a chat template. An
    answer is left out that has no end within `max_tokens`, or whose text reads back as other tokens than were drawn.
    InputError where none is left.
    """
    check_prompts(target, examples, max_tokens, "--max-tokens")
    sampler = LocalSampler(target.model, target.tokenizer, target.encode)
    rows: list[dict[str, Any]] = []
    for place, temperature in enumerate(temperatures):
        drawn = sampler.sample(examples, 1, sampling(temperature, max_tokens), pack_key(seed, place, 0), 0)
        said = zip(examples, drawn.text, drawn.ids, drawn.mask, strict=True)
        for example, text, ids, mask in said:
            if text and reads_back(target, example, text, ids[mask].tolist()):
                rows.append({"prompt": target.encode.told(example) or example.prompt, "demonstration": text})
    if not rows:
        raise InputError(
            f"no answer of the target ends within --max-tokens {max_tokens} by its tokenizer's end token and reads "
            "back as its tokens: raise it, or choose a target whose tokenizer names the token that ends its answers"
        )
    return rows, len(examples) * len(temperatures) - len(rows)


def sampling(temperature: float, max_tokens: int) -> Sampling:
    """The likeliest tokens at temperature 0, else draws from the whole distribution."""
    if temperature == 0:
        return Sampling(top_k=1, max_tokens=max_tokens, block=32)
    return Sampling(temperature=temperature, max_tokens=max_tokens, block=32)


def reads_back(target: Loaded, example: Example, text: str, ids: list[int]) -> bool:
    """Whether training on the text is training on these tokens, the end token included."""
    return text_ids(example, "answer", text, tokenizer=target.tokenizer, max_tokens=_NO_LIMIT) == ids


def longest(model: str, examples: Sequence[Example]) -> int:
    """Tokens of the longest demonstration by the tokenizer of `model`, its end token too; 1 where there is none."""
    tokenizer = load_encode(model, tokenizer_source(model, None)).tokenizer
    said = ((one, text) for one in examples if isinstance(text := one.meta.get("demonstration"), str))
    sizes = (len(text_ids(one, "answer", text, tokenizer=tokenizer, max_tokens=_NO_LIMIT)) for one, text in said)
    return max(sizes, default=1)


def write_rows(rows: Sequence[dict[str, Any]], file: Path) -> None:
    """The rows as JSONL."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def new_folder(out: Path) -> Path:
    """`out`; InputError where it holds something or is a file."""
    if out.is_file():
        raise InputError(f"{out} is a file: give an --out that is a new or empty folder")
    if out.exists() and any(out.iterdir()):
        raise InputError(f"the folder {out} is not empty: give an --out that is new, or empty it")
    return out


def tuned(draft: str, phases: Sequence[Phase], setup: Setup, out: Path, heard: Heard) -> str:
    """The folder of the draft after all phases that have steps, each a run in a folder of its name in `out`."""
    for phase in phases:
        if phase.steps:
            draft = str(trained(draft, phase, setup, out / phase.name, heard) / "final")
    return draft


def trained(draft: str, phase: Phase, setup: Setup, out: Path, heard: Heard) -> Path:
    """The run folder of one phase."""
    flags: dict[str, Any] = {
        "model": draft,
        "data": str(setup.data),
        "steps": phase.steps,
        "seed": setup.seed,
        "device": setup.device,
        "out": str(out),
        "rollout.prompts": phase.batch,
        "rollout.max_tokens": setup.max_tokens,
        "descent.lr": phase.lr,
        "evaluate.every": 0,
        "system_prompt": None,
    }
    if phase.loss is not None:
        flags |= {"teacher": setup.target, "objective.kind": phase.loss}
    method = "sft" if phase.loss is None else "tvdpp"
    resolved, task = prepare(Asked(method, flags))
    return launch(resolved, task, resume=False, heard=lambda record: heard(phase.name, record)).root
