"""The judge: `python -m benchmarks.judge`, beside real TRL and verl, writes docs/conformance.json and its page.

A row without a reason that differs, or with the reason of a difference that is not there, fails the run.
"""

from __future__ import annotations

import itertools
import json
import sys
from importlib.metadata import version
from typing import Any

import torch

from benchmarks.judge import page, rows_methods, rows_own, rows_pairs, rows_state, rows_trl, rows_verl
from benchmarks.judge.cases import KINDS
from benchmarks.judge.row import TOLERANCE, Row, judge

SEEDS = 5
WITHOUT = (
    "verl's `grpo_passk`, `gdpo`, `optimal_token_baseline`, `tir_optimal_token_baseline`",
    "verl's `geo_mean`, `dppo_tv`, `dppo_kl`, `dro`",
    "TRL's `luspo`, `vespo`, `scale_rewards=batch`, `off_policy_mask_threshold`",
)


def rows() -> dict[str, Row]:
    """Every row, by its name."""
    rivals = {**rows_verl.rows(), **rows_trl.rows(), **rows_methods.rows(), **rows_pairs.rows(), **rows_state.rows()}
    return {**rivals, **rows_own.rows()}


def rivals() -> list[str]:
    """What is installed."""
    return [f"verl {version('verl')}", f"TRL {version('trl')}"]


def others() -> list[str]:
    """What else is compared with: a library, and methods of our own that others reduce to."""
    return [f"cmaes {version('cmaes')}", rows_own.OWN]


def judged(seeds: int, names: list[str] | None = None) -> dict[str, Any]:
    """The rows as stored, judged on `seeds` seeds of each kind of input."""
    found = rows()
    return {name: judge(found[name], seeds) for name in names or found}


def apart(row: Row, seeds: int) -> dict[str, float]:
    """Of a row in several micro-batches: how far the gradient of either side is from that of the uncut batch."""
    found = {"ours": 0.0, "theirs": 0.0}
    for kind, seed in itertools.product(row.kinds, range(seeds)):
        for side, said in (("ours", row.ours), ("theirs", row.theirs)):
            one, many = said(KINDS[kind](seed), pieces=1).gradient, said(KINDS[kind](seed)).gradient
            found[side] = max(found[side], (one - many).abs().max().item())
    return found


def faults(stored: dict[str, Any]) -> list[str]:
    """Rows whose verdict is not the one that was stated beforehand."""
    wrong = []
    for name, row in stored.items():
        stated = "equal" if not row["reason"] or row["tolerance"] > TOLERANCE else "differs"
        if row["verdict"] != stated:
            wrong.append(f"{name}: stated {stated}, found {row['verdict']}: {row['difference']}")
    return wrong


def main() -> int:
    """Judges every row, prints what is wrong, and writes the data and the page where nothing is."""
    torch.set_num_threads(1)
    stored = judged(SEEDS)
    cut = {name: apart(row, SEEDS) for name, row in rows().items() if name.endswith("-micro")}
    for name, row in stored.items():
        print(f"{name:28} {row['verdict']:8} " + "  ".join(f"{k} {v:.1e}" for k, v in row["difference"].items()))
    wrong = faults(stored)
    if wrong:
        print("\n".join(["not written:", *wrong]), file=sys.stderr)
        return 1
    kinds = {name: (made.__doc__ or "").splitlines()[0] for name, made in KINDS.items()}
    head = {"rivals": rivals(), "torch": torch.__version__, "seeds": SEEDS, "tolerance": TOLERANCE}
    head["others"] = others()
    data = {**head, "kinds": kinds, "without": list(WITHOUT), "cut": cut, "rows": stored}
    page.DATA.write_text(json.dumps(data, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    page.PAGE.write_text(page.page(data), encoding="utf-8")
    print(f"wrote {page.DATA.relative_to(page.ROOT)} and {page.PAGE.relative_to(page.ROOT)}: {len(stored)} rows")
    return 0


if __name__ == "__main__":
    sys.exit(main())
