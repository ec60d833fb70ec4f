"""Tiny random transformers models, one per way of turning hidden states into logits.

transformers' RMS norms compute in float32 whatever the model's dtype, so that a float64 model is exact to 1e-7 only and
its gradients jump where a rounding flips. `build(name, torch.float64)` puts exact norms into the models in `EXACT`:
use those wherever a test gates at 1e-10.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    Cohere2Config,
    Cohere2ForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    GraniteConfig,
    GraniteForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
)

VOCABULARY = 24
EOS = 2


def _sizes(vocabulary: int) -> dict:
    return {
        "vocab_size": vocabulary,
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 64,
        "initializer_range": 0.4,  # large, so that the distributions are far from uniform
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": EOS,
    }


def llama(vocabulary: int = VOCABULARY) -> PreTrainedModel:
    """Plain head, untied."""
    return LlamaForCausalLM(LlamaConfig(**_sizes(vocabulary), tie_word_embeddings=False))


def qwen3(vocabulary: int = VOCABULARY) -> PreTrainedModel:
    """Plain head, tied."""
    return Qwen3ForCausalLM(Qwen3Config(**_sizes(vocabulary), head_dim=8, tie_word_embeddings=True))


def gemma2(vocabulary: int = VOCABULARY) -> PreTrainedModel:
    """Soft-capped logits; sliding windows of 6 tokens in every second layer; eager attention with capped scores."""
    config = Gemma2Config(
        **_sizes(vocabulary), head_dim=8, query_pre_attn_scalar=8, sliding_window=6, final_logit_softcapping=2.0
    )
    return Gemma2ForCausalLM(config)


def gemma3(vocabulary: int = VOCABULARY) -> PreTrainedModel:
    """Soft-capped logits; sliding windows of 6 tokens."""
    config = Gemma3TextConfig(
        **_sizes(vocabulary),
        head_dim=8,
        query_pre_attn_scalar=8,
        sliding_window=6,
        final_logit_softcapping=2.0,
        layer_types=["sliding_attention", "full_attention"],
    )
    return Gemma3ForCausalLM(config)


def cohere2(vocabulary: int = VOCABULARY) -> PreTrainedModel:
    """Logits multiplied by 0.75; sliding windows of 6 tokens."""
    config = Cohere2Config(
        **_sizes(vocabulary),
        logit_scale=0.75,
        sliding_window=6,
        layer_types=["sliding_attention", "full_attention"],
    )
    return Cohere2ForCausalLM(config)


def granite(vocabulary: int = VOCABULARY) -> PreTrainedModel:
    """Logits divided by 1.5."""
    return GraniteForCausalLM(GraniteConfig(**_sizes(vocabulary), logits_scaling=1.5))


def gpt2(vocabulary: int = VOCABULARY) -> PreTrainedModel:
    """Learned absolute positions."""
    config = GPT2Config(
        vocab_size=vocabulary,
        n_embd=16,
        n_layer=2,
        n_head=4,
        n_positions=64,
        attn_pdrop=0.0,
        embd_pdrop=0.0,
        resid_pdrop=0.0,
        initializer_range=0.4,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=EOS,
    )
    return GPT2LMHeadModel(config)


def gpt_neox(vocabulary: int = VOCABULARY) -> PreTrainedModel:
    """Head named embed_out; partial rotary positions."""
    sizes = {name: size for name, size in _sizes(vocabulary).items() if name != "num_key_value_heads"}
    return GPTNeoXForCausalLM(GPTNeoXConfig(**sizes))


BUILDERS: dict[str, Callable[..., PreTrainedModel]] = {
    "llama": llama,
    "qwen3": qwen3,
    "gemma2": gemma2,
    "gemma3": gemma3,
    "cohere2": cohere2,
    "granite": granite,
    "gpt2": gpt2,
    "gpt_neox": gpt_neox,
}


EXACT = ("llama", "qwen3", "granite", "gpt2", "gpt_neox")
"""Models whose float64 build computes everything that depends on weights in float64."""

_NORMS = ("LlamaRMSNorm", "Qwen3RMSNorm", "GraniteRMSNorm")


class ExactNorm(nn.Module):
    """An RMS norm in the dtype of its input; takes over the attributes of a Llama-like norm."""

    weight: Tensor
    variance_epsilon: float

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.variance_epsilon)


def build(
    name: str, dtype: torch.dtype = torch.float32, vocabulary: int = VOCABULARY, seed: int = 0
) -> PreTrainedModel:
    """The model `name` with weights that depend on `seed` only; the global random state is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = BUILDERS[name](vocabulary).to(dtype).eval()
    for module in model.modules():
        if dtype == torch.float64 and type(module).__name__ in _NORMS:
            module.__class__ = ExactNorm
    return model


