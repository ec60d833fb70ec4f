"""The model card of a trained model: what it was trained from, by which method, and how to load it."""

from __future__ import annotations

from pathlib import Path

from rekindle.train.find import find_method
from rekindle.train.run import Run
from rekindle.train.runfile import versions

TEMPLATE = """---
library_name: transformers
pipeline_tag: text-generation
tags: [reinforcement-learning, rekindle]
---
# {name}

Trained with [Rekindle]: method `{method}`{title}, {steps} steps, seed {seed}, from `{model}` on `{source}`.
The run's whole configuration is in `run.toml` and its record in `events.jsonl` of the run folder.

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("{name}")
tokenizer = AutoTokenizer.from_pretrained("{name}")
```

Versions: {versions}.

[Rekindle]: reinforcement learning of language models that keeps exploring
"""


def write_model_card(run: Run, folder: Path, name: str) -> None:
    """Write README.md into `folder`, for the model that will be known as `name`."""
    config = run.resolved.config
    card = find_method(config.method).card
    text = TEMPLATE.format(
        name=name,
        method=config.method,
        title=f" ({card.title}, {card.year})" if card else "",
        steps=config.steps,
        seed=config.seed,
        model=config.model,
        source=config.task or Path(str(config.data)).name,
        versions=", ".join(f"{name} {version}" for name, version in versions().items()),
    )
    (folder / "README.md").write_text(text, encoding="utf-8")
