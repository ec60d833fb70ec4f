"""Random Qwen3 models of stated sizes whose responses have ragged lengths, with tokenizer, prompts and a reward.

The time of a step depends on shapes and lengths, not on what the weights know. Lengths are made by hand: one channel of
the residual stream is held constant, so that the end-of-text logit is the same at every position and a response ends
with the same probability at every token.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

EOS = 2
SPECIAL = ("<pad>", "<bos>", "<eos>")
MEAN_LENGTH = 32  # of an unlimited response; with a limit of 64 tokens the mean is 28


@dataclass(frozen=True)
class Size:
    """The shape of a model."""

    vocab: int
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    inner: int

    def config(self, tied: bool = False) -> Qwen3Config:
        """The transformers configuration."""
        return Qwen3Config(
            vocab_size=self.vocab,
            hidden_size=self.hidden,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            num_key_value_heads=self.kv_heads,
            head_dim=self.head_dim,
            intermediate_size=self.inner,
            max_position_embeddings=4096,
            tie_word_embeddings=tied,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=EOS,
        )


SIZES = {
    "toy": Size(64, 32, 2, 2, 1, 32, 64),
    "1M": Size(1024, 128, 4, 4, 2, 32, 320),
    "10M": Size(4096, 256, 8, 4, 2, 64, 1024),
    "60M": Size(16384, 512, 12, 8, 4, 64, 1792),
    "100M": Size(16384, 768, 12, 12, 4, 64, 2048),
    "wide": Size(151_936, 64, 2, 2, 1, 32, 128),
    "toy-wide": Size(8_000, 32, 2, 2, 1, 32, 64),
}


def make_model(size: Size, mean: float = MEAN_LENGTH, seed: int = 0, tied: bool = False) -> Qwen3ForCausalLM:
    """A random model; a response ends with probability 1/mean at every token (untied heads only)."""
    torch.manual_seed(seed)
    model = Qwen3ForCausalLM(size.config(tied)).eval()
    if tied:
        return model
    layers: Any = model.model.layers
    with torch.no_grad():
        model.model.embed_tokens.weight[:, 0] = 1.0
        for layer in layers:
            layer.self_attn.o_proj.weight[0] = 0.0
            layer.mlp.down_proj.weight[0] = 0.0
        model.lm_head.weight[:, 0] = 0.0
        probe = torch.arange(len(SPECIAL), min(size.vocab, 64))[None]
        constant = model.model(probe).last_hidden_state[0, :, 0].mean()
        # All other logits are near 0, so the logit log((V-1)/(mean-1)) has probability 1/mean.
        model.lm_head.weight[EOS] = 0.0
        model.lm_head.weight[EOS, 0] = math.log((size.vocab - 1) / (mean - 1)) / constant
    return model


def make_tokenizer(vocab: int) -> PreTrainedTokenizerFast:
    """One word a token: "w3" is token 3."""
    words = [*SPECIAL, *(f"w{i}" for i in range(len(SPECIAL), vocab))]
    inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token=SPECIAL[0]))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    pad, bos, eos = SPECIAL
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token=pad, bos_token=bos, eos_token=eos, clean_up_tokenization_spaces=False
    )


def make_prompts(vocab: int, count: int, shortest: int, longest: int, seed: int = 0) -> list[str]:
    """Texts of shortest to longest words, the lengths spread evenly and shuffled."""
    rng = torch.Generator().manual_seed(seed)
    step = (longest - shortest) / max(1, count - 1)
    sizes = [round(shortest + i * step) for i in torch.randperm(count, generator=rng).tolist()]
    words = [torch.randint(len(SPECIAL), vocab, (n,), generator=rng).tolist() for n in sizes]
    return [" ".join(f"w{i}" for i in row) for row in words]


def reward(completions: list[str], **_: Any) -> list[float]:
    """A cheap score that differs within a group: the number of words, modulo 7. TRL's signature."""
    return [float(text.count(" ") % 7) for text in completions]


def write_folder(folder: Path, size: Size, prompts: list[str], mean: float = MEAN_LENGTH) -> Path:
    """A model folder with its tokenizer and `prompts.jsonl`; returns the folder."""
    make_model(size, mean).save_pretrained(folder)
    make_tokenizer(size.vocab).save_pretrained(folder)
    lines = [json.dumps({"id": str(i), "prompt": text}) for i, text in enumerate(prompts)]
    (folder / "prompts.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder
