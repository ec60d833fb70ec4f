"""The recipes of the shipped warm starts, and the command line that repeats one."""

from __future__ import annotations

from dataclasses import asdict, dataclass

PROMPTS = 40
"""Prompts of each split that accuracy is measured on."""


@dataclass(frozen=True)
class Recipe:
    """How a warm start is trained: the sizes of the model and the options of the optimiser."""

    steps: int
    batch: int
    lr: float
    seed: int
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    threads: int


RECIPES: dict[str, Recipe] = {
    "reduce": Recipe(1500, 128, 2e-3, 0, hidden=128, layers=3, heads=4, kv_heads=2, threads=1),
    "digit_sum": Recipe(1450, 128, 6e-3, 0, hidden=64, layers=1, heads=2, kv_heads=2, threads=1),
}
"""What the shipped models were trained with; the defaults of `rekindle warm`."""


def command(task: str, recipe: Recipe, prompts: int) -> str:
    """The command line that trains the same model again: steps, seed, and all that differs from the task's recipe."""
    usual: dict[str, int | float] = asdict(RECIPES[task]) if task in RECIPES else {}
    given = {"steps": recipe.steps, "seed": recipe.seed}
    given |= {name: value for name, value in asdict(recipe).items() if usual.get(name) != value}
    given |= {} if prompts == PROMPTS else {"prompts": prompts}
    flags = (f"--{name.replace('_', '-')} {value!r}" for name, value in given.items())
    return " ".join((f"rekindle warm --task {task} --out DIR", *flags))
