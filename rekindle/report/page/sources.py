"""Where the prompts of an evaluation come from: ids are held against each other only within one source."""

from __future__ import annotations

from collections.abc import Sequence

from rekindle.report.recording import Recording

READ = ("data_config", "data_split", "data_layout", "data_prompt", "data_answer")
"""Options that tell what is read of a data set, with the values that say nothing."""
PLAIN = ("train", "auto", None)


def source_of(run: Recording, split: str) -> str:
    """The task or data of a split as the run's options name it; "" where they do not say.

    Tasks and data sets number their prompts alike ("heldout-0", "line-1"), so that an id alone tells none from another.
    """
    data = run.options.get(f"data_{split}") or run.options.get("data")
    if not data:
        return str(run.options.get("task") or "")
    read = [f"{name} {own}" for name in READ if (own := run.options.get(name)) not in PLAIN]
    return ", ".join([str(data), *read])


def by_source(runs: Sequence[Recording], split: str) -> dict[str, list[Recording]]:
    """What to put behind the name of a split -> the runs measured on it: "" where all have one source, else which."""
    found: dict[str, list[Recording]] = {}
    for run in runs:
        if any(counts.split == split for counts in run.counts):
            found.setdefault(source_of(run, split), []).append(run)
    several = len(found) > 1
    return {f" ({source or 'of unknown source'})" if several else "": own for source, own in found.items()}
