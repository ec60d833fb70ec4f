"""Tokenizers with the way that a run makes prompts into tokens, without the weights of the model."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import AutoTokenizer

from rekindle.tokens.adapters import AdapterFolder
from rekindle.tokens.chat import Encode, check_thinking, set_template
from rekindle.tokens.fetching import guarded, quiet
from rekindle.tokens.model_files import check_tokenizer

EMBEDDED_TASKS = ("reduce", "digit_sum")
_TOKENIZER_FILES = (
    *("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model", "sentencepiece.bpe.model"),
    *("tekken.json", "tiktoken.model"),
)


def load_encode(
    spec: str,
    source: str,
    *,
    task_name: str | None = None,
    system_prompt: str | None = None,
    chat_template: str | None = None,
    thinking: bool | None = None,
) -> Encode:
    """How prompts of the model `spec` become tokens, by the tokenizer in `source`; no weights are read."""
    if Path(source).is_dir():
        check_tokenizer(spec, Path(source))
    with quiet(), torch.random.fork_rng(devices=[]):
        tokenizer = guarded(
            spec,
            lambda: AutoTokenizer.from_pretrained(source, trust_remote_code=False),
            "tokenizer.json and tokenizer_config.json",
        )
    chat = tokenizer.chat_template is not None and task_name not in EMBEDDED_TASKS
    if chat_template is not None:
        chat = True
        set_template(tokenizer, chat_template)
    check_thinking(spec, tokenizer, thinking, chat)
    return Encode(tokenizer, chat, system_prompt, thinking)


def tokenizer_place(adapter: AdapterFolder | None, source: str) -> str:
    """Where the tokenizer is: with the adapter, where it brought one, else with the model in `source`."""
    return str(adapter.folder) if adapter is not None and has_tokenizer(adapter.folder) else source


def has_tokenizer(folder: Path) -> bool:
    """Whether the folder holds a tokenizer."""
    return any((folder / name).is_file() for name in _TOKENIZER_FILES)
