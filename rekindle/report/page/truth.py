"""The truth meter of a run without labels: is the vote right, is the reward, and does the model beat its own start?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rekindle.report.page.charts import lines
from rekindle.report.page.panels import Chart, Panel, banded, metric_curves, part_of
from rekindle.report.recording import Recording

RECORD = (
    "The run has the vote but no answers to hold it against: add an `answer` column to the data. It reaches no reward, "
    "only this meter."
)
LABELLED = "Nothing voted in this run: its rewards come from references or a reward function."


def truth_panel(runs: Sequence[Recording]) -> Panel:
    """Accuracy of label and reward; the vote's entropy; and success by the truth against maj@k of the start."""
    charts: list[Chart] = []
    pairs = (("truth/label_accuracy", "the label"), ("truth/reward_accuracy", "the reward"))
    curves = {}
    for name, told in pairs:
        for group, own in metric_curves(runs, name).items():
            curves[part_of(runs, group, told)] = own
    if curves:
        charts.append(lines("How often label and reward are right", banded(curves), y="share"))
    votes = metric_curves(runs, "vote/entropy")
    if votes:
        charts.append(lines("Entropy of the vote", banded(votes), y="nats a prompt", scale={"zero": True}))
    truth = metric_curves(runs, "truth/pass@1")
    if votes and truth:
        charts.append(
            lines("Right by the truth, against the frozen start model", banded(truth), y="share", rule=beat(runs))
        )
    missing = [] if votes else [LABELLED]
    missing += [RECORD] if votes and not curves else []
    lead = (
        "Label accuracy: the share of prompts whose vote is the true answer. Reward accuracy: the share of responses "
        "that the label judges as the truth would. A falling entropy of the vote with a label that is no better is "
        "lock-in. The dashed lines are what the frozen start model reaches by voting: a run that stays below has "
        "learned nothing new."
    )
    return Panel(id="truth", title="Truth meter", lead=lead if votes else "", charts=charts, missing=missing)


def beat(runs: Sequence[Recording]) -> list[dict[str, Any]]:
    """maj@k and pass@1 of the start model on training prompts: the first run's, which all start from."""
    for run in runs:
        for record in run.of_kind("baseline"):
            ks = sorted(int(name.removeprefix("start/maj@")) for name in record if name.startswith("start/maj@"))
            if ks:
                names = (f"start/maj@{ks[-1]}", "start/pass@1")
                return [
                    {"y": record[n], "name": n.removeprefix("start/") + " of the start"} for n in names if n in record
                ]
    return []
