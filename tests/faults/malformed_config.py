"""Malformed configuration: run.toml, --set, flags, files of methods, rewards, templates and ids."""

from __future__ import annotations

import string

from hypothesis import strategies as st

from rekindle.methods import grpo
from rekindle.train import options
from rekindle.train.settings import RunConfig
from tests.faults.damage import DEEP, bytes_of
from tests.faults.malformed import Case, Place

QUICK = ("--dry-run", "--no-probe")
PLAN = ("train", "grpo", "--task", "digit_sum", *QUICK)
PLACES: tuple[Place, ...] = ("FIFO", "DIRECTORY", "LOOP", "EMPTY")
PATHS = tuple(
    path for path in {**RunConfig(method="grpo").flat(), **options.flatten(grpo.method())} if path != "method"
)
VALUES = (
    *(
        "",
        "-1",
        "0",
        "nan",
        "inf",
        "-inf",
        "1e400",
        "-0.0",
        "0x10",
        "1_0",
        "true",
        "none",
        "null",
        "[]",
        "[1,'a']",
        "{}",
    ),
    *("'", '"', "\\", "9" * 5_000, "[" * DEEP, "{a=" * DEEP, "1979-05-27", "\x00", "\ud800", "e\u0301", "../x", "a b"),
    *("embedded", "'none'", "[[]]", "[nan]", "1.5", "=", "# x", "1 # x", "$(id)", "%s", "x" * 3_000, "\n[run]\nx=1"),
)
TOML = """steps = 3
seed = 1
task = "digit_sum"
stop = "x"

[rollout]
prompts = 2
group = 4
temperature = 1.0
stop = ["a", "b"]

[descent]
lr = 1e-4
epochs = 1

[grading]
by = "exact"
""".replace('stop = "x"\n', "")
PIECES = (
    *("-1", "0", "nan", "inf", "true", '"x"', "[]", "[1, 'a']", "{}", "1979-05-27", "9" * 5_000, "1e400", '"\\ud800"'),
    *("[" * DEEP + "]" * DEEP, "{a = " * DEEP + "1" + "}" * DEEP, "", "'''", '"', "00", "1__0", "0x", "x = 1"),
)


def sets() -> st.SearchStrategy[Case]:
    """`--set` of a known or an odd path and an odd value."""
    odd = st.text(string.ascii_letters + "._=[]{} \n\u00e9\u2028", min_size=0, max_size=12)
    path = st.one_of(st.sampled_from(PATHS), st.sampled_from(PATHS), odd)
    value = st.one_of(st.sampled_from(VALUES), st.text(max_size=8))

    def case(path: str, value: str) -> Case:
        said = path.partition("=")[0]
        words = [word.strip() for word in (said, said.rpartition(".")[2], value[:20]) if word.strip()]
        return Case(f"{path!r}={value[:40]!r}", (*PLAN, "--set", f"{path}={value}"), (*words, "--set"))

    return st.builds(case, path, value)


def flags() -> st.SearchStrategy[Case]:
    """A flag with a value that it does not take, or without one."""
    names = (
        "--steps",
        "--prompts",
        "--group",
        "--seed",
        "--lora",
        "--ranks",
        "--shard",
        "--grade",
        "--device",
        "--dtype",
    )
    names += ("--task", "--data", "--model", "--sampler", "--config", "--reward", "--teacher", "--one-shot")
    names += ("--heldout", "--assume-gpus", "--no-such", "--samplers", "--staleness")
    value = st.one_of(st.sampled_from([v for v in VALUES if "\x00" not in v]), st.text(max_size=8))
    base = ("train", "grpo", *QUICK)

    def case(name: str, value: str) -> Case:
        words = (name, name.strip("-"), name.strip("-").replace("-", "_"), value[:20].strip() or name)
        words += ("grading.by",) if name == "--grade" else ()
        return Case(f"{name} {value[:40]!r}", (*base, name, value), words)

    return st.builds(case, st.sampled_from(names), value)


def toml() -> st.SearchStrategy[Case]:
    """A run.toml with damaged bytes, or with another value or name in one line."""
    argv = ("train", "grpo", *QUICK, "--config", "DIR/run.toml")
    lines = TOML.splitlines()
    spots = [i for i, line in enumerate(lines) if "=" in line]

    def valued(spot: int, piece: str) -> Case:
        name = lines[spot].partition(" =")[0]
        text = "\n".join([*lines[:spot], f"{name} = {piece}", *lines[spot + 1 :]])
        return Case(f"{name} = {piece[:40]}", argv, ("run.toml", name), {"run.toml": text.encode()})

    def named(spot: int, name: str) -> Case:
        value = lines[spot].partition("= ")[2]
        text = "\n".join([*lines[:spot], f"{name} = {value}", *lines[spot + 1 :]])
        return Case(f"{name} = ...", argv, ("run.toml", name.strip("'\""), "option '"), {"run.toml": text.encode()})

    torn = bytes_of(TOML.encode()).map(lambda data: Case("bytes", argv, ("run.toml", "option '"), {"run.toml": data}))
    names = st.sampled_from(("stepz", "rollout.x", "'a b'", '"\\u0000"', "descent", "run", "rollout", "''", "a.b.c.d"))
    spot = st.sampled_from(spots)
    return st.one_of(torn, st.builds(valued, spot, st.sampled_from(PIECES)), st.builds(named, spot, names))


