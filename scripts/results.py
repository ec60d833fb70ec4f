"""Make docs/results/ from a finished comparison: data as JSON, then the page and the plots from the data.

python scripts/results.py runs/compare-reduce          reads the runs, writes all
python scripts/results.py                              writes page and plots again from the stored data
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rekindle.train.events import read_events
from rekindle.train.verdict import paired

RESULTS = Path(__file__).resolve().parent.parent / "docs" / "results"
DATA = RESULTS / "reduce.json"
CURVES = ("entropy", "success", "groups/dead", "truth/label_accuracy", "truth/pass@1", "vote/majority_share")
COLUMNS = (
    ("pass@1", "pass@1"),
    ("pass@16", "pass@16"),
    ("maj@16", "maj@16"),
    ("entropy", "entropy"),
    ("distinct", "distinct"),
    ("invalid_right", "invalid"),
    ("ood_pass@1", "ood pass@1"),
    ("ood_pass@16", "ood pass@16"),
)
COLOURS = {"ttrl": "#c1272d", "evol_rl": "#0b6e4f", "ttrl_entropy": "#e08e0b", "grpo": "#3a5a98"}


def gather(folder: Path) -> dict[str, Any]:
    """Results of the comparison in `folder`, with the curves of every run and the command that made it."""
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    curves: dict[str, list[dict[str, list[float]]]] = {}
    for method in results["methods"]:
        for seed in results["seeds"]:
            records = read_events(folder / "runs" / f"{method}-seed{seed}" / "events.jsonl")
            steps = [r for r in records if r["kind"] == "step"]
            names = [n for n in steps[0] if n in CURVES or n.startswith("ways/")]
            curves.setdefault(method, []).append({n: [round(r[n], 4) for r in steps] for n in names})
    return {**results, "curves": curves}


def aims(data: Mapping[str, Any]) -> list[tuple[str, str, bool]]:
    """(what was aimed at, what is seen, met): the rule for paired seeds is `rekindle.train.verdict.paired`."""
    base, methods = data["base"], data["methods"]
    ttrl, evol = methods["ttrl"], methods["evol_rl"]

    def mean(method: Mapping[str, Sequence[float]], name: str) -> float:
        return statistics.fmean(method[name])

    def share(name: str, limit: float, text: str) -> tuple[str, str, bool]:
        seen = mean(ttrl, name) / base[name]
        return f"below {limit:.2f} of the base's: TTRL's {text}", f"{seen:.2f} of the base's", seen < limit

    def times(name: str, limit: float, text: str) -> tuple[str, str, bool]:
        seen = mean(evol, name) / mean(ttrl, name)
        return f"EVOL-RL keeps at least {limit:g} times TTRL's {text}", f"{seen:.1f} times", seen >= limit

    def beats(name: str, other: Sequence[float], text: str) -> tuple[str, str, bool]:
        found = paired(evol[name], other)
        seen = f"{found.mean:+.3f} (sd {found.deviation:.3f}, t bound {found.bound:.3f}): {found.verdict}"
        return f"EVOL-RL's {text}, every seed and beyond the t bound", seen, found.verdict == "shown"

    flat = [base["pass@1"]] * len(evol["pass@1"])
    far = mean(evol, "ood_pass@16") - base["ood_pass@16"]
    return [
        share("entropy", 1 / 5, "token entropy"),
        share("distinct", 1 / 2, "distinct right derivations"),
        share("ood_pass@16", 2 / 3, "out-of-distribution pass@16"),
        times("entropy", 3, "token entropy"),
        times("distinct", 1.5, "distinct right derivations"),
        beats("ood_pass@16", ttrl["ood_pass@16"], "out-of-distribution pass@16 exceeds TTRL's"),
        beats("pass@1", flat, "held-out pass@1 exceeds the base's"),
        ("far aim: EVOL-RL's out-of-distribution pass@16 is not below the base's", f"{far:+.3f}", far >= 0),
    ]


def differences(data: Mapping[str, Any]) -> list[str]:
    """EVOL-RL minus every other method, and its control minus TTRL, paired by seed, as lines of Markdown."""
    pairs = [("evol_rl", "ttrl"), ("evol_rl", "ttrl_entropy"), ("evol_rl", "grpo"), ("ttrl_entropy", "ttrl")]
    names = ("pass@1", "pass@16", "entropy", "distinct", "invalid_right", "ood_pass@16")
    lines = ["| | " + " | ".join(n.replace("_", " ") for n in names) + " |", "|---" * (len(names) + 1) + "|"]
    for ours, theirs in pairs:
        found = [paired(data["methods"][ours][n], data["methods"][theirs][n]) for n in names]
        cells = [f"{f.mean:+.3f} (bound {f.bound:.3f}) {f.verdict}" for f in found]
        lines.append(f"| {ours} - {theirs} | " + " | ".join(cells) + " |")
    return lines


def table(data: Mapping[str, Any]) -> list[str]:
    """The results as lines of Markdown: mean and standard deviation over seeds."""
    lines = ["| | " + " | ".join(title for _, title in COLUMNS) + " |", "|---" * (len(COLUMNS) + 1) + "|"]
    base = [f"{data['base'][n]:.3f} ± {data['base_error'][n]:.3f}" for n, _ in COLUMNS]
    lines.append("| base (± standard error over prompts) | " + " | ".join(base) + " |")
    for name, values in data["methods"].items():
        cells = [f"{statistics.fmean(values[n]):.3f} ± {statistics.stdev(values[n]):.3f}" for n, _ in COLUMNS]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return lines


def ways(data: Mapping[str, Any]) -> list[str]:
    """Shares of the ways of working on held-out prompts, as lines of Markdown."""
    names = [n for n in data["base"] if n.startswith("ways/")]
    lines = ["| | " + " | ".join(n.removeprefix("ways/") for n in names) + " |", "|---" * (len(names) + 1) + "|"]
    lines.append("| base | " + " | ".join(f"{data['base'][n]:.2f}" for n in names) + " |")
    for method, values in data["methods"].items():
        cells = ["  ".join(f"{v:.2f}" for v in values[n]) for n in names]
        lines.append(f"| {method}, each seed | " + " | ".join(cells) + " |")
    return lines


def page(data: Mapping[str, Any]) -> str:
    """docs/results/reduce.md."""
    settings = data["settings"]
    notes = (RESULTS / "reduce.notes.md").read_text(encoding="utf-8").strip()
    met = [f"| {aim} | {seen} | {'met' if good else '**not met**'} |" for aim, seen, good in aims(data)]
    methods = ", ".join(f"`{m}`" for m in data["methods"])
    return "\n".join(
        [
            "# Methods on `reduce`, from one start model",
            "",
            f"{methods}; seeds {', '.join(map(str, data['seeds']))}; "
            f"{settings['prompts']} prompts of each split x {settings['samples']} samples at temperature 1, top-p 1.",
            "Every method drew the same number of samples. Numbers after ± are standard deviations over seeds.",
            "Made by `make results`; every number comes from [reduce.json](reduce.json).",
            "",
            *table(data),
            "",
            "`distinct`: different valid right derivations among the samples of a prompt (every step legal and true).",
            "`invalid`: share of a prompt's right answers with an invalid step; mean over prompts with a right answer.",
            "`entropy`: nats a token. `ood`: 6 and 7 operands; training and held-out prompts have 5.",
            "",
            "![curves](reduce.png)",
            "",
            "## What was aimed at, stated before the runs",
            "",
            "| aim | seen | |",
            "|---|---|---|",
            *met,
            "",
            "## Paired differences, by the same rule",
            "",
            *differences(data),
            "",
            "*shown*: every seed is above and the mean beyond the two-sided 95 % t bound; *opposite*: the same below.",
            "",
            "## Ways of working on held-out prompts",
            "",
            *ways(data),
            "",
            notes,
            "",
        ]
    )


def plot(data: Mapping[str, Any], path: Path) -> None:
    """Six panels: curves over steps (one line a seed), and what the evaluation shows against the base."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(2, 3, figsize=(13, 7.2), constrained_layout=True)
    titles = {
        "entropy": "token entropy of the samples (nats)",
        "groups/dead": "share of groups without signal",
        "truth/pass@1": "true accuracy on the training prompts",
    }
    for axis, (name, title) in zip(axes[0], titles.items(), strict=True):
        for method, runs in data["curves"].items():
            for i, run in enumerate(runs):
                axis.plot(smooth(run[name]), color=COLOURS.get(method), lw=1.3, label=method if i == 0 else None)
        axis.set(title=title, xlabel="step")
        axis.grid(alpha=0.25)
    axes[0][0].set_yscale("log")
    axes[0][0].legend(frameon=False)
    panels = (("pass@1", "pass@16"), ("ood_pass@1", "ood_pass@16"), ("distinct",))
    for axis, names in zip(axes[1], panels, strict=True):
        bars(axis, data, names)
    figure.savefig(path, dpi=110, metadata={"Software": None})
    plt.close(figure)


