"""`doctor`: which engines, devices and extras are usable here, and the command that adds what is missing."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from rekindle.cli.common import print_json, print_table
from rekindle.cli.common import version as installed

EXTRAS: Mapping[str, tuple[str, ...]] = {
    "math": ("math_verify", "jsonschema", "reasoning_gym"),
    "train": ("accelerate", "peft", "datasets"),
    "vllm": ("vllm",),
    "ray": ("ray",),
    "report": ("matplotlib",),
    "track": ("tensorboard", "trackio", "wandb"),
    "control": ("gymnasium",),
    "dev": ("pytest", "beartype", "hypothesis"),
}
"""Extra -> the modules that it brings, by their import names."""

CORE = ("torch", "transformers", "safetensors", "pydantic", "typer", "rich", "numpy", "jaxtyping", "tomli_w", "pyarrow")
ENGINES: Mapping[str, tuple[tuple[str, ...], str]] = {
    "local": (("torch", "transformers"), "rekindle"),
    "ray": (("ray",), "rekindle[ray]"),
}


def doctor(json: Annotated[bool, typer.Option("--json", help="print the report as JSON")] = False) -> None:
    """Tell what is usable on this machine and what is missing."""
    found = report()
    if json:
        print_json(found)
        return
    print(f"rekindle {found['versions']['rekindle']}, Python {found['versions']['python']}")
    print_table(("kind", "name", "usable", "what"), _rows(found))


def report() -> dict[str, Any]:
    """Versions, engines, devices, extras, embedded models, and what programs of a model are cut off from (`barriers`);
    each with `usable` and what to do where it is not."""
    return {
        "versions": {"python": platform.python_version(), "rekindle": installed()}
        | {name: version(name) for name in CORE},
        "engines": engines(),
        "devices": devices(),
        "extras": {name: _state(modules, f"rekindle[{name}]") for name, modules in EXTRAS.items()},
        "models": models(),
        "barriers": barriers(),
    }


def engines() -> dict[str, dict[str, Any]]:
    """What can sample here, and for what cannot: why, and what to do about it."""
    states = {name: _state(modules, install) for name, (modules, install) in ENGINES.items()}
    states["local"]["what"] = "in the process that trains, from the weights themselves: --sampler local"
    if states["ray"]["usable"]:
        states["ray"]["what"] = "a fleet of local samplers or vLLM engines: --sampler ray --samplers N"
    return {"local": states["local"], "vllm": vllm_engine(), "ray": states["ray"]}


def vllm_engine() -> dict[str, Any]:
    """vLLM: whether it is there, of a version that is supported, fits its neighbours and imports (seconds)."""
    if importlib.util.find_spec("torch") is None:
        return {"usable": False, "versions": {}, "missing": ["torch"], "remedy": "pip install 'rekindle'"}
    from rekindle.tokens.sampling.vllm_found import imports

    seen = imports()
    what = None if seen.device is None else f"build for {seen.device}: --sampler vllm, here or by `rekindle serve`"
    missing = [] if seen.version else ["vllm"]
    versions = {"vllm": seen.version} if seen.version else {}
    return {
        "usable": seen.problem is None,
        "versions": versions,
        "missing": missing,
        "what": what,
        "remedy": seen.problem
        and f"{seen.problem}; a server elsewhere serves as well: --set vllm.url=http://HOST:PORT",
    }


def version(package: str) -> str | None:
    """The installed version of a package, by its import name; None where it is not installed."""
    try:
        return importlib.metadata.version(package.replace("_", "-"))
    except importlib.metadata.PackageNotFoundError:
        return None


def _state(modules: tuple[str, ...], install: str) -> dict[str, Any]:
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    there = {name: version(name) for name in modules if name not in missing}
    remedy = f"pip install '{install}'" if missing else None
    return {"usable": not missing, "versions": there, "missing": missing, "remedy": remedy}


def devices() -> dict[str, dict[str, Any]]:
    """cpu, cuda and mps: usable, and in words with what."""
    if importlib.util.find_spec("torch") is None:
        return {"cpu": {"usable": False, "what": "torch is not installed: pip install rekindle"}}
    import torch

    cuda = torch.cuda.is_available()
    cards = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if cuda else []
    built = "no CUDA device is visible" if torch.version.cuda else "this build of torch has no CUDA"
    return {
        "cpu": {"usable": True, "what": f"{torch.get_num_threads()} threads of {os.cpu_count()} cores"},
        "cuda": {"usable": cuda, "what": ", ".join(cards) or built},
        "mps": {"usable": False, "what": "Apple GPUs have no float64, in which tokens are drawn"},
    }


def barriers() -> dict[str, dict[str, Any]]:
    """What programs of a model are cut off from here, as one finds that tries, in the sandbox of `--grade code`.

    "files", "net", "pid", "user", "calls", "limits" -> usable: whether it holds; what; remedy where it does not.
    """
    from rekindle.tokens.grading.barriers import BARRIERS
    from rekindle.tokens.grading.pool import Pool

    pool = Pool(1, deadline=120.0)
    try:
        (found,) = pool.map("rekindle.tokens.grading.barriers:isolation", [()])
    finally:
        pool.close()
    shut = found.value if found.status == "ok" else {}
    how = {"files": " (by Landlock: their names can be seen)"} if shut.get("landlock") else {}
    return {
        key: {
            "usable": bool(shut.get(key)),
            "what": f"programs of a model are cut off from {barrier.name}{how.get(key, '')}",
            "remedy": None if shut.get(key) else barrier.remedy,
        }
        for key, barrier in BARRIERS.items()
    }


def models() -> list[dict[str, Any]]:
    """The models inside the package: name and size in bytes."""
    assets = Path(__file__).parent.parent / "assets"
    folders = sorted(path.parent for path in assets.glob("**/config.json"))
    return [
        {
            "name": str(folder.relative_to(assets)),
            "bytes": sum(f.stat().st_size for f in folder.iterdir() if f.is_file()),
        }
        for folder in folders
    ]


def _rows(found: Mapping[str, Any]) -> list[tuple[str, str, str, str]]:
    rows = [("engine", name, *_words(state)) for name, state in found["engines"].items()]
    rows += [("device", name, "yes" if d["usable"] else "no", d["what"]) for name, d in found["devices"].items()]
    rows += [("extra", name, *_words(state)) for name, state in found["extras"].items()]
    rows += [("package", n, "yes" if v else "no", v or "not installed") for n, v in list(found["versions"].items())[2:]]
    rows += [("barrier", name, *_held(state)) for name, state in found["barriers"].items()]
    if not found["models"]:
        return [*rows, ("model", "embedded", "no", "this installation holds none")]
    return rows + [("model", m["name"], "yes", f"embedded, {m['bytes'] / 1e6:.1f} MB") for m in found["models"]]


def _held(state: Mapping[str, Any]) -> tuple[str, str]:
    return ("yes", state["what"]) if state["usable"] else ("no", f"not here: {state['what']}: {state['remedy']}")


def _words(state: Mapping[str, Any]) -> tuple[str, str]:
    if state["usable"]:
        there = ", ".join(f"{name} {number or '?'}" for name, number in state["versions"].items())
        return "yes", f"{there}: {state['what']}" if state.get("what") else there
    if "what" in state:
        return "no", state["remedy"]
    return "no", f"missing {', '.join(state['missing'])}: {state['remedy']}"