def code(name: str, flag: tuple[str, ...], texts: dict[str, str]) -> list[Case]:
    """Files of Python that cannot serve where `flag` names them."""
    return [Case(f"{name}: {what}", flag, ("own.py",), {"own.py": text.encode()}) for what, text in texts.items()]


BROKEN = {
    "empty": "",
    "a syntax error": "def method(:\n",
    "raises while it runs": "raise ValueError('no')\n",
    "divides by zero": "x = 1 / 0\n",
    "exits": "import sys; sys.exit(3)\n",
    "imports what is not there": "import no_such_module\n",
    "no such function": "def other(): return 1\n",
    "a number": "method = 3\n",
    "returns nothing": "def method(): return None\n",
    "raises when called": "def method(*a, **k): raise KeyError('x')\n",
    "needs arguments": "def method(a, b, c): return 1\n",
    "recursion": "def method(*a, **k): return method()\n",
    "a NUL": "x = '\x00'\n",
    "tabs and blanks": "def method():\n\tif 1:\n        return 1\n",
    "returns a text": "def method(): return 'grpo'\n",
    "a class": "class method:\n    def __init__(self, x): pass\n",
    "deep": "x = " + "(" * 5_000 + ")" * 5_000 + "\n",
    "a bad annotation": "def method(x: nothing): return 1\n",
    "no text": "\ufeff\ufeffdef method(): pass\n",
}


def hand_config() -> list[Case]:
    """Files of another kind, files of Python that cannot serve, templates and lists of ids."""
    method = ("train", "DIR/own.py:method", "--task", "digit_sum", *QUICK)
    reward = ("train", "grpo", *QUICK, "--reward", "DIR/own.py:method", "--data", "DIR/rows.jsonl")
    found = code(
        "method", method, {k: v for k, v in BROKEN.items() if k != "needs arguments"} | {"needs": "def method(a): 0"}
    )
    rows = b'{"prompt": "1+1=", "answer": "2"}\n'
    never = (
        "returns nothing",
        "raises when called",
        "needs arguments",
        "recursion",
        "returns a text",
        "a bad annotation",
    )
    bad = {what: text for what, text in BROKEN.items() if what not in never}
    found += [
        Case(case.what, case.argv, case.names, {**case.files, "rows.jsonl": rows})
        for case in code("reward", reward, bad)
    ]
    config = ("train", "grpo", *QUICK, "--config", "DIR/run.toml")
    only = (*PLAN, "--set", "only=DIR/ids.txt")
    template = (*PLAN, "--model", "MODEL", "--set", "chat_template=DIR/t.jinja")
    for place in PLACES:
        found.append(Case(f"{place} as run.toml", config, ("run.toml",), {"run.toml": place}))
        found.append(Case(f"{place} as a method", method, ("own.py",), {"own.py": place}))
        found.append(Case(f"{place} as ids", only, ("ids.txt",), {"ids.txt": place}))
        found.append(Case(f"{place} as a template", template, ("t.jinja",), {"t.jinja": place}))
    found += [
        Case(f"ids {data!r}", only, ("ids.txt",), {"ids.txt": data})
        for data in (b"\xff", b"no-such", b"a\na\n", b"\x00", "a".encode("utf-16"), b"x" * 100_000)
    ]
    found += [
        Case(f"template {text!r}", template, ("t.jinja", "template"), {"t.jinja": text})
        for text in (b"{% for %}", b"{{ x", b"\xff", b"{% include 'x' %}", b"{{ 1/0 }}", b"{{ messages.x.y }}", b" ")
    ]
    words = {
        "trian": "trian",
        "train": "'method'",
        "train no_such": "no_such",
        "train grpo+grpo": "grpo",
        "eval": "'model'",
    }
    words |= {
        "train grpo+no": "'no'",
        "train +": "''",
        "train :": "':'",
        "train .py:": ".py:",
        "draft make": "--target",
    }
    found += [Case(said, tuple(said.split()), (name,)) for said, name in words.items()]
    return found
