"""Does an echo help where nearly every group is all right? The study behind docs/results/echo.md.

python scripts/echo_study.py runs/echo      trains what is not there yet, then writes data, page and plot
python scripts/echo_study.py                writes page and plot again from the stored data

A start model is made by GRPO until it solves most training prompts; the prompts that it always solves become four
fifths of a training split, prompts of middling difficulty the rest. Then every arm starts from that model.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from rekindle.api import train
from rekindle.core.random import pack_key
from rekindle.train.build import make_run
from rekindle.train.compare import Plan, compare
from rekindle.train.drawn import sampling_of
from rekindle.train.events import read_events
from rekindle.train.start import Asked, prepare
from rekindle.train.verdict import paired

RESULTS = Path(__file__).resolve().parent.parent / "docs" / "results"
DATA = RESULTS / "echo.json"
HOSTS = ("grpo", "dapo")
ECHOES = ("echo_rl", "echo_random", "echo_whole")
ARMS = tuple(arm for host in HOSTS for arm in (host, *(f"{host}+{echo}" for echo in ECHOES)))
START = {"steps": 120, "seed": 0, "options": {"rollout.equal_samples": True, "checkpoint.rollouts": 0}}
SOLVED, MIXED, TRIES = 48, 12, 32
OPTIONS = (
    "rollout.prompts=8",
    "rollout.group=8",
    "rollout.votes=8",
    "collect.select.max_rounds=40",
    "empty_steps=0",
    "checkpoint.every=0",
    "checkpoint.rollouts=0",
)
STEPS, SEEDS, PROMPTS, SAMPLES = 40, 3, 120, 16
COLUMNS = (
    ("dead", "groups without signal"),
    ("pass@1", "held-out pass@1"),
    ("pass@8", "held-out pass@8"),
    ("entropy", "entropy"),
    ("ood_pass@1", "harder pass@1"),
    ("ood_pass@8", "harder pass@8"),
    ("ood_entropy", "harder entropy"),
    ("sampled", "responses drawn"),
)
PAIRS = tuple((f"{host}+echo_rl", other) for host in HOSTS for other in (host, *(f"{host}+{e}" for e in ECHOES[1:])))


def start_model(out: Path) -> Path:
    """The model that all arms start from, trained by GRPO where it is not there yet."""
    if not (out / "start" / "final").is_dir():
        train("grpo", task="reduce", out=out / "start", **START)
    return out / "start" / "final"


def choose_prompts(model: Path, out: Path) -> Path:
    """A file of prompt ids: those solved in every try, and those solved in a fifth to four fifths of the tries."""
    path = out / "prompts.txt"
    if path.is_file():
        return path
    resolved, task = prepare(Asked("grpo", {"task": "reduce", "model": str(model)}))
    run = make_run(resolved, task)
    examples = task.split("train")
    with torch.no_grad():
        rollouts = run.sampler.sample(examples, TRIES, sampling_of(resolved), pack_key(7, 0, 0), first_group=0)
    share = run.verifier.verify(rollouts).success.view(len(examples), TRIES).double().mean(dim=1).tolist()
    solved = [e.id for e, s in zip(examples, share, strict=True) if s == 1][:SOLVED]
    mixed = [e.id for e, s in zip(examples, share, strict=True) if 0.2 <= s <= 0.8][:MIXED]
    if len(solved) < SOLVED or len(mixed) < MIXED:
        raise SystemExit(f"{len(solved)} solved and {len(mixed)} middling prompts: the start model does not fit")
    path.write_text("\n".join([*solved, *mixed]) + "\n", encoding="utf-8")
    return path


def gather(out: Path) -> dict[str, Any]:
    """Results of all arms, with the share of dead groups, the responses drawn and the curves of every run."""
    results = json.loads((out / "compare" / "results.json").read_text(encoding="utf-8"))
    curves: dict[str, list[dict[str, list[float]]]] = {}
    for name, values in results["methods"].items():
        for seed in results["seeds"]:
            records = read_events(out / "compare" / "runs" / f"{name}-seed{seed}" / "events.jsonl")
            steps = [r for r in records if r["kind"] == "step"]
            found = {n: [round(r[n], 4) for r in steps] for n in ("groups/dead", "entropy", "success")}
            values.setdefault("dead", []).append(statistics.fmean(found["groups/dead"]))
            values.setdefault("sampled", []).append(round(sum(r["responses"] for r in steps)))
            curves.setdefault(name, []).append(found)
    return {**results, "curves": curves}


def table(data: Mapping[str, Any]) -> list[str]:
    """Means and standard deviations over seeds, as lines of Markdown."""
    lines = ["| | " + " | ".join(title for _, title in COLUMNS) + " |", "|---" * (len(COLUMNS) + 1) + "|"]
    base = [f"{data['base'][n]:.3f}" if n in data["base"] else "" for n, _ in COLUMNS]
    lines.append("| start | " + " | ".join(base) + " |")
    for name, values in data["methods"].items():
        cells = [f"{statistics.fmean(values[n]):.3f} ± {statistics.stdev(values[n]):.3f}" for n, _ in COLUMNS[:-1]]
        lines.append(f"| {name} | " + " | ".join([*cells, f"{statistics.fmean(values['sampled']):.0f}"]) + " |")
    return lines


def differences(data: Mapping[str, Any]) -> list[str]:
    """EchoRL on its host minus the host and minus the two control echoes, paired by seed, as lines of Markdown."""
    names = ("pass@1", "pass@8", "entropy", "ood_pass@1", "ood_pass@8")
    lines = ["| | " + " | ".join(n.replace("_", " ") for n in names) + " |", "|---" * (len(names) + 1) + "|"]
    for ours, theirs in PAIRS:
        found = [paired(data["methods"][ours][n], data["methods"][theirs][n]) for n in names]
        cells = [f"{f.mean:+.3f} (bound {f.bound:.3f}) {f.verdict}" for f in found]
        lines.append(f"| {ours} - {theirs} | " + " | ".join(cells) + " |")
    return lines


def page(data: Mapping[str, Any]) -> str:
    """docs/results/echo.md."""
    notes = (RESULTS / "echo.notes.md").read_text(encoding="utf-8").strip()
    return "\n".join(
        [
            "# An echo where nearly every group is all right",
            "",
            f"`reduce`, {SOLVED} training prompts that the start model solved in all of {TRIES} tries and {MIXED} that "
            f"it solved in 20 to 80 %; {STEPS} steps of 8 prompts x 8 samples; seeds "
            f"{', '.join(map(str, data['seeds']))}; evaluated on {PROMPTS} prompts of each split x {SAMPLES} samples.",
            "Held-out prompts have 5 operands as the training prompts, the harder ones 6 and 7. Numbers after ± are "
            "standard deviations over seeds. Made by `python scripts/echo_study.py runs/echo`; every number comes "
            "from [echo.json](echo.json).",
            "",
            *table(data),
            "",
            "![curves](echo.png)",
            "",
            "## Paired differences",
            "",
            *differences(data),
            "",
            "*shown*: every seed is above and the mean beyond the two-sided 95 % t bound; *opposite*: the same below.",
            "",
            notes,
            "",
        ]
    )


def plot(data: Mapping[str, Any], path: Path) -> None:
    """Dead groups and entropy over steps, and the harder split's pass@1 and pass@8 against the start."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    arms = list(data["methods"])
    colour = {arm: plt.get_cmap("tab10")(i % 4) for i, arm in enumerate(arms)}
    dash = {arm: "-" if i < 4 else "--" for i, arm in enumerate(arms)}
    figure, axes = plt.subplots(1, 4, figsize=(16, 4.8), constrained_layout=True)
    for axis, (name, title) in zip(
        axes[:2], (("groups/dead", "share of groups without signal"), ("entropy", "token entropy (nats)")), strict=True
    ):
        for arm in arms:
            runs = [run[name] for run in data["curves"][arm]]
            mean = [statistics.fmean(values) for values in zip(*runs, strict=True)]
            smooth = [statistics.fmean(mean[max(0, i - 4) : i + 1]) for i in range(len(mean))]
            axis.plot(smooth, color=colour[arm], ls=dash[arm], lw=1.4, label=arm)
        axis.set(title=f"{title}, mean of seeds", xlabel="step")
        axis.grid(alpha=0.25)
    for axis, name in zip(axes[2:], ("ood_pass@1", "ood_pass@8"), strict=True):
        for i, arm in enumerate(arms):
            axis.scatter([i] * len(data["seeds"]), data["methods"][arm][name], color=colour[arm], s=34, zorder=3)
        axis.axhline(data["base"][name], color="0.35", ls="--", lw=1.2, label="start")
        axis.set_xticks(range(len(arms)), arms, rotation=40, ha="right", fontsize=8)
        axis.set_title(f"harder {name.removeprefix('ood_')}, a dot a seed")
        axis.grid(alpha=0.25, axis="y")
        axis.legend(frameon=False)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=8, frameon=False, fontsize=9)
    figure.savefig(path, dpi=110, metadata={"Software": None})
    plt.close(figure)


def main(arguments: Sequence[str]) -> None:
    """Train and gather where a folder is given, then write page and plot."""
    if arguments:
        out = Path(arguments[0])
        model = start_model(out)
        only = choose_prompts(model, out)
        plan = Plan(
            methods=ARMS,
            seeds=tuple(range(SEEDS)),
            flags={"task": "reduce", "model": str(model), "steps": STEPS},
            sets=(*OPTIONS, f"only={only}"),
            prompts=PROMPTS,
            samples=SAMPLES,
            ks=(1, 8, 16),
        )
        compare(plan, out / "compare", lambda name, record: told(name, record))
        DATA.write_text(json.dumps(gather(out), indent=1) + "\n", encoding="utf-8")
    data = json.loads(DATA.read_text(encoding="utf-8"))
    (RESULTS / "echo.md").write_text(page(data), encoding="utf-8")
    plot(data, RESULTS / "echo.png")
    print("\n".join(differences(data)))


def told(name: str, record: Mapping[str, Any]) -> None:
    """A line for every run that begins or ends."""
    if record["kind"] == "member":
        print(name, record["state"], flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
