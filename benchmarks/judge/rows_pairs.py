"""What is compared with TRL's DPO trainer: losses on pairs, by each setting that has a counterpart here."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from benchmarks.judge import sides, trl_pairs
from benchmarks.judge.row import Row

SMOOTHED = "TRL's sigmoid loss does not read label_smoothing; ours is conservative DPO then."
SUMMED = "The paper's IPO sums log-ratios over tokens (our default); TRL divides them by the number of tokens."


def pair(
    slug: str, options: Mapping[str, Any], reason: str = "", pieces: int = 1, kind: str = "pairs", **flags: Any
) -> Row:
    """A loss of ours on pairs against `_compute_loss` of TRL's DPO trainer."""
    method = sides.record(slug, options)
    micro = f"; {pieces} micro-batches" if pieces > 1 else ""
    return Row(
        method=slug,
        flags=sides.flags(method, "objective", "aggregate") + micro,
        rival="TRL",
        setting="DPOTrainer, " + ", ".join(f"{flag}={value}" for flag, value in flags.items()),
        kinds=(kind,),
        ours=partial(sides.loss, method, pieces=pieces),
        theirs=partial(trl_pairs.loss, **flags),
        reason=reason,
    )


def rows() -> dict[str, Row]:
    """Every row of a loss on pairs."""
    normed = {"objective.length_norm": True}
    noisy = {"objective.smoothing": 0.1}
    return {
        "trl-dpo": pair("dpo", {}, loss_type="sigmoid", beta=0.1),
        "trl-dpo-cut": pair("dpo", {}, pieces=4, loss_type="sigmoid", beta=0.1),
        "trl-dpo-norm": pair("dpo", normed, loss_type="sigmoid_norm", beta=0.1),
        "trl-dpo-robust": pair(
            "dpo", noisy | {"objective.robust": True}, loss_type="robust", beta=0.1, label_smoothing=0.1
        ),
        "trl-dpo-smoothing": pair("dpo", noisy, SMOOTHED, loss_type="sigmoid", beta=0.1, label_smoothing=0.1),
        "trl-ipo": pair("ipo", normed, loss_type="ipo", beta=0.1),
        "trl-ipo-cut": pair("ipo", normed, pieces=4, loss_type="ipo", beta=0.1),
        "trl-ipo-summed": pair("ipo", {}, SUMMED, loss_type="ipo", beta=0.1),
    }
