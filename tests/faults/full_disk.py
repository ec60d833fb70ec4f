"""Run on a disk that fills up, free space, go on. Takes a folder; to be run as root of namespaces of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from rekindle.errors import GuardStop
from tests.faults.cuts import gone_on, whole

MOUNT = "mount"


def main(folder: str, kibibytes: int) -> None:
    """Print as JSON what was said, what was left, and whether nothing was half written."""
    disk = Path(folder)
    subprocess.run([MOUNT, "-t", "tmpfs", "-o", f"size={kibibytes}k", "tmpfs", folder], check=True)
    said = ""
    try:
        whole(disk / "run")
    except GuardStop as stop:
        said = str(stop)
    there = sorted(path.name for path in (disk / "run" / "checkpoints").glob("*"))
    hidden = [path.name for path in (disk / "run").rglob(".*.partial")]
    subprocess.run([MOUNT, "-o", "remount,size=200m", folder], check=True)
    gone_on(disk / "run")
    events = (disk / "run" / "events.jsonl").read_text()
    weights = (disk / "run" / "final" / "model.safetensors").read_bytes().hex()
    print(json.dumps({"said": said, "there": there, "hidden": hidden, "events": events, "weights": weights}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
