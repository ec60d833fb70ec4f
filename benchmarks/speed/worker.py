"""One row in a fresh process: `python -m benchmarks.speed.worker ITEM KEYWORDS.json ANSWER.json`."""

from __future__ import annotations

import importlib
import json
import os
import sys
import tempfile
import warnings
from pathlib import Path

THREADS = int(os.environ.get("REKINDLE_BENCH_THREADS") or os.cpu_count() or 1)


def main() -> None:
    """Measures and writes the row."""
    item, asked, answer = sys.argv[1:]
    warnings.simplefilter("ignore")
    import torch
    from transformers.utils import logging

    os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    torch.set_num_threads(THREADS)
    module = importlib.import_module(f"benchmarks.speed.{item}")
    with tempfile.TemporaryDirectory(prefix="rekindle-bench-") as work:
        row = module.measure(**json.loads(Path(asked).read_text()), work=Path(work))
        Path(answer).write_text(json.dumps(row))


if __name__ == "__main__":
    main()
