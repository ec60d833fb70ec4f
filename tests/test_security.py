"""What docs/security.md says of the code: nothing is unpickled or evaluated, no remote code is trusted, no shell is
asked; and no name that comes from outside leads out of its folder."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from rekindle.cli.common import run_safely
from rekindle.cli.main import app
from rekindle.errors import InputError
from rekindle.tokens.loader import configured, load_model
from rekindle.tokens.sampling.vllm_server import Answers
from rekindle.tokens.tasks import load_task
from rekindle.train.card import code, plain, quoted
from rekindle.train.compare import slug
from scripts.house import read
from tests.tokens.engines import CopyEngine

ROOT = Path(__file__).resolve().parents[1]
PICKLES = {"pickle", "_pickle", "dill", "cloudpickle", "marshal", "shelve", "joblib", "jsonpickle"}
SHELLS = {"os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput", "torch.hub.load"}
TRUSTED = {"pool.py", "worker.py"}
"""Of the grading: the process that trains pickles the calls that it makes; its workers answer in JSON."""


def faults(text: str, name: str) -> Iterator[str]:
    """What a file does that the security page says is not done."""
    for node in ast.walk(ast.parse(text)):
        where = f"{name}:{node.lineno}" if isinstance(node, ast.expr | ast.stmt) else name
        if isinstance(node, ast.Import | ast.ImportFrom):
            from_ = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names = {part.split(".")[0] for part in from_ + [alias.name for alias in node.names]}
            yield from (f"{where}: imports {found}" for found in names & PICKLES)
            if any(alias.name == "ForkingPickler" for alias in node.names) and name not in TRUSTED:
                yield f"{where}: pickles"
        if isinstance(node, ast.Call):
            yield from (f"{where}: {what}" for what in called(node))


def called(node: ast.Call) -> Iterator[str]:
    """What is wrong with a call."""
    function = ast.unparse(node.func)
    given = {keyword.arg: keyword.value for keyword in node.keywords}
    if function in ("eval", "exec", "compile", "__import__", *SHELLS):
        yield f"calls {function}"
    if function == "torch.load" and ast.unparse(given.get("weights_only", node)) != "True":
        yield "torch.load without weights_only=True"
    if function in ("yaml.load", "yaml.unsafe_load", "yaml.full_load") and "Safe" not in ast.unparse(node):
        yield "yaml.load of anything"
    for argument, safe in (("trust_remote_code", "False"), ("shell", "False"), ("allow_pickle", "False")):
        if argument in given and ast.unparse(given[argument]) != safe:
            yield f"{argument}={ast.unparse(given[argument])}"


def test_nothing_is_unpickled_or_evaluated_and_no_remote_code_or_shell_is_trusted() -> None:
    modules = read(ROOT / "rekindle")
    found = [what for module in modules for what in faults(module.text, module.path.name)]
    assert found == [] and len(modules) > 200


@pytest.mark.parametrize(
    "text",
    [
        "import pickle",
        "from dill import loads",
        "from multiprocessing.reduction import ForkingPickler",
        "eval(x)",
        "exec(x)",
        "__import__(x)",
        "torch.load(f)",
        "torch.load(f, weights_only=False)",
        "yaml.load(f)",
        "yaml.load(f, Loader=yaml.Loader)",
        "from_pretrained(x, trust_remote_code=True)",
        "from_pretrained(x, trust_remote_code=config.trust)",
        "subprocess.run(x, shell=True)",
        "os.system(x)",
        "numpy.load(f, allow_pickle=True)",
    ],
)
def test_each_of_these_would_be_found(text: str) -> None:
    assert len(list(faults(text, "some.py"))) == 1


def test_what_is_safe_is_not_found() -> None:
    good = "model.eval()\nyaml.safe_load(f)\nyaml.load(f, Loader=yaml.SafeLoader)\ntorch.load(f, weights_only=True)\n"
    assert list(faults(good + "from_pretrained(x, trust_remote_code=False)\nre.compile(x)", "some.py")) == []


OUT = ("../../x", "/etc/x", "..", "a/../../x", "x\0y", "~/x")


@pytest.mark.parametrize("name", OUT)
def test_a_task_is_a_name_of_the_list_and_never_a_path(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError):
        load_task(name)
    assert configured("embedded", name).is_relative_to(ROOT / "rekindle" / "assets"), "one of the package's own"  # type: ignore[union-attr]
    assert run_safely(app, ["compare", "grpo", "--task", name, "--steps", "1"]) == 2
    assert run_safely(app, ["train", "grpo", "--task", name]) == 2
    assert run_safely(app, ["train", name, "--task", "reduce"]) == 2
    assert list(tmp_path.iterdir()) == [] and not (tmp_path.parent / "x").exists()


@pytest.mark.parametrize("option", ["data", "model", "out", "only", "chat_template", "teacher"])
def test_a_nul_in_a_name_is_refused_with_the_options_name(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_safely(app, ["train", "grpo", "--set", f"{option}=a\0b"]) == 2
    assert f"option '{option}' holds a NUL character: drop it" in capsys.readouterr().err


def test_the_folder_of_a_run_is_named_by_the_last_part_of_what_it_is_of() -> None:
    for method in ("/some/where/mine.py:grpo", "../../up.py:grpo", "..:grpo"):
        assert slug(method) == "grpo"


def test_a_server_takes_no_name_that_leads_out_of_its_folder(tmp_path: Path) -> None:
    inside, outside = tmp_path / "exchange", tmp_path / "x.safetensors"
    inside.mkdir()
    outside.write_bytes(b"secret")
    (inside / "link.safetensors").symlink_to(outside)
    answers = Answers(CopyEngine(load_model("embedded").model), inside)
    names = ["../x.safetensors", str(outside), "link.safetensors", "x\0.safetensors", ".", "", "a/b.safetensors"]
    for name in names:
        status, told = answers("/load", {"file": name})
        assert status == 422 and "secret" not in str(told), name
    for strange in (None, 4, ["x.safetensors"], {"a": 1}):
        assert answers("/load", {"file": strange})[0] == 422


EVIL = (
    'x"); import os; os.system("id") #\n---\nlicense: mit\n```\n<script>alert(1)</script> [a](javascript:b) ![](c) `d`'
)


def test_what_others_named_is_text_in_a_model_card() -> None:
    line = plain(EVIL)
    assert "\n" not in line and "<" not in line and not re.search(r"(?<!\\)[\[\]`!]", line)
    assert code(EVIL).count("`") == 2 and "\n" not in code(EVIL) and "<script>" in code(EVIL)
    assert "\n" not in quoted(EVIL) and ast.literal_eval(quoted(EVIL)) == EVIL
    tree = ast.parse(f"from_pretrained({quoted(EVIL)})")
    assert len(tree.body) == 1 and isinstance(tree.body[0], ast.Expr), "still one call"
