"""EVOL-RL with one idea taken out at a time: data, page and plot in docs/results/ablation.*.

python scripts/ablation_study.py runs/ablation     gathers the finished comparison (see `command`), writes all
python scripts/ablation_study.py                   writes page and plot again from the stored data
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

from results import COLUMNS, RESULTS, gather, smooth, table

from rekindle.train.verdict import paired

DATA = RESULTS / "ablation.json"
FILE = "examples/03_evol_rl_ablation.py"
ARMS = {
    "evol_rl": "the whole method",
    "ttrl_entropy": "without novelty",
    "no_entropy": "without the entropy bonus",
    "no_clip_higher": "without the asymmetric clip",
    "local_only": "novelty by local similarity only",
    "global_only": "novelty by global similarity only",
}
NAMES = ("pass@1", "pass@16", "entropy", "distinct", "ood_pass@1", "ood_pass@16")


def command() -> str:
    """The comparison that the page is made from."""
    arms = [name if name in ("evol_rl", "ttrl_entropy") else f"{FILE}:{name}" for name in ARMS]
    return f"rekindle compare {' '.join(arms)} --seeds 3 --task reduce --out runs/ablation"


def differences(data: Mapping[str, Any]) -> list[str]:
    """The whole method minus each arm, paired by seed, as lines of Markdown."""
    lines = ["| what the part adds | " + " | ".join(n.replace("_", " ") for n in NAMES) + " |"]
    lines.append("|---" * (len(NAMES) + 1) + "|")
    for arm, text in list(ARMS.items())[1:]:
        found = [paired(data["methods"]["evol_rl"][n], data["methods"][arm][n]) for n in NAMES]
        cells = [f"{f.mean:+.3f} (bound {f.bound:.3f}) {f.verdict}" for f in found]
        lines.append(f"| evol_rl - {arm} ({text}) | " + " | ".join(cells) + " |")
    return lines


def page(data: Mapping[str, Any]) -> str:
    """docs/results/ablation.md."""
    notes = (RESULTS / "ablation.notes.md").read_text(encoding="utf-8").strip()
    settings = data["settings"]
    return "\n".join(
        [
            "# EVOL-RL, one idea taken out at a time",
            "",
            f"`reduce`, the setting of [reduce.md](reduce.md); seeds {', '.join(map(str, data['seeds']))}; "
            f"{settings['prompts']} prompts of each split x {settings['samples']} samples. Numbers after ± are "
            "standard deviations over seeds. Every number comes from [ablation.json](ablation.json), made by",
            "",
            "```",
            command(),
            "python scripts/ablation_study.py runs/ablation",
            "```",
            "",
            *table(data),
            "",
            *[f"- `{arm}`: {text}" for arm, text in ARMS.items()],
            "",
            "![ablation](ablation.png)",
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
    """Entropy over steps, and distinct derivations and the harder pass@16 of each arm against the start model."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    colour = {arm: plt.get_cmap("tab10")(i) for i, arm in enumerate(ARMS)}
    figure, axes = plt.subplots(1, 3, figsize=(14, 4.4), constrained_layout=True)
    for arm in ARMS:
        runs = [run["entropy"] for run in data["curves"][arm]]
        axes[0].plot(smooth([statistics.fmean(v) for v in zip(*runs, strict=True)]), color=colour[arm], label=arm)
    axes[0].set(title="token entropy (nats), mean of seeds", xlabel="step", yscale="log")
    axes[0].legend(frameon=False, fontsize=8)
    axes[0].grid(alpha=0.25)
    for axis, name in zip(axes[1:], ("distinct", "ood_pass@16"), strict=True):
        for i, arm in enumerate(ARMS):
            values = data["methods"][arm][name]
            axis.scatter([i] * len(values), values, color=colour[arm], s=34, zorder=3)
        axis.axhline(data["base"][name], color="0.35", ls="--", lw=1.2, label="start model")
        axis.set_xticks(range(len(ARMS)), ARMS, rotation=35, ha="right", fontsize=8)
        axis.set_title(f"{name.replace('_', ' ')}, a dot a seed")
        axis.grid(alpha=0.25, axis="y")
        axis.legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=110, metadata={"Software": None})
    plt.close(figure)


def main(arguments: Sequence[str]) -> None:
    """Gather where a folder is given, then write page and plot."""
    if arguments:
        data = gather(Path(arguments[0]))
        kept = {
            arm: {n: v for n, v in data["methods"][arm].items() if n in dict(COLUMNS) or n in NAMES} for arm in ARMS
        }
        curves = {arm: [{"entropy": run["entropy"]} for run in data["curves"][arm]] for arm in ARMS}
        stored = {**data, "methods": kept, "curves": curves}
        DATA.write_text(json.dumps(stored, indent=1) + "\n", encoding="utf-8")
    data = json.loads(DATA.read_text(encoding="utf-8"))
    (RESULTS / "ablation.md").write_text(page(data), encoding="utf-8")
    plot(data, RESULTS / "ablation.png")
    print("\n".join(differences(data)))


if __name__ == "__main__":
    main(sys.argv[1:])
