"""Make docs/results/forecast_grpo.md and its plot from the stored records of three GRPO runs.

python scripts/forecast_page.py                        writes page and plot from docs/results/grpo-seed*/
python scripts/forecast_page.py runs/compare-reduce    first stores the records of that comparison's GRPO runs
"""

from __future__ import annotations

import contextlib
import io
import json
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from rekindle.cli.analysis_text import print_forecast
from rekindle.report.fits import rmse
from rekindle.report.forecast import SPENT, Forecast, forecast, outcome
from rekindle.report.origin import saved_options
from rekindle.train.events import read_events

RESULTS = Path(__file__).resolve().parent.parent / "docs" / "results"
SEEDS = (0, 1, 2)
KEPT = ("kind", "step", "method", "versions", "entropy", "success", "truth/pass@1", "pass@1")


def store(comparison: Path) -> None:
    """Keep of each run what a forecast reads: start, steps and evaluations, and run.toml."""
    for seed in SEEDS:
        run, place = comparison / "runs" / f"grpo-seed{seed}", RESULTS / f"grpo-seed{seed}"
        place.mkdir(exist_ok=True)
        records = [r for r in read_events(run / "events.jsonl") if r["kind"] in ("start", "step", "eval")]
        rows = [{k: round(v, 6) if isinstance(v, float) else v for k, v in r.items() if k in KEPT} for r in records]
        (place / "events.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        text = (run / "run.toml").read_text(encoding="utf-8")
        (place / "run.toml").write_text(text.replace(f"{comparison}/", "runs/compare-reduce/"), encoding="utf-8")


def fitted(seed: int, first: float) -> Forecast:
    """The forecast of a stored run from its first share."""
    place = RESULTS / f"grpo-seed{seed}"
    return forecast(read_events(place / "events.jsonl"), saved_options(place), first)


def printed(found: Forecast) -> str:
    """What `rekindle forecast` prints."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        print_forecast(found)
    return out.getvalue().rstrip()


def spent(found: Forecast) -> str:
    """The first step from which the mean entropy over ten steps is below the mark, "-" where there is none."""
    values = np.concatenate([found.fitted.entropy, found.rest.entropy])
    means = np.convolve(values, np.ones(10) / 10, mode="valid")
    below = np.flatnonzero(means < SPENT)
    return f"{below[0] + 1} to {below[0] + 10}" if len(below) else "-"


def summary(shares: Sequence[float]) -> list[str]:
    """One row a seed and share as lines of Markdown: what was said, what came, and the errors."""
    lines = [
        "| fitted | seed | ceiling b - a | said: H < 0.05 from step | came: first ten steps with mean H below | "
        "RMSE of H (flat line) | RMSE of R (flat line) | of R, five stretches (flat line) | "
        "last stretch, R said / came |",
        "|---" * 9 + "|",
    ]
    for share in shares:
        for seed in SEEDS:
            found = fitted(seed, share)
            e = outcome(found)
            (ceiling, (low, high)), (step, (early, late)) = found.spread("ceiling"), found.spread("spent")
            last = found.rest.between(found.rest.step[-1] - 12, found.rest.step[-1])
            said = found.law.score(found.decay.entropy(last.score_step)).mean()
            until = number(late)
            lines.append(
                f"| {share:.0%} | {seed} | {ceiling:.3f} ({low:.3f} to {high:.3f}) | "
                f"{number(step)} ({early:.0f} to {until}) | "
                f"{spent(found)} | {e.entropy:.3f} ({e.flat_entropy:.3f}) | {e.score:.3f} ({e.flat_score:.3f}) | "
                f"{e.score_stretches:.3f} ({e.flat_stretches:.3f}) | {said:.3f} / {last.score.mean():.3f} |"
            )
    return lines


def number(step: float) -> str:
    """A step, or "never"."""
    return f"{step:.0f}" if np.isfinite(step) else "never"


def noise(found: Forecast) -> tuple[float, float]:
    """Root mean squared residual of the law on the fitted and on the later steps, both from the actual entropy."""
    before, after = (rmse(found.law.score(part.score_entropy), part.score) for part in (found.fitted, found.rest))
    return before, after


def plot(path: Path) -> None:
    """Entropy and score against steps, a column a seed: actual, fit, forecast and its interval."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2, 3, figsize=(11, 5.6), sharex=True, sharey="row")
    for column, seed in enumerate(SEEDS):
        found = fitted(seed, 0.5)
        steps = np.concatenate([found.fitted.step, found.rest.step])
        entropies = [d.entropy(steps) for d in found.decays]
        scores = [law.score(h) for law, h in zip(found.laws, entropies, strict=True)]
        line = found.decay.entropy(steps)
        for axis, curve, drawn, name in (
            (axes[0, column], line, entropies, "entropy"),
            (axes[1, column], found.law.score(line), scores, "score"),
        ):
            actual = np.concatenate([vars(found.fitted)[name], vars(found.rest)[name]])
            axis.plot(steps, actual, ".", ms=3, color="0.6")
            smooth = np.convolve(actual, np.ones(10) / 10, mode="valid")
            axis.plot(steps[4:-5], smooth, color="0.25", lw=1.2, label="mean of ten steps")
            axis.fill_between(steps, *np.quantile(drawn, (0.05, 0.95), axis=0), color="#3a5a98", alpha=0.25, lw=0)
            axis.plot(steps, curve, color="#3a5a98", lw=1.6, label="fit, 90 % interval")
            axis.axvline(found.fitted.step[-1] + 0.5, color="#c1272d", ls="--", lw=1)
            axis.grid(alpha=0.25)
        axes[0, column].axhline(SPENT, color="0.5", ls=":", lw=1)
        axes[0, column].set_title(f"seed {seed}", fontsize=10)
        axes[1, column].set_xlabel("step (fitted left of the red line)")
    axes[0, 0].set_ylabel("entropy, nats a token")
    axes[1, 0].set_ylabel("training success")
    axes[0, 0].legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def page() -> str:
    """docs/results/forecast_grpo.md."""
    notes = (RESULTS / "forecast_grpo.notes.md").read_text(encoding="utf-8").strip()
    before, after = (statistics.fmean(noise(fitted(seed, 0.5))[i] for seed in SEEDS) for i in (0, 1))
    return "\n".join(
        [
            "# The entropy law on GRPO: the second half foretold from the first",
            "",
            "Three GRPO runs on `reduce` (120 steps, those of [reduce.md](reduce.md)); R = -a e^H + b and an",
            "exponential decay of H over steps are fitted to the first half. What a forecast reads of their records",
            "is stored in `grpo-seed0` to `grpo-seed2`, floats to six decimals.",
            "Made by `python scripts/forecast_page.py`.",
            "",
            "```",
            "$ rekindle forecast docs/results/grpo-seed0 --first 0.5",
            printed(fitted(0, 0.5)),
            "```",
            "",
            "![fit and actual](forecast_grpo.png)",
            "",
            *summary((0.33, 0.5)),
            "",
            "In brackets: 90 % intervals, or the error of a flat line (the mean of the last quarter of the fitted",
            "steps, carried on), the forecast to beat. A step's R is the mean over 8 prompts: even the law's own fit",
            f"misses single steps by {before:.3f} (root mean square over the fitted half; {after:.3f} over the second",
            "half, given its actual entropies).",
            "",
            notes,
            "",
        ]
    )


def main(arguments: Sequence[str]) -> None:
    """Store where a comparison is given, then write page and plot."""
    if arguments:
        store(Path(arguments[0]))
    (RESULTS / "forecast_grpo.md").write_text(page(), encoding="utf-8")
    plot(RESULTS / "forecast_grpo.png")


if __name__ == "__main__":
    main(sys.argv[1:])
