"""docs/performance.png: the parts of a step as shares of it, the sizes side by side."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.speed.words import good, number

COLOURS = ("#3b6ea8", "#e08a2e", "#5a9e6f", "#a35a8c")
WIDTH = 0.8  # of a group of bars, where 1 is the distance between groups


def data(stored: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Size -> part -> seconds, as the chart shows them; {} where no size was measured."""
    return {size: row["seconds"] for size, row in good(stored.get("parts", {}).get("rows", {})).items()}


def draw(found: Mapping[str, Mapping[str, float]], path: Path) -> None:
    """The chart of `data`; the numbers are also in the picture's description, so that a test can compare them."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    names = list(dict.fromkeys(part for seconds in found.values() for part in seconds))
    figure, axis = plt.subplots(figsize=(11, 4.8), constrained_layout=True)
    width = WIDTH / len(found)
    for i, (size, seconds) in enumerate(found.items()):
        whole = sum(seconds.values())
        shares = [100 * seconds.get(name, 0.0) / whole for name in names]
        places = [x + (i - (len(found) - 1) / 2) * width for x in range(len(names))]
        label = f"{size} parameters: {number(whole)} s a step"
        bars = axis.bar(places, shares, 0.92 * width, color=COLOURS[i % len(COLOURS)], label=label)
        axis.bar_label(bars, [f"{share:.0f}" if share >= 0.5 else "<1" for share in shares], fontsize=8, padding=1)
    axis.set_xticks(range(len(names)), [name.replace(" and ", "\nand ").replace(" of ", "\nof ") for name in names])
    axis.set_ylabel("share of the step (%)")
    axis.set_title("Where the time of a step goes")
    axis.legend(frameon=False)
    axis.spines[["top", "right"]].set_visible(False)
    axis.margins(y=0.1)
    figure.savefig(path, dpi=110, metadata={"Software": None, "Description": json.dumps(found)})
    plt.close(figure)
