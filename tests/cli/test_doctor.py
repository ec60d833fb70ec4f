from __future__ import annotations

import contextlib
import importlib.util
import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from rekindle.cli import doctor
from rekindle.cli.main import app
from rekindle.tokens.grading.pool import Outcome, Pool
from rekindle.tokens.sampling import vllm_found
from rekindle.tokens.sampling.vllm_found import Found

ROOT = Path(__file__).parent.parent.parent


def out(*args: str) -> str:
    result = CliRunner().invoke(app, ["doctor", *args], catch_exceptions=False)
    assert result.exit_code == 0
    return result.stdout


def hide(monkeypatch: pytest.MonkeyPatch, *hidden: str) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in hidden else real(name))


def test_the_report_says_what_is_true_here() -> None:
    found = json.loads(out("--json"))
    assert found.keys() == {"versions", "engines", "devices", "extras", "models", "barriers"}
    assert found["versions"]["torch"] == torch.__version__
    assert found["engines"]["local"]["usable"] is True
    assert found["devices"]["cpu"]["usable"] is True
    assert found["devices"]["cuda"]["usable"] == torch.cuda.is_available()
    assert found["devices"]["mps"] == {"usable": False, "what": "Apple GPUs have no float64, in which tokens are drawn"}
    assert found["extras"]["vllm"]["usable"] == (importlib.util.find_spec("vllm") is not None)


def test_what_is_missing_comes_with_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    hide(monkeypatch, "math_verify", "vllm", "wandb")
    found = doctor.report()
    said = found["extras"]["math"]
    assert said["usable"] is False and said["missing"] == ["math_verify"]
    assert said["remedy"] == "pip install 'rekindle[math]'" and "math_verify" not in said["versions"]
    assert "wandb" in found["extras"]["track"]["missing"]
    assert found["engines"]["vllm"]["usable"] is False
    lines = out().splitlines()
    assert any(
        re.search(r"extra +math +no +missing math_verify: pip install 'rekindle\[math\]'", line) for line in lines
    )
    assert any(re.search(r"engine +local +yes +torch", line) for line in lines)


def test_what_is_known_of_vllm_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm_found, "imports", lambda: Found("0.32.0", "cpu", None))
    assert re.search(r"engine +vllm +yes +vllm 0.32.0: build for cpu: --sampler vllm", out())
    monkeypatch.setattr(vllm_found, "imports", lambda: Found("0.22.0", None, "vLLM 0.22.0 is installed and ..."))
    assert doctor.report()["engines"]["vllm"] == {
        "usable": False,
        "versions": {"vllm": "0.22.0"},
        "missing": [],
        "what": None,
        "remedy": "vLLM 0.22.0 is installed and ...; a server elsewhere serves as well: --set vllm.url=http://HOST:PORT",
    }


def test_without_torch_the_report_still_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    hide(monkeypatch, "torch")
    found = doctor.report()
    assert found["devices"]["cpu"]["usable"] is False
    assert found["engines"]["local"]["missing"] == ["torch"]


def test_lines_are_stable_in_a_pipe() -> None:
    first, second = out(), out()
    assert first == second
    assert "\x1b" not in first
    assert max(map(len, first.splitlines())) <= 120


def test_every_extra_of_the_package_is_examined() -> None:
    declared: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = declared["optional-dependencies"]
    assert set(doctor.EXTRAS) == set(extras) - {"docs"}
    for extra, modules in doctor.EXTRAS.items():
        packages = {re.split(r"[\[>=<]", text)[0].replace("-", "_") for text in extras[extra]}
        assert set(modules) <= packages
    core = {re.split(r"[\[>=<]", text)[0].replace("-", "_") for text in declared["dependencies"]}
    assert set(doctor.CORE) == core


def test_the_embedded_models_are_found_with_their_size(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder = tmp_path / "assets" / "tiny"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"x" * 100)
    monkeypatch.setattr(doctor, "__file__", str(tmp_path / "cli" / "doctor.py"))
    assert doctor.models() == [{"name": "tiny", "bytes": 102}]


def test_the_barriers_are_those_that_a_program_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    found = json.loads(out("--json"))["barriers"]
    assert list(found) == ["files", "net", "pid", "user", "calls", "limits"]
    with contextlib.closing(Pool(1, deadline=60.0)) as pool:
        (here,) = pool.map("rekindle.tokens.grading.barriers:isolation", [()])
        assert {name: state["usable"] for name, state in found.items()} == {n: here.value[n] for n in found}
        assert all((state["remedy"] is None) == state["usable"] for state in found.values())
    lacking = {**dict.fromkeys(found, True), "files": False, "landlock": False}
    monkeypatch.setattr(Pool, "map", lambda self, target, calls: [Outcome(lacking, "ok")])
    lines = " ".join(out().split())
    assert (
        "barrier files no not here: programs of a model are cut off from the files of the user: allow mounts" in lines
    )
    assert "barrier net yes programs of a model are cut off from the network" in lines
    monkeypatch.setattr(
        Pool, "map", lambda self, target, calls: [Outcome({**lacking, "files": True, "landlock": True}, "ok")]
    )
    assert "the files of the user (by Landlock: their names can be seen)" in " ".join(out().split())
    monkeypatch.setattr(Pool, "map", lambda self, target, calls: [Outcome("the worker died", "died")])
    assert not any(state["usable"] for state in json.loads(out("--json"))["barriers"].values())
