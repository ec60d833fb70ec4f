"""Malformed data: JSONL, JSON, parquet, and folders of data sets."""

from __future__ import annotations

import io
from typing import Any

import pyarrow
import pyarrow.parquet
from hypothesis import strategies as st

from tests.faults.damage import Raw, bytes_of, tree_of, written
from tests.faults.malformed import Case, Place

PLACES: tuple[Place, ...] = ("FIFO", "DIRECTORY", "LOOP", "GONE", "EMPTY")
ROWS: list[dict[str, Any]] = [
    {"prompt": "1+1=", "answer": "2", "id": "a", "level": 3},
    {"prompt": [{"role": "system", "content": "s"}, {"role": "user", "content": "1+2="}], "answer": 3, "id": "b"},
    {"prompt": "2+2=", "answer": "\\boxed{4}", "id": "c", "extra": {"x": [1, None]}},
]
PAIRS: list[dict[str, Any]] = [
    {"prompt": "1+1=", "chosen": "2", "rejected": "3"},
    {"chosen": "Say 2. It is 2", "rejected": "Say 2. It is 3"},
]
SCORED: list[dict[str, Any]] = [
    {"prompt": "1+1=", "completions": ["2", "3"], "rewards": [1.0, 0.0]},
    {"prompt": "1+3=", "completions": ["4", "5"], "rewards": [1, 0.5]},
]
ANSWER = "'answer' column"
"""What is named where no row has an answer."""
PROMPT = "and prompt 'line-"
"""What is named where a row lacks a column of the method."""
LAYOUTS: tuple[tuple[str, list[dict[str, Any]]], ...] = (("grpo", ROWS), ("dpo", PAIRS), ("a_lol", SCORED))


def train(method: str, name: str, *more: str) -> tuple[str, ...]:
    """The command that reads data and stops before it trains."""
    sets = (*more, *(("--set", "collect.prompts.baseline=group_mean") if method == "a_lol" else ()))
    quick = ("--dry-run", "--no-probe", "--model", "MODEL", "--set", "rollout.max_tokens=8")
    return ("train", method, "--data", f"DIR/{name}", *quick, *sets)


def lines(rows: list[Any]) -> bytes:
    """Rows as JSONL."""
    return "".join(written(row) + "\n" for row in rows).encode("utf-8", "surrogatepass")


def check(name: str) -> tuple[str, ...]:
    return ("data", "check", f"DIR/{name}")


def jsonl() -> st.SearchStrategy[Case]:
    """A JSONL file with damaged bytes or one damaged value."""

    def one(layout: tuple[str, list[dict[str, Any]]], stream: bool) -> st.SearchStrategy[Case]:
        method, rows = layout
        argv = train(method, "rows.jsonl", *(("--set", "streaming=true") if stream else ()))
        torn = bytes_of(lines(rows)).map(
            lambda data: Case("bytes", argv, ("rows.jsonl", ANSWER, PROMPT), {"rows.jsonl": data})
        )
        odd = tree_of(rows).map(
            lambda pair: Case(
                f"key {pair[0]}", argv, ("rows.jsonl", pair[0], ANSWER, PROMPT), {"rows.jsonl": lines(pair[1])}
            )
        )
        return st.one_of(torn, odd, odd)

    return st.tuples(st.sampled_from(LAYOUTS), st.booleans()).flatmap(lambda drawn: one(*drawn))


def json_lists() -> st.SearchStrategy[Case]:
    """A JSON file with a list of rows."""
    argv, name = train("grpo", "rows.json"), "rows.json"
    torn = bytes_of(written(ROWS).encode()).map(lambda data: Case("bytes", argv, (name, ANSWER), {name: data}))
    odd = tree_of(ROWS).map(
        lambda pair: Case(
            f"key {pair[0]}", argv, (name, pair[0], ANSWER), {name: written(pair[1]).encode("utf-8", "surrogatepass")}
        )
    )
    return st.one_of(torn, odd)


def table(columns: dict[str, Any]) -> bytes:
    """Columns as a parquet file."""
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table(columns), buffer)
    return buffer.getvalue()


