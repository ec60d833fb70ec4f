"""What the tests of the command line share: running it in this process, and small model folders."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from rekindle.cli.common import run_safely
from rekindle.cli.main import app
from rekindle.tokens.loader import quiet

TINY = ["--prompts", "2", "--group", "2", "--steps", "2"]
TINY += ["--set", "rollout.votes=4", "--set", "evaluate.prompts=2", "--set", "evaluate.samples=2"]
"""Flags of a run that takes a second. Votes are among them: for label-free methods only."""


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str


def rekindle(capsys: pytest.CaptureFixture[str], *args: str | Path) -> Ended:
    """Run `rekindle ARGS` in this process."""
    capsys.readouterr()
    code = run_safely(app, [str(arg) for arg in args])
    captured = capsys.readouterr()
    return Ended(code, captured.out, captured.err)


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE that encodes any text."""
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=280, special_tokens=["<pad>", "<eos>"], initial_alphabet=alphabet, show_progress=False
    )
    inner.train_from_iterator(["what is one and two and three", "the sum is so much"], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="<pad>", eos_token="<eos>")


def llama_folder(folder: Path, **settings: float | int | None) -> Path:
    """A tiny random Llama with a byte-level BPE tokenizer, saved in `folder`; `settings` go into its configuration."""
    tokenizer = byte_tokenizer()
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        **{**sizes, "max_position_embeddings": 64, "pad_token_id": 0, "eos_token_id": 1} | settings,
    )
    config.bos_token_id = None
    with torch.random.fork_rng(devices=[]), quiet():
        torch.manual_seed(0)
        LlamaForCausalLM(config).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    return folder


def taught_folder(folder: Path, prompts: list[str], responses: list[str]) -> Path:
    """A tiny Llama that answers each of the prompts by any of the responses: with the random one, no vote is alive."""
    tokenizer = AutoTokenizer.from_pretrained(llama_folder(folder))
    model = LlamaForCausalLM.from_pretrained(folder)
    texts = [(p, f"{p}{r}<eos>") for p in prompts for r in responses]
    batch = tokenizer([text for _, text in texts], padding=True, padding_side="right", return_tensors="pt")
    labels = batch.input_ids.masked_fill(batch.attention_mask == 0, -100)
    for row, (prompt, _) in enumerate(texts):
        labels[row, : len(tokenizer(prompt).input_ids)] = -100
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(120):
        optimizer.zero_grad()
        model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, labels=labels).loss.backward()
        optimizer.step()
    with quiet():
        model.save_pretrained(folder)
    return folder
