"""The driver: `python -m benchmarks.speed [ITEM ...]` measures, stores benchmarks/speed.json and writes the page."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import repeat
from pathlib import Path
from typing import Any

from benchmarks.speed import machine, page, plan, rivals
from benchmarks.speed.brief import brief
from benchmarks.speed.worker import THREADS

SECONDS = 900  # of one row; a row that takes longer hangs
QUICK = rivals.ROOT / "runs" / "bench-quick"


def main() -> int:
    """Measures the items that were named, or all, and rewrites the page."""
    args = arguments()
    trl, vllm = rivals.trl(), rivals.vllm()
    for rival in (trl, vllm):
        print(f"{rival.name}: {rival.version or 'not measured: ' + rival.missing}", flush=True)
    asked = plan.Asked(tuple(args.sizes) if args.sizes else None, args.pairs, args.quick, bool(trl.python), vllm.python)
    stored = page.load(args.store)
    threads = 1 if args.quick else THREADS
    began = time.perf_counter()
    rows = [(item, row) for item in args.items or plan.ITEMS for row in plan.ITEMS[item](asked)]
    pythons = [trl.python if row.rival else sys.executable for _, row in rows]
    about = machine.describe() | {"trl": trl.version, "vllm": vllm.version, "threads": threads}
    missing = {r.name: r.missing for r in (trl, vllm) if r.missing}
    # At toy size nothing is compared, so rows may run beside each other.
    with ThreadPoolExecutor(THREADS if args.quick else 1) as pool:
        found = pool.map(run, [item for item, _ in rows], [row for _, row in rows], pythons, repeat(threads))
        for (item, row), answer in zip(rows, found, strict=True):
            section = stored.setdefault(item, {"rows": {}})
            section |= {"machine": about, "rivals_missing": missing}
            section["rows"][row.key] = answer
            save(stored, args.store)
    print(f"measured in {(time.perf_counter() - began) / 60:.1f} minutes; {args.store}")
    if not args.no_page:
        page.write(stored, args.page)
        print(f"wrote {args.page}")
    return 0


def save(stored: dict[str, Any], path: Path) -> None:
    """Whole or not at all, after every row: what was measured before an interruption is kept."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_suffix(".tmp")
    new.write_text(json.dumps(stored, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    new.replace(path)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed", description=__doc__)
    parser.add_argument("items", nargs="*", choices=[*plan.ITEMS, []], help="what to measure (default: everything)")
    parser.add_argument("--sizes", nargs="+", help="only these sizes, such as 1M")
    parser.add_argument("--pairs", type=int, help="pairs of each row (default: as many as fit)")
    parser.add_argument("--quick", action="store_true", help="everything at toy size: checks the driver, not the speed")
    parser.add_argument("--store", type=Path, help="the JSON to update (default: benchmarks/speed.json)")
    parser.add_argument("--page", type=Path, help="the page to write (default: docs/performance.md)")
    parser.add_argument("--no-page", action="store_true", help="measure and store only")
    args = parser.parse_args()
    args.store = args.store or (QUICK / "speed.json" if args.quick else page.STORE)
    args.page = args.page or (QUICK / "performance.md" if args.quick else page.PAGE)
    return args


def run(item: str, row: plan.Row, python: str, threads: int) -> dict[str, Any]:
    """The row as its own process measures it; where that fails, {"failed": why}."""
    began = time.perf_counter()
    environment = os.environ | {
        "OMP_NUM_THREADS": str(threads),
        "REKINDLE_BENCH_THREADS": str(threads),
        "PYTHONPATH": str(rivals.ROOT),
    }
    with tempfile.TemporaryDirectory(prefix="rekindle-bench-") as folder:
        asked, answer = Path(folder) / "asked.json", Path(folder) / "answer.json"
        asked.write_text(json.dumps(row.keywords))
        command = [python, "-m", "benchmarks.speed.worker", item, str(asked), str(answer)]
        try:
            done = subprocess.run(
                command, cwd=rivals.ROOT, env=environment, capture_output=True, text=True, timeout=SECONDS
            )
        except subprocess.TimeoutExpired:
            return {"failed": f"took more than {SECONDS} s"}
        if not answer.is_file():
            print(done.stderr[-3000:], file=sys.stderr)
            lines = [line for line in done.stderr.splitlines() if line.strip()]
            return {"failed": lines[-1][:300] if lines else f"ended with code {done.returncode}"}
        found = json.loads(answer.read_text())
    took = time.perf_counter() - began
    print(f"{item} {row.key}: {brief(item, found)} [{took:.0f} s]", flush=True)
    return found | {"took": took}


if __name__ == "__main__":
    sys.exit(main())
