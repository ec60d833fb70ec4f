"""The house rules hold over the package, and the checker sees what breaks each of them."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from scripts import house


def test_the_house_is_in_order() -> None:
    report = house.inspect()
    assert report.faults == []


def module(text: str, name: str = "m.py") -> house.Module:
    return house.Module(Path(name), text, ast.parse(text))


HEAD = "from __future__ import annotations\n"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("x = eval('1')", "eval()"),
        ("raise NotImplementedError", "NotImplementedError"),
        ("try:\n    pass\nexcept:\n    pass", "bare except"),
        ("import pickle", "import of pickle"),
        ("from pickle import loads", "import of pickle"),
        ("def f(**kwargs): g(**kwargs)", "**kwargs pass-through"),
        ("def f(**options): g(1, **options)", "**kwargs pass-through"),
        ("def f():\n    global x\n    x = 1", "global state"),
        ("getattr(a, 'b', None)", "getattr with a default"),
        ("import torch\ntorch.load('x')", "torch.load"),
        ("load(trust_remote_code=True)", "trust_remote_code"),
        ("load(trust_remote_code=asked)", "trust_remote_code"),
        ("ok = name == 'grpo'", "a test on the method name 'grpo'"),
        ("ok = name in ('grpo', 'other')", "a test on the method name 'grpo'"),
        ("match name:\n    case 'grpo':\n        pass", "a test on the method name 'grpo'"),
        ("x = 1  # " + "TO" + "DO later", "unfinished"),
    ],
)
def test_what_is_forbidden_is_seen(text: str, reason: str) -> None:
    faults = list(house.forbidden(module(HEAD + text), {"grpo"}))
    assert len(faults) == 1 and reason in faults[0]


@pytest.mark.parametrize(
    "text",
    [
        "model.eval()",
        "getattr(a, 'b')",
        "load(trust_remote_code=False)",
        "def f(**columns): return {**columns}",
        "def f(self, **slots): return replace(self, **slots)",
        "def f(x, **_foreign): return x",
        "name = 'grpo'",
        "ok = name == 'elsewhere'",
        "try:\n    pass\nexcept ValueError:\n    pass",
    ],
)
def test_what_is_allowed_passes(text: str) -> None:
    assert list(house.forbidden(module(HEAD + text), {"grpo"})) == []


def test_a_missing_future_import_is_seen() -> None:
    assert "annotations" in next(house.forbidden(module('"""Doc."""\nx = 1'), set()))
    assert list(house.forbidden(module('"""Doc."""'), set())) == []


def test_depth_counts_blocks_and_not_elifs() -> None:
    nested = "    if a:\n        for b in c:\n            with d:\n                pass\n"
    text = "def f():\n" + nested + "    elif e:\n        pass\n    elif g:\n        pass\n"
    (function,) = house.functions(module(text))
    assert (function.depth, function.body) == (3, 8)


def test_a_body_starts_after_the_docstring() -> None:
    (function,) = house.functions(module('def f():\n    """One.\n\n    Two.\n    """\n    x = 1\n    return x\n'))
    assert function.body == 2


def test_sizes_beyond_the_limits_are_faults() -> None:
    long_body = "def f():\n" + "    x = 1\n" * 36
    deep = "def f():\n    if a:\n        if b:\n            if c:\n                if d:\n                    x = 1\n"
    assert "36 lines" in next(house.size_faults(module(long_body), is_method=False))
    assert "4 deep" in next(house.size_faults(module(deep), is_method=False))
    assert list(house.size_faults(module("x = 1\n" * 250), is_method=False)) == []
    assert "251 lines" in next(house.size_faults(module("x = 1\n" * 251), is_method=False))
    assert "91 lines" in next(house.size_faults(module("x = 1\n" * 91), is_method=True))


def test_public_things_need_docstrings() -> None:
    methods = "    def f(self): return 1\n    def _g(self): return 1\n    def stub(self): ...\n"
    text = '"""Doc."""\nclass A:\n' + methods + "def h(): return 1\n"
    assert [(w.split()[-1], has) for w, has in house.public(module(text))][1:] == [
        ("A", False),
        ("f", False),
        ("h", False),
    ]


def test_only_protocols_and_errors_may_be_parents() -> None:
    text = (
        "class P(Protocol): pass\nclass E(ValueError): pass\nclass F(E): pass\nclass A(P): pass\n"
        "class B(A): pass\nclass C(nn.Module): pass\n"
    )
    faults = list(house.inheritance([module(text)]))
    assert len(faults) == 1 and "B: inherits the implementation of A" in faults[0]
