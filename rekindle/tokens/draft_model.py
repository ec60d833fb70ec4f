"""A draft model: a small, untrained model of a target's family, with its tokenizer and its vocabulary."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from rekindle.errors import InputError
from rekindle.tokens.fetching import quiet
from rekindle.tokens.loader import Loaded

LAYERS, WIDTH = 4, 2
"""What a draft's layers and hidden size are smaller by, where nobody says how many it shall have."""


def build_draft(target: Loaded, layers: int | None, width: int | None, seed: int) -> Any:
    """An untrained float32 model with `layers` layers (None: a quarter) and hidden size `width` (None: the half).

    Feed-forward size and heads shrink as the width does; all else, the padding rows of the vocabulary too, is as the
    target's configuration has it. InputError where it cannot be built so.
    """
    config = draft_config(target.model.config.get_text_config(), layers, width)
    try:
        with quiet(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    except (ValueError, TypeError, RuntimeError) as error:
        raise InputError(
            f"no smaller {config.model_type} can be built with these sizes ({str(error).splitlines()[0]}): give other "
            "--layers and --width, or train a draft by other means and use `rekindle draft align`"
        ) from None


def draft_config(config: Any, layers: int | None, width: int | None) -> Any:
    """The target's configuration with fewer layers and a smaller width; InputError where it would not be smaller."""
    sizes = config.to_dict()

    def key(name: str) -> str:
        return config.attribute_map.get(name, name)  # GPT-2 and others have names of their own

    had = {name: sizes[key(name)] for name in ("num_hidden_layers", "hidden_size", "num_attention_heads")}
    depth = max(1, had["num_hidden_layers"] // LAYERS) if layers is None else layers
    wide = max(1, had["hidden_size"] // WIDTH) if width is None else width
    if depth > had["num_hidden_layers"] or wide > had["hidden_size"]:
        raise InputError(
            f"a draft of {depth} layers and width {wide} is no smaller than its target ({had['num_hidden_layers']} and "
            f"{had['hidden_size']}): give smaller --layers and --width"
        )
    share = wide / had["hidden_size"]
    heads = max(1, round(had["num_attention_heads"] * share))
    change = {"num_hidden_layers": depth, "hidden_size": wide, "num_attention_heads": heads}
    if sizes.get(key("intermediate_size")) is not None:
        change["intermediate_size"] = max(1, round(sizes[key("intermediate_size")] * share))
    if sizes.get("num_key_value_heads") is not None:
        most = min(heads, sizes["num_key_value_heads"])
        change["num_key_value_heads"] = max(n for n in range(1, most + 1) if heads % n == 0)
    sizes |= {key(name): value for name, value in change.items()}
    if sizes.get("layer_types") is not None:
        sizes["layer_types"] = sizes["layer_types"][:depth]
    return type(config).from_dict(sizes)


def save_draft(model: Any, target: Loaded, folder: Path) -> None:
    """Write the model with the target's tokenizer and its end-of-text ids."""
    if target.model.generation_config is not None:
        model.generation_config.eos_token_id = target.model.generation_config.eos_token_id
    with quiet():
        model.save_pretrained(folder)
        target.tokenizer.save_pretrained(folder)


def parameter_count(model: torch.nn.Module) -> int:
    """Numbers in the weights, tied ones once."""
    return sum(parameter.numel() for parameter in model.parameters())
