"""EVOL-RL on real vLLM against EVOL-RL on the local sampler, seed by seed: the table in docs/vllm.md.

PYTHON-WITH-VLLM scripts/vllm_study.py runs/vllm    trains what is not there yet, then writes data and page
python scripts/vllm_study.py                        writes the page's table again from the stored data

Both arms start from the embedded model and take the same steps; both finals are measured alike, by the local sampler,
on the held-out prompts. Prompts and seeds are paired, samples are not: the two draw by different generators.
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
from rekindle.tokens.sampling.vllm_found import found
from rekindle.train.events import read_events
from rekindle.train.runfile import versions
from rekindle.train.verdict import paired

ROOT = Path(__file__).resolve().parent.parent
DATA, PAGE = ROOT / "docs" / "results" / "vllm.json", ROOT / "docs" / "vllm.md"
BEGIN, END = "<!-- study: begin (python scripts/vllm_study.py) -->", "<!-- study: end -->"
ARMS, SEEDS, STEPS, PROMPTS, SAMPLES = ("local", "vllm"), (0, 1, 2), 10, 150, 16
METRICS = ("pass@1", "pass@16", "maj@16", "entropy", "length")
COMMAND = [sys.executable, "-m", "rekindle"]


def train(out: Path, sampler: str, seed: int) -> Path:
    """The run folder of one arm and seed; trained where it is not there yet."""
    folder = out / f"{sampler}-seed{seed}"
    if not (folder / "final").is_dir():
        asked = ["train", "evol_rl", "--sampler", sampler, "--seed", str(seed), "--steps", str(STEPS)]
        asked += ["--set", "evaluate.baseline=false", "--set", "checkpoint.rollouts=0", "--out", str(folder)]
        subprocess.run([*COMMAND, *asked], check=True)
    return folder


def measured(folder: Path, seed: int) -> dict[str, float]:
    """The final model on the held-out prompts, by the local sampler."""
    result = evaluate(folder, task="reduce", split="heldout", samples=SAMPLES, prompts=PROMPTS, seed=seed)
    return {name: result.mean[name] for name in METRICS}


def watched(folder: Path) -> dict[str, float]:
    """What a run on vLLM says of its sampler: means over steps, of maxima the largest."""
    steps = [event for event in read_events(folder / "events.jsonl") if event["kind"] == "step"]
    names = [name for name in steps[-1] if name.startswith("sampler/")]
    told = {name: [event[name] for event in steps if name in event] for name in names}
    out = {name: max(v) if name.endswith("max") else statistics.fmean(v) for name, v in told.items()}
    return {**out, "steps_checked": float(sum("sampler/tensors" in event for event in steps))}


def study(out: Path) -> dict[str, Any]:
    """All runs and their measurements."""
    runs = {arm: {str(seed): train(out, arm, seed) for seed in SEEDS} for arm in ARMS}
    return {
        "versions": {**versions(), "vllm": found().version},
        "steps": STEPS,
        "prompts": PROMPTS,
        "samples": SAMPLES,
        "final": {a: {s: measured(folder, int(s)) for s, folder in seeds.items()} for a, seeds in runs.items()},
        "sampler": {s: watched(folder) for s, folder in runs["vllm"].items()},
    }


def table(data: Mapping[str, Any]) -> str:
    """The generated part of the page."""
    lines = [
        f"EVOL-RL, {data['steps']} steps, seeds {', '.join(data['final']['vllm'])}, vLLM {data['versions']['vllm']}; "
        f"{data['prompts']} held-out prompts, {data['samples']} samples each, measured alike by the local sampler.",
        "",
        "| metric | local | vLLM | difference | 95 % bound (t, 3 pairs) | within |",
        "|---|---|---|---|---|---|",
    ]
    for metric in METRICS:
        arms = [statistics.fmean(one[metric] for one in data["final"][arm].values()) for arm in ARMS]
        seen = paired(*([data["final"][arm][s][metric] for s in data["final"][arm]] for arm in reversed(ARMS)))
        cells = [metric, *(f"{value:.4f}" for value in arms), f"{seen.mean:+.4f}", f"{seen.bound:.4f}"]
        lines.append(f"| {' | '.join(cells)} | {'yes' if abs(seen.mean) <= seen.bound else 'no'} |")
    lines += ["", "| seed | steps | mean of abs log w | mean w | largest w | share capped | largest probe gap |"]
    lines += ["|---|---|---|---|---|---|---|"]
    for seed, told in data["sampler"].items():
        names = ("sampler/gap", "sampler/ratio", "sampler/ratio_max", "sampler/capped", "sampler/probe_max")
        values = [f"{told[name]:.7g}" for name in names]
        lines.append(f"| {seed} | {told['steps_checked']:.0f} | {' | '.join(values)} |")
    return "\n".join(lines)


def page(data: Mapping[str, Any]) -> str:
    """docs/vllm.md with the table in its place."""
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
