"""Responses of weights that are two updates old against those of the newest, seed by seed: the table in docs/ray.md.

python scripts/staleness_study.py runs/staleness    trains what is not there yet, then writes data and page
python scripts/staleness_study.py                   writes the page's table again from the stored data

Both arms are GRPO on the embedded model with two local actors and the same prompts in one order; K = 2 is corrected by
truncated importance sampling. Both finals are measured alike on the held-out prompts. The rule, stated before any
run: the two reach the same evaluation where the paired rule (rekindle/train/verdict.py, two-sided 95 % t bound of the
seeds' differences) shows no difference in either direction, and the mean difference is at most MARGIN; and both must
have learnt something, or it would say nothing: each arm's mean lies above the start model's by at least LEARNT.
Three pairs were run first and bound little; three more were added under the same rule, and all six are counted.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rekindle.api import evaluate
from rekindle.train.ahead import staleness_histogram
from rekindle.train.events import read_events
from rekindle.train.runfile import versions
from rekindle.train.verdict import paired

ROOT = Path(__file__).resolve().parent.parent
DATA, PAGE = ROOT / "docs" / "results" / "staleness.json", ROOT / "docs" / "ray.md"
BEGIN, END = "<!-- study: begin (python scripts/staleness_study.py) -->", "<!-- study: end -->"
ARMS, SEEDS, STEPS, PROMPTS, SAMPLES = (0, 2), (0, 1, 2, 3, 4, 5), 40, 150, 16
MARGIN, LEARNT = 0.05, 0.02
JUDGED, METRICS = "pass@1", ("pass@1", "pass@16", "maj@16", "entropy", "length")
WATCHED = ("sampler/gap", "sampler/ratio", "sampler/capped", "sampler/staleness")
TASK = "reduce"
COMMAND = [sys.executable, "-m", "rekindle"]


def train(out: Path, staleness: int, seed: int) -> Path:
    """The run folder of one arm and seed; trained where it is not there yet."""
    folder = out / f"staleness{staleness}-seed{seed}"
    if not (folder / "final").is_dir():
        asked = ["train", "grpo", "--task", TASK, "--sampler", "ray", "--samplers", "2", "--staleness", str(staleness)]
        asked += ["--seed", str(seed), "--steps", str(STEPS), "--group", "16", "--set", "rollout.block=2"]
        asked += ["--set", "checkpoint.rollouts=0", "--out", str(folder)]
        subprocess.run([*COMMAND, *asked], check=True)
    return folder


def measured(model: str | Path, seed: int) -> dict[str, float]:
    """A model on the held-out prompts, by the local sampler."""
    result = evaluate(model, task=TASK, split="heldout", samples=SAMPLES, prompts=PROMPTS, seed=seed)
    return {name: result.mean[name] for name in METRICS}


def watched(folder: Path) -> dict[str, Any]:
    """What a run says of its staleness: means over the steps, and the share of batches of each age."""
    steps = [event for event in read_events(folder / "events.jsonl") if event["kind"] == "step"]
    means = {name: statistics.fmean(event[name] for event in steps) for name in WATCHED}
    seconds = statistics.median(event["time"]["seconds"] for event in steps)
    return {**means, "histogram": staleness_histogram(steps), "seconds": seconds}


def study(out: Path) -> dict[str, Any]:
    """All runs and their measurements."""
    runs = {str(arm): {str(seed): train(out, arm, seed) for seed in SEEDS} for arm in ARMS}
    return {
        "versions": {**versions()},
        "steps": STEPS,
        "prompts": PROMPTS,
        "samples": SAMPLES,
        "start": {str(seed): measured("embedded", seed) for seed in SEEDS},
        "final": {a: {s: measured(folder, int(s)) for s, folder in seeds.items()} for a, seeds in runs.items()},
        "stale": {s: watched(folder) for s, folder in runs[str(ARMS[1])].items()},
    }


def verdict(data: Mapping[str, Any]) -> tuple[bool, str]:
    """Whether the two arms reach the same evaluation, by the rule at the top, and a sentence with the numbers."""
    old, new = (list(column(data, data["final"][str(arm)], JUDGED)) for arm in reversed(ARMS))
    start = statistics.fmean(column(data, data["start"], JUDGED))
    seen = paired(old, new)
    learnt = min(statistics.fmean(old), statistics.fmean(new)) - start
    same = seen.verdict == "not shown" and abs(seen.mean) <= MARGIN and learnt >= LEARNT
    text = (
        f"{JUDGED}: {seen.mean:+.4f} for K = {ARMS[1]} (95 % bound {seen.bound:.4f}, margin {MARGIN}), both arms at "
        f"least {learnt:.4f} above the start: {'the same' if same else 'not the same'} by the rule."
    )
    low, high = seen.mean - seen.bound, seen.mean + seen.bound
    if same and max(-low, high) > MARGIN:
        text += (
            f" That is a weak statement: the 95 % interval, {low:+.3f} to {high:+.3f}, reaches beyond the margin, so "
            f"that {len(new)} pairs do not exclude a larger difference."
        )
    return same, text


def column(data: Mapping[str, Any], of: Mapping[str, Any], metric: str) -> list[float]:
    """A metric of every seed, in their order."""
    return [of[seed][metric] for seed in data["start"]]


def table(data: Mapping[str, Any]) -> str:
    """The generated part of the page."""
    lines = [
        f"GRPO on `{TASK}`, {data['steps']} steps, seeds {', '.join(data['start'])}, two local actors; "
        f"{data['prompts']} held-out prompts, {data['samples']} samples each. {verdict(data)[1]}",
        "",
        f"| metric | start | K = {ARMS[0]} | K = {ARMS[1]} | difference | 95 % bound (t, {len(data['start'])} pairs) |",
        "|---|---|---|---|---|---|",
    ]
    for metric in METRICS:
        new, old = (column(data, data["final"][str(arm)], metric) for arm in ARMS)
        means = [statistics.fmean(one) for one in (column(data, data["start"], metric), new, old)]
        seen = paired(old, new)
        cells = [metric, *(f"{value:.4f}" for value in means), f"{seen.mean:+.4f}", f"{seen.bound:.4f}"]
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", "| seed | mean of abs log w | mean w | share capped | mean age | share of batches by age |"]
    lines += ["|---|---|---|---|---|---|"]
    for seed, told in data["stale"].items():
        ages = ", ".join(f"{age}: {share:.3f}" for age, share in told["histogram"].items())
        lines.append(f"| {seed} | {' | '.join(f'{told[name]:.4g}' for name in WATCHED)} | {ages} |")
    return "\n".join(lines)


def page(data: Mapping[str, Any]) -> str:
    """docs/ray.md with the table in its place."""
    head, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    return f"{head}{BEGIN}\n{table(data)}\n{END}{rest.partition(END)[2]}"


def main(arguments: list[str]) -> int:
    """Run the study where a folder is given, and write the page."""
    if arguments:
        DATA.write_text(json.dumps(study(Path(arguments[0])), indent=1) + "\n", encoding="utf-8")
    data = json.loads(DATA.read_text(encoding="utf-8"))
    PAGE.write_text(page(data), encoding="utf-8")
    print(table(data))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
