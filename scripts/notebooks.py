"""Run the notebooks of docs/notebooks: `python -m scripts.notebooks write` stores their outputs, `check` compares.

A cell that raises is a fault in either case. `check` compares the text of the cells that are tagged `stated`, line by
line, with what is stored; other outputs (times, digits of a float) may differ from machine to machine.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

from scripts.docs_text import differences

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "docs" / "notebooks"
SECONDS = 600


def executed(path: Path) -> nbformat.NotebookNode:
    """The notebook with new outputs, run in its own folder. Raises CellExecutionError where a cell does."""
    notebook = nbformat.read(path, as_version=4)
    where, quiet = {"metadata": {"path": str(path.parent)}}, ["--log-level=ERROR"]
    client = NotebookClient(notebook, timeout=SECONDS, kernel_name="python3", record_timing=False, resources=where)
    client.extra_arguments = quiet
    client.execute()
    return notebook


def checked(path: Path) -> list[str]:
    """What is wrong with a notebook."""
    try:
        new = executed(path)
    except CellExecutionError as error:
        return [str(error)]
    return list(differences(json.loads(path.read_text(encoding="utf-8")), new))


def store(path: Path) -> None:
    """Run a notebook and keep its outputs, but for what went to stderr."""
    notebook = executed(path)
    notebook.metadata.pop("language_info", None)
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
    nbformat.write(notebook, path)


def main(arguments: list[str]) -> int:
    """1 where a notebook is not as stored."""
    bad = 0
    for path in sorted(FOLDER.glob("*.ipynb")):
        begun = time.monotonic()
        faults = checked(path) if arguments[0] == "check" else store(path) or []
        for fault in faults:
            print(f"{path.name}: {fault}", file=sys.stderr)
        print(f"{path.name}: {time.monotonic() - begun:.0f} s, {len(faults)} faults")
        bad += len(faults)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