def tokenizer(vocabulary: int = VOCABULARY) -> PreTrainedTokenizerFast:
    """One token a letter ("a" is 3, "b" is 4, ...), after <pad>, <bos> and <eos>; adds no token of its own."""
    words = ["<pad>", "<bos>", "<eos>"] + [chr(ord("a") + i) for i in range(vocabulary - 3)]
    inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<pad>"))
    inner.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    inner.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<eos>",
        clean_up_tokenization_spaces=False,
    )


# --- whole chat models ----------------------------------------------------------------------------------------------

KINDS: dict[str, dict] = {
    "llama": {},
    "qwen3": {"head_dim": 8, "tie_word_embeddings": True},
    "mistral": {"sliding_window": 6},
    "olmo2": {},
    "gemma3_text": {
        "head_dim": 8,
        "query_pre_attn_scalar": 8,
        "sliding_window": 6,
        "layer_types": ["sliding_attention", "full_attention"],
    },
    "gemma4_text": {
        "head_dim": 8,
        "global_head_dim": 8,
        "sliding_window": 6,
        "hidden_size_per_layer_input": 0,
        "layer_types": ["sliding_attention", "full_attention"],
    },
    "qwen3_5_text": {
        "head_dim": 8,
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 4,
        "linear_key_head_dim": 8,
        "linear_value_head_dim": 8,
        "layer_types": ["linear_attention", "full_attention"],
    },
    "qwen3_moe": {"head_dim": 8, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16},
    "lfm2": {"layer_types": ["conv", "full_attention"]},
}
"""transformers' model types -> what their tiny configuration needs besides the usual sizes."""

CHAT = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>"
    "{% if enable_thinking is defined and not enable_thinking %}<think></think>{% else %}<think>{% endif %}{% endif %}"
)
"""A chat template that opens the answer with `<think>`, or closes that at once where thinking is off."""

SPECIAL = ["<pad>", "<s>", "</s>", "<|end|>", "<|user|>", "<|system|>", "<|assistant|>", "<think>", "</think>"]
_TEXTS = ["what is one plus one?", "be brief. think, then answer.", "The sum of 12 and 30 is 42."] * 3


def byte_bpe(template: str | None = CHAT) -> PreTrainedTokenizerFast:
    """Byte-level BPE, as Llama 3 and Qwen have it; no pad token."""
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    inner.train_from_iterator(
        _TEXTS,
        trainers.BpeTrainer(vocab_size=290, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False),
    )
    return _chatting(inner, template, pad=None)


def unigram(template: str | None = CHAT) -> PreTrainedTokenizerFast:
    """Unigram over words that begin with a low line, as SentencePiece models are converted (Gemma, Mistral)."""
    inner = Tokenizer(models.Unigram())
    inner.pre_tokenizer = pre_tokenizers.Metaspace()
    inner.decoder = decoders.Metaspace()
    letters = [chr(code) for code in range(33, 127)]
    inner.train_from_iterator(
        _TEXTS,
        trainers.UnigramTrainer(
            vocab_size=200,
            special_tokens=[*SPECIAL, "<unk>"],
            unk_token="<unk>",
            initial_alphabet=letters,
            show_progress=False,
        ),
    )
    return _chatting(inner, template, pad="<pad>")


def _chatting(inner: Tokenizer, template: str | None, pad: str | None) -> PreTrainedTokenizerFast:
    names = {"bos_token": "<s>", "eos_token": "</s>", "clean_up_tokenization_spaces": False}
    fast = PreTrainedTokenizerFast(tokenizer_object=inner, pad_token=pad, **names)
    fast.add_special_tokens({"additional_special_tokens": SPECIAL[3:7]})
    fast.chat_template = template
    return fast


def save_chat_model(
    folder: Path, kind: str, tokens: Callable[..., PreTrainedTokenizerFast] = byte_bpe, dtype: str = "float32"
) -> PreTrainedModel:
    """A tiny chat model of transformers' type `kind` in `folder`, which ends its answers by `</s>` or `<|end|>`."""
    fast = tokens()
    sizes = _sizes(len(fast)) | {"max_position_embeddings": 128}
    config = AutoConfig.for_model(kind, **sizes, **KINDS[kind])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config).eval()
    model.generation_config.eos_token_id = [2, 3]
    model.to(getattr(torch, dtype)).save_pretrained(folder)
    fast.save_pretrained(folder)
    return model
