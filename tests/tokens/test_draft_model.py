"""Drafts by configuration: smaller, of the same vocabulary, and refused where no such model can be built."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from rekindle.errors import InputError
from rekindle.tokens.chat import Encode
from rekindle.tokens.draft_model import build_draft, draft_config, parameter_count, save_draft
from rekindle.tokens.loader import Loaded, load_model
from tests.tiny_models import VOCABULARY, build, tokenizer


def loaded(kind: str, seed: int = 0) -> Loaded:
    """A tiny target."""
    return Loaded(build(kind, seed=seed), tokenizer(), Encode(tokenizer(), chat=False))


@pytest.mark.parametrize("kind", ["llama", "qwen3", "gemma3", "gpt2", "gpt_neox"])
def test_a_draft_is_of_its_targets_family_and_smaller(kind: str) -> None:
    target = loaded(kind)
    draft = build_draft(target, None, 8, seed=1)
    assert type(draft) is type(target.model) and not draft.training
    assert parameter_count(draft) < parameter_count(target.model) / 2
    ids = torch.tensor([[3, 4, 5]])
    assert draft(ids).logits.shape == (1, 3, VOCABULARY)
    again = build_draft(target, None, 8, seed=1)
    assert all(torch.equal(a, b) for a, b in zip(draft.parameters(), again.parameters(), strict=True))


def test_sizes_shrink_together() -> None:
    config = draft_config(build("llama").config, 1, 8)
    assert (config.num_hidden_layers, config.hidden_size, config.intermediate_size) == (1, 8, 12)
    assert config.num_attention_heads == 2 and 2 % config.num_key_value_heads == 0
    config = draft_config(build("gemma3").config, 1, 8)
    assert len(config.layer_types) == 1
    config = draft_config(build("gpt2").config, 1, 8)
    assert (config.n_layer, config.n_embd, config.n_head) == (1, 8, 2)


def test_what_is_no_draft_is_refused() -> None:
    with pytest.raises(InputError, match="3 layers and width 8 is no smaller than its target"):
        build_draft(loaded("llama"), 3, 8, 0)
    with pytest.raises(InputError, match="no smaller gpt2 can be built"):
        build_draft(loaded("gpt2"), 1, 7, 0)


def test_a_saved_draft_is_a_model_folder_with_the_targets_tokens(tmp_path: Path) -> None:
    target = loaded("llama")
    target.model.generation_config.eos_token_id = [2, 5]
    draft = build_draft(target, 1, 8, 0)
    save_draft(draft, target, tmp_path)
    back = load_model(str(tmp_path))
    assert back.tokenizer.get_vocab() == target.tokenizer.get_vocab()
    assert back.model.generation_config.eos_token_id == [2, 5]
    assert parameter_count(back.model) == parameter_count(draft)
