"""Five updates of every method that has a loss, on stored rollouts. Run as a script, it writes what they should give.

    python -m tests.golden.make

`rollouts.*` (rollouts, start and reference weights) are made once and kept; delete them to make others.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from rekindle.core.method import PolicyGradient
from rekindle.core.types import mean_metrics
from rekindle.tokens.rollouts import Example, PromptRows, Rollouts
from tests.methods.made import WIDTH, group_rollouts, playing
from tests.methods.records import labels, record_of
from tests.methods.stage import Stage, TablePolicy, trainable

HERE = Path(__file__).parent
TENSORS = ("ids", "mask", "logp", "logp_sampled", "entropy", "group", "uid")
ORDER = (0, 2, 1, 5, 6, 7, 4, 8, 9, 3)  # a group that is all right among the first five, so that DAPO asks for more
UPDATES, LR = 5, 80.0


def store_rollouts() -> None:
    """Write the rollouts and the weights to start from."""
    parts = [(i, group_rollouts(g)) for i, g in enumerate(ORDER)]
    numbered = [replace(p, group=torch.full_like(p.group, i), uid=torch.arange(len(p)) + i * len(p)) for i, p in parts]
    rollouts = Rollouts.concat(numbered)
    tensors = {name: getattr(rollouts, name).contiguous() for name in TENSORS}
    for seed, role in enumerate(("policy", "reference")):
        tensors |= {f"{role}.{n}": p.detach() for n, p in TablePolicy(seed, width=WIDTH).named_parameters()}
    save_file(tensors, HERE / "rollouts.safetensors")
    words = {
        "example": [asdict(example) for example in rollouts.example],
        "prompt": rollouts.prompt.ids,
        "text": rollouts.text,
        "finish": rollouts.finish,
    }
    (HERE / "rollouts.json").write_text(json.dumps(words) + "\n")


def stored_rollouts() -> Rollouts:
    """The rollouts as they lie in the files."""
    tensors, words = load_file(HERE / "rollouts.safetensors"), json.loads((HERE / "rollouts.json").read_text())
    return Rollouts(
        example=[Example(**example) for example in words["example"]],
        prompt=PromptRows(tuple(tuple(row) for row in words["prompt"])),
        text=words["text"],
        finish=words["finish"],
        **{name: tensors[name] for name in TENSORS},
    )


def stored_policy(role: str, heads: Sequence[str] = ()) -> TablePolicy:
    """The policy or the reference at its stored weights; the values of a head follow from its seed."""
    policy = TablePolicy(width=WIDTH, heads=heads)
    tensors = load_file(HERE / "rollouts.safetensors")
    stored = {n: tensors[f"{role}.{n}"] for n, _ in policy.named_parameters() if f"{role}.{n}" in tensors}
    policy.load_state_dict({**policy.state_dict(), **stored})
    return policy


def play(method: PolicyGradient) -> tuple[dict[str, Tensor], Stage]:
    """The losses of five updates and the weights after them, with the stage that played them."""
    method = method.replace(descent=replace(method.descent, epochs=1, minibatches=UPDATES))
    policy = stored_policy("policy", method.heads())
    parameters = trainable(policy)
    stage = Stage(method, policy, stored_policy("reference"), parameters, playing(stored_rollouts()), lr=LR)
    method.step(stage)
    means = [mean_metrics(update.metrics) for update in stage.updates]
    losses = torch.tensor([mean["loss"] for mean in means], dtype=torch.float64)
    return {"losses": losses, "weights": torch.cat([p.detach().flatten() for p in parameters])}, stage


def main() -> None:
    """Write the expected file; and the rollouts, where there are none."""
    if not (HERE / "rollouts.safetensors").exists():
        store_rollouts()
    expected: dict[str, Tensor] = {}
    for name in labels():
        expected |= {f"{name}.{key}": value for key, value in play(record_of(name))[0].items()}
    save_file(expected, HERE / "expected.safetensors")


if __name__ == "__main__":
    main()
