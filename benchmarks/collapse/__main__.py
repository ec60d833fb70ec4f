"""`python -m benchmarks.collapse run|score|page|check`: train what is not stored, print the score, the page."""

from __future__ import annotations

import sys

from benchmarks.collapse.page import PAGE, page, played, verdicts, wrong
from benchmarks.collapse.runs import run_all, stored


def main(what: str) -> int:
    """Do one of the four; 1 for a page that does not follow from the runs, 2 for another word."""
    if what == "run":
        run_all()
    elif what == "score":
        plays = played(stored())
        print(verdicts(plays), wrong(plays), sep="\n\n")
    elif what == "page":
        PAGE.write_text(page(stored(), PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    elif what == "check":
        text = PAGE.read_text(encoding="utf-8")
        return int(page(stored(), text) != text)
    else:
        print("python -m benchmarks.collapse run|score|page|check", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(" ".join(sys.argv[1:])))
