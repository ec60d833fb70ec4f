"""`python -m benchmarks.collapse run|score|page`."""

from __future__ import annotations

import sys

from benchmarks.collapse.runs import run_all

if __name__ == "__main__":
    if sys.argv[1:] == ["run"]:
        run_all()
