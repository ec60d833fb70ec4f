"""The model card of a trained model: what it was trained from, by which method, and how to load it."""

from __future__ import annotations

import html
import json
from pathlib import Path
from typing import Any

from rekindle.tokens.heads import unwrapped
from rekindle.tokens.lora import TRAINED, adapted_layers
from rekindle.tokens.private import redacted
from rekindle.train.find import find_method
from rekindle.train.run import Run
from rekindle.train.runfile import versions

TEMPLATE = """---
library_name: {library}
pipeline_tag: text-generation
tags: [{tags}]
{base}---
# {name}

Trained with [Rekindle]: method {method}{title}, {steps} steps, seed {seed}, from {model} on {source}{how}.
The run's whole configuration is in `run.toml` and its record in `events.jsonl` of the run folder.

```python
{code}
```

Versions: {versions}.

[Rekindle]: reinforcement learning of language models that keeps exploring
"""

PLAIN = """from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained({name})
tokenizer = AutoTokenizer.from_pretrained({name})"""

ADAPTER = """from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained({base}), {name})
tokenizer = AutoTokenizer.from_pretrained({name})"""


def write_model_card(run: Run, folder: Path, name: str, merged: bool = False) -> None:
    """Write README.md into `folder`, for the model that will be known as `name`; merged: no adapter, a whole model."""
    config, base = run.resolved.config, str(unwrapped(run.loaded.model).name_or_path)
    adapter = bool(adapted_layers(run.loaded.model)) and not merged
    card = find_method(config.method).card
    text = TEMPLATE.format(
        name=plain(name),
        library="peft" if adapter else "transformers",
        tags="reinforcement-learning, rekindle, lora" if adapter else "reinforcement-learning, rekindle",
        # Only a hub id may stand there.
        base=f"base_model: {quoted(base)}\n" if adapter and not Path(base).exists() else "",
        method=code(config.method),
        title=f" ({plain(card.title)}, {card.year})" if card else "",
        steps=config.steps,
        seed=config.seed,
        model=code(config.model),
        source=code(config.task or Path(str(config.data)).name),
        how=_how(run.loaded.model, merged),
        code=(ADAPTER if adapter else PLAIN).format(name=quoted(name), base=quoted(base)),
        versions=", ".join(f"{name} {version}" for name, version in versions().items()),
    )
    (folder / "README.md").write_text(redacted(text), encoding="utf-8")


def plain(text: str) -> str:
    """A text that others chose (a folder, a hub, a data set), so that it is no Markdown, no HTML and one line."""
    return "".join(f"\\{c}" if c in "\\`*_[]#|!~" else c for c in html.escape(" ".join(text.split())))


def code(text: str) -> str:
    """Such a text as code in a line. Nothing in it is read but the backtick, which ends it."""
    return f"`{' '.join(text.replace('`', chr(39)).split())}`"


def quoted(text: str) -> str:
    """Such a text as a string of Python and of YAML alike, in one line."""
    return json.dumps(text)


def _how(model: Any, merged: bool) -> str:
    if not adapted_layers(model):
        return ""
    rank = model.peft_config[TRAINED].r
    return f", as a LoRA adapter of rank {rank}{' that is merged in' if merged else ''}"
