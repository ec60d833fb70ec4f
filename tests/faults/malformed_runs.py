"""Malformed run folders (run.toml, events.jsonl, the history in a checkpoint), and folders of data sets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from tests.faults.damage import bytes_of, tree_of, written
from tests.faults.malformed import Case, Place
from tests.faults.malformed_data import ANSWER, train

PLACES: tuple[Place, ...] = ("FIFO", "DIRECTORY", "LOOP", "EMPTY")
FORECAST, PICK = ("forecast", "DIR/base"), ("pick-examples", "DIR/base")
SUBNET = ("subnet", "embedded", "DIR/base", "--no-rank")
RESUME = ("train", "evol_rl", "--resume", "--out", "DIR/base", "--dry-run", "--no-probe")
STATE = "checkpoints/step-000002/state/run.json"


def events(base: Path) -> st.SearchStrategy[Case]:
    """events.jsonl with damaged bytes, or one damaged value in a line that is not the last."""
    data = (base / "events.jsonl").read_bytes()
    rows = [json.loads(line) for line in data.splitlines()]

    def case(what: str, content: bytes) -> Case:
        return Case(what, FORECAST, ("events.jsonl", "'entropy'", "steps"), {"base/events.jsonl": content}, base)

    def one(pair: tuple[str, Any]) -> Case:
        lines = [written(row) for row in pair[1]]
        return case(f"key {pair[0]}", ("\n".join(lines) + "\n").encode("utf-8", "surrogatepass"))

    return st.one_of(bytes_of(data).map(lambda torn: case("bytes", torn)), tree_of(rows).map(one))


def run_toml(base: Path) -> st.SearchStrategy[Case]:
    """run.toml with damaged bytes, or another value in one of its lines."""
    data = (base / "run.toml").read_bytes()
    lines = data.decode().splitlines()
    spots = [i for i, line in enumerate(lines) if " = " in line]
    values = st.sampled_from(("0", "-1", "true", '"x"', "[]", "[1, 'a']", "nan", "1979-05-27", "{}", "", "9" * 5_000))
    commands = st.sampled_from((RESUME, SUBNET, FORECAST, RESUME))

    def case(command: tuple[str, ...], what: str, content: bytes) -> Case:
        return Case(
            what,
            command,
            ("run.toml", what, "option '", "options: ", "device '", "no such file or folder"),
            {"base/run.toml": content},
            base,
        )

    def valued(command: tuple[str, ...], spot: int, value: str) -> Case:
        name = lines[spot].partition(" = ")[0]
        text = "\n".join([*lines[:spot], f"{name} = {value}", *lines[spot + 1 :]])
        return case(command, name.strip('"'), text.encode())

    torn = st.builds(lambda command, torn: case(command, "run.toml", torn), commands, bytes_of(data))
    other = st.builds(valued, commands, st.sampled_from(spots), values)
    return st.one_of(torn, other, other)


def history(base: Path) -> st.SearchStrategy[Case]:
    """The history of prompts in a checkpoint, as `pick-examples` reads it."""
    data = (base / STATE).read_bytes()
    said = json.loads(data)["memory"]
    small = {"memory": {"history": dict(list(said["history"].items())[:3])}}

    def case(what: str, content: bytes) -> Case:
        return Case(what, PICK, ("run.json",), {f"base/{STATE}": content}, base)

    odd = tree_of(small).map(lambda pair: case(f"key {pair[0]}", written(pair[1]).encode("utf-8", "surrogatepass")))
    return st.one_of(bytes_of(written(small).encode()).map(lambda torn: case("bytes", torn)), odd, odd)


def hand_runs(base: Path) -> list[Case]:
    """Files of a run of another kind, and rollouts that cannot be read."""
    reads = (("run.toml", (RESUME, SUBNET, FORECAST)), ("events.jsonl", (FORECAST,)), (STATE, (PICK,)))
    found = [
        Case(
            f"{place} in place of {name}",
            command,
            (Path(name).name, "the record", "BASE"),
            {f"base/{name}": place},
            base,
        )
        for name, commands in reads
        for command in commands
        for place in PLACES
    ]
    rollouts = sorted(path.relative_to(base).as_posix() for path in (base / "rollouts").glob("*.parquet"))
    for content in (b"", b"PAR1", b"x" * 5_000, (base / rollouts[0]).read_bytes()[:-20]):
        files: dict[str, bytes | Place] = {f"base/{STATE}": "GONE", f"base/{rollouts[0]}": content}
        found.append(Case("rollouts", PICK, (Path(rollouts[0]).name,), files, base))
    for place in PLACES:
        found.append(
            Case(
                "rollouts",
                PICK,
                (Path(rollouts[0]).name,),
                {f"base/{STATE}": "GONE", f"base/{rollouts[0]}": place},
                base,
            )
        )
    for name in ("subnet", "forecast", "pick-examples", "eval", "export"):
        more = (
            ("embedded", "DIR/no") if name == "subnet" else ("DIR/no", "DIR/out") if name == "export" else ("DIR/no",)
        )
        found.append(Case(f"{name} of nothing", (name, *more), ("DIR/no", "no/events.jsonl"), {}))
    return found


def saved_sets(base: Path) -> st.SearchStrategy[Case]:
    """A folder that `datasets` wrote, one of whose files is damaged."""
    files = sorted(path.relative_to(base).as_posix() for path in base.rglob("*") if path.is_file())
    argv = train("grpo", "base")

    def one(name: str) -> st.SearchStrategy[Case]:
        data = (base / name).read_bytes()

        def case(what: str, content: bytes) -> Case:
            return Case(f"{name}: {what}", argv, ("base", ANSWER), {f"base/{name}": content}, base)

        torn = bytes_of(data).map(lambda damaged: case("bytes", damaged))
        if not name.endswith(".json"):
            return torn
        odd = tree_of(json.loads(data)).map(
            lambda pair: case(pair[0], written(pair[1]).encode("utf-8", "surrogatepass"))
        )
        return st.one_of(torn, odd)

    return st.sampled_from(files).flatmap(one)


def hand_folders() -> list[Case]:
    """Folders of data in which nothing, the wrong thing or a damaged file lies."""
    row = b'{"prompt": "1+1=", "answer": "2"}\n'
    named = row.replace(b"}", b', "id": 1}')
    card = b"---\nconfigs:\n- config_name: default\n  data_files: no.jsonl\n---\n"
    argv = train("grpo", "base")
    held: dict[str, dict[str, bytes | Place]] = {
        "empty": {"base": "DIRECTORY"},
        "hidden files only": {"base/.rows.jsonl": row},
        "text only": {"base/rows.txt": b"hello"},
        "a broken CSV": {"base/rows.csv": b"\xff\xfe\x00"},
        "a broken archive": {"base/rows.jsonl.gz": b"\x1f\x8b\x08no"},
        "no training split": {"base/test.jsonl": row},
        "one broken file of two": {"base/a.jsonl": row, "base/b.jsonl": b"{"},
        "an empty file": {"base/a.jsonl": b""},
        "the same id in two files": {"base/a.jsonl": named, "base/b.jsonl": named.replace(b"1+1", b"1+2")},
        "a card that is no YAML": {"base/README.md": b"---\nconfigs: [\n---\n", "base/rows.jsonl": row},
        "a card of files that are not there": {"base/README.md": card, "base/rows.jsonl": row},
        "a loop": {"base/rows.jsonl": "LOOP"},
        "a pipe": {"base/rows.jsonl": "FIFO"},
        "a broken state": {"base/state.json": b"{", "base/rows.jsonl": row},
        "a broken dictionary": {"base/dataset_dict.json": b"[]", "base/rows.jsonl": row},
        "a dictionary of nothing": {"base/dataset_dict.json": b'{"splits": ["train"]}'},
        "state alone": {"base/state.json": b"{}"},
    }  # fmt: skip
    found = [Case(what, argv, ("base",), files) for what, files in held.items()]
    found += [Case(what, ("data", "check", "DIR/base"), ("base",), files) for what, files in held.items()]
    split = ("--set", "data_split=no")
    found.append(Case("no such split", (*argv, *split), ("base",), {"base/train.jsonl": row, "base/test.jsonl": row}))
    return found
