"""EVOL-RL on the embedded model, without labels: `rekindle train evol_rl --steps 20` from Python."""

from rekindle.api import evaluate, train

folder = train("evol_rl", task="reduce", steps=20, out="runs/example-evol-rl", heard=print)
for name, model in (("before", "embedded"), ("after", folder / "final")):
    found = evaluate(model, task="reduce", prompts=50)
    print(name, {metric: round(value, 3) for metric, value in found.mean.items()})
