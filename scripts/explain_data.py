"""Write what `rekindle explain` needs of docs/conformance.json into the package. `--check` only looks."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from rekindle.interop.explain.matrix import RIVALS, STORE

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "docs" / "conformance.json"
KEPT = ("method", "flags", "rival", "setting", "kinds", "difference", "verdict", "reason")


def text() -> str:
    """The file: the rivals' versions, and the rows that compare with them."""
    data = json.loads(SOURCE.read_text(encoding="utf-8"))
    rows = {key: {name: row[name] for name in KEPT} for key, row in data["rows"].items()}
    kept = {key: row for key, row in rows.items() if row["rival"] in RIVALS.values()}
    return json.dumps({"rivals": data["rivals"], "rows": kept}, indent=1, ensure_ascii=False) + "\n"


def main(arguments: list[str]) -> int:
    """Write the file; with `--check` return 1 if it is not current."""
    current = STORE.exists() and STORE.read_text(encoding="utf-8") == text()
    if "--check" in arguments:
        if not current:
            print(f"{STORE.relative_to(ROOT)} is not current: run python scripts/explain_data.py", file=sys.stderr)
        return 0 if current else 1
    if not current:
        STORE.write_text(text(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
