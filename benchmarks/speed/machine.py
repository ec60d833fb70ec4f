"""What the numbers were measured on, and with which packages."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import subprocess
from pathlib import Path
from typing import Any

import torch

from benchmarks.speed.worker import THREADS


def describe() -> dict[str, Any]:
    """Processor, memory, threads, and what torch was built with."""
    built = torch.__config__.show()
    blas = re.search(r"BLAS_INFO=(\w+)", built)
    dnn = re.search(r"oneDNN\)? v([\w.]+)", built) or re.search(r"MKL-DNN v([\w.]+)", built)
    return {
        "processor": _first("/proc/cpuinfo", r"model name\s*:\s*(.+)") or platform.processor(),
        "instructions": _instructions(),
        "cores": os.cpu_count(),
        "memory_gb": round(int(_first("/proc/meminfo", r"MemTotal:\s*(\d+)") or 0) / 2**20),
        "threads": THREADS,
        "system": platform.system(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": importlib.metadata.version("transformers"),
        "blas": blas.group(1) if blas else "unknown",
        "onednn": dnn.group(1) if dnn else "unknown",
    }


def version_in(python: str, package: str) -> str | None:
    """The version of `package` in another environment, None where it has none."""
    code = f"import importlib.metadata as m; print(m.version({package!r}))"
    if not Path(python).is_file():
        return None
    done = subprocess.run([python, "-c", code], capture_output=True, text=True)
    return done.stdout.strip() if done.returncode == 0 else None


def _first(path: str, pattern: str) -> str | None:
    place = Path(path)
    found = re.search(pattern, place.read_text()) if place.is_file() else None
    return found.group(1).strip() if found else None


def _instructions() -> list[str]:
    flags = (_first("/proc/cpuinfo", r"flags\s*:\s*(.+)") or "").split()
    return [name for name in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if name in flags]