def arrays() -> list[tuple[str, Any]]:
    """Columns of kinds that hold no prompts and no answers, three rows each."""
    plain: list[tuple[str, Any]] = [
        ("null", pyarrow.nulls(3)),
        ("binary", pyarrow.array([b"\xff", b"\x00", b"a"])),
        ("date", pyarrow.array([1, 2, 3], pyarrow.date32())),
        ("time", pyarrow.array([1, 2, 3], pyarrow.timestamp("ns"))),
        ("duration", pyarrow.array([1, 2, 3], pyarrow.duration("s"))),
        ("nan", pyarrow.array([float("nan")] * 3)),
        ("inf", pyarrow.array([float("inf")] * 3)),
        ("bool", pyarrow.array([True, False, None])),
        ("struct", pyarrow.array([{"a": 1}, None, {"a": None}])),
        ("list", pyarrow.array([[1], None, []])),
        ("deep", pyarrow.array([[[[None]]], [], None])),
        ("map", pyarrow.array([[("a", 1)], [], None], pyarrow.map_(pyarrow.string(), pyarrow.int64()))),
        ("nulls", pyarrow.array(["a", None, "b"])),
        ("empty", pyarrow.array(["a", "", "b"])),
        ("blank", pyarrow.array([" \n", "\t", "\u200b"])),
        ("decimal", pyarrow.array([1, 2, 3]).cast(pyarrow.decimal128(38, 2))),
        ("messages", pyarrow.array([[{"role": "user", "content": None}]] * 3)),
        ("roles", pyarrow.array([[{"role": "assistant", "content": "a"}]] * 3)),
        ("half", pyarrow.array([1.0, 2.0, 3.0], pyarrow.float16())),
        ("dictionary", pyarrow.array(["", "a", ""]).dictionary_encode()),
    ]
    return plain


def parquet() -> st.SearchStrategy[Case]:
    """A parquet file with damaged bytes, or with a column of a kind that cannot be used."""
    good = {"prompt": ["1+1=", "1+2=", "1+3="], "answer": ["2", "3", "4"], "id": ["a", "b", "c"]}
    stream = st.sampled_from(((), ("--set", "streaming=true")))

    def argv(more: tuple[str, ...]) -> tuple[str, ...]:
        return train("grpo", "rows.parquet", *more)

    torn = st.builds(
        lambda data, more: Case("bytes", argv(more), ("rows.parquet", ANSWER), {"rows.parquet": data}),
        bytes_of(table(good)),
        stream,
    )
    odd = st.builds(
        lambda name, kind, more: Case(
            f"{name} is {kind[0]}",
            argv(more),
            ("rows.parquet", ANSWER),
            {"rows.parquet": table({**good, name: kind[1]})},
        ),
        st.sampled_from(("prompt", "answer", "id", "chosen")),
        st.sampled_from(arrays()),
        stream,
    )
    return st.one_of(torn, odd)


def hand_data() -> list[Case]:
    """What hypothesis would not find: kinds of files, and whole shapes of rows."""
    found = [
        Case(f"{where} in place of {name}", argv, (name,), {name: where})
        for name in ("rows.jsonl", "rows.json", "rows.parquet")
        for where in PLACES
        for argv in (train("grpo", name), train("grpo", name, "--set", "streaming=true"), check(name))
    ]
    texts: dict[str, bytes] = {
        "a bare mark of the byte order": b"\xef\xbb\xbf",
        "white space": b" \n\t\n",
        "carriage returns alone": b'{"prompt": "a"}\r{"prompt": "b"}\r',
        "a very long line that ends early": b'{"prompt": "' + b"a" * 3_000_000,
        "the same id in other words": b'{"prompt": "a", "id": 1}\n{"prompt": "b", "id": "1"}\n',
        "a comment": b'# rows\n{"prompt": "a", "answer": "1"}\n',
        "a comma at the end": b'{"prompt": "a", "answer": "1"},\n{"prompt": "b", "answer": "2"}\n',
        "single quotes": b"{'prompt': 'a'}\n",
        "a number": b"1\n",
        "a text": b'"prompt"\n',
        "null": b"null\n",
        "a list a line": b'["a", "1"]\n',
        "a key twice": b'{"prompt": "a", "prompt": "b"}\n',
        "CSV": b"prompt,answer\na,1\n",
        "HTML": b"<!DOCTYPE html><html></html>",
        "git LFS": b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n",
        "an answer of 10,000 digits": lines([{"prompt": "a", "answer": Raw("9" * 10_000)}]),
        "an answer that is a list": lines([{"prompt": "a", "answer": ["1"]}]),
        "latin-1": '{"prompt": "\u00e9", "answer": "1"}'.encode("latin-1"),
    }
    found += [
        Case(what, train("grpo", "rows.jsonl"), ("rows.jsonl",), {"rows.jsonl": text}) for what, text in texts.items()
    ]
    return found