def smooth(values: Sequence[float], width: int = 5) -> list[float]:
    """Running mean over at most the last `width` steps: a step sees 8 prompts, which is noisy."""
    return [statistics.fmean(values[max(0, i - width + 1) : i + 1]) for i in range(len(values))]


def bars(axis: Any, data: Mapping[str, Any], names: Sequence[str]) -> None:
    """One dot a seed for each method, the base as a dashed line."""
    ticks: list[str] = []
    for name in names:
        start = len(ticks)
        for method, values in data["methods"].items():
            axis.scatter([len(ticks)] * len(values[name]), values[name], color=COLOURS.get(method), s=34, zorder=3)
            ticks.append(method)
        axis.hlines(data["base"][name], start - 0.4, len(ticks) - 0.6, color="0.35", ls="--", lw=1.2)
        label = f"base {name}".replace("_", " ")
        axis.text(start - 0.4, data["base"][name], label, va="bottom", fontsize=8, color="0.35")
    axis.set_xticks(range(len(ticks)), ticks, rotation=35, ha="right")
    axis.set_title(", ".join(names).replace("_", " "))
    axis.set_ylim(0, 1.08 * axis.get_ylim()[1])  # room for the base's label below the title
    axis.grid(alpha=0.25, axis="y")


def main(arguments: Sequence[str]) -> None:
    """Gather where a folder is given, then write page and plot."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    if arguments:
        DATA.write_text(json.dumps(gather(Path(arguments[0])), indent=1) + "\n", encoding="utf-8")
    data = json.loads(DATA.read_text(encoding="utf-8"))
    (RESULTS / "reduce.md").write_text(page(data), encoding="utf-8")
    plot(data, RESULTS / "reduce.png")
    *stated, far = [good for *_, good in aims(data)]
    print(f"{sum(stated)} of {len(stated)} aims met, the far aim {'met' if far else 'not met'}")


if __name__ == "__main__":
    main(sys.argv[1:])
