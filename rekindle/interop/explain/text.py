"""An answer as text: a Python snippet for TRL, a command line for verl, and two lists."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping

from rekindle.interop.explain.answer import Answer
from rekindle.interop.explain.matrix import Row, rivals
from rekindle.interop.explain.said import Value
from rekindle.train.options import show

INDENT, COMMENT = "    ", 58
FLAGS, LACKS, DIFFERS = "flags", "no equivalent", "other numbers, even with these flags"


def text(answer: Answer) -> str:
    """The answer in three sections."""
    version = next(name for name in rivals() if name.lower().startswith(answer.rival))
    lines = [f"{answer.method} in the words of {version}", "", f"# {FLAGS}", ""]
    lines += _trl(answer) if answer.rival == "trl" else _verl(answer)
    lines += [
        "",
        *(f"# without a flag: {item.path or 'the run'}: {item.said.same}" for item in answer.items if item.said.same),
    ]
    lines += ["", f"# {LACKS}", "", *(list(_lacks(answer)) or ["nothing: the flags say all of the record"])]
    lines += ["", f"# {DIFFERS}", "", *(list(_differs(answer)) or ["nothing that is known"])]
    return "\n".join(lines)


def _trl(answer: Answer) -> Iterator[str]:
    yield "from trl import GRPOConfig, GRPOTrainer"
    yield from _imports(answer)
    yield ""
    yield "config = GRPOConfig("
    for name, value in answer.flags.items():
        yield _commented(f"{INDENT}{name}={value!r},", answer.origins[name])
    rewards = answer.said.rewards
    if len(rewards) > 1 or any(weight != 1 for _, weight in rewards):
        yield _commented(f"{INDENT}reward_weights={[weight for _, weight in rewards]},", "collect")
    yield ")"
    functions = ", ".join(name for name, _ in rewards) or "..."
    yield f"trainer = GRPOTrainer(model=..., args=config, train_dataset=..., reward_funcs=[{functions}])"


def _imports(answer: Answer) -> Iterator[str]:
    """The reward functions that are TRL's own."""
    known = ("accuracy_reward", "get_soft_overlong_punishment")
    used = sorted({name.partition("(")[0] for name, _ in answer.said.rewards} & set(known))
    if used:
        yield f"from trl.rewards import {', '.join(used)}"


def _verl(answer: Answer) -> Iterator[str]:
    yield "python3 -m verl.trainer.main_ppo \\"
    told = list(overrides(answer.flags))
    for i, one in enumerate(told):
        yield f"{INDENT}{shlex.quote(one)}" + (" \\" if i + 1 < len(told) else "")


def overrides(flags: Mapping[str, Value]) -> Iterator[str]:
    """The flags as hydra reads them."""
    for name, value in flags.items():
        shown = "[" + ",".join(map(str, value)) + "]" if isinstance(value, list) else str(value)
        quoted = isinstance(value, str) and shown[:1].isdigit()  # hydra would read a number
        yield f'{name}="{shown}"' if quoted else f"{name}={shown}"


def _commented(line: str, path: str) -> str:
    return f"{line:<{COMMENT}}  # {path or 'the run'}"


def _lacks(answer: Answer) -> Iterator[str]:
    for lack in answer.said.lacking:
        yield f"{lack.path} = {lack.what}"
        yield f"{INDENT}{lack.reason}"
        yield f"{INDENT}does it: {lack.bridge}"


def _differs(answer: Answer) -> Iterator[str]:
    rows = {row.key: row for row in answer.rows}
    fixed = [found for found in answer.said.fixed if found.matters]
    for found in fixed:
        yield f"{found.path} = {show(found.ours)}, there {show(found.theirs)}"
        yield f"{INDENT}{found.reason}" + (f" ({_size(rows[found.row])})" if found.row else "")
    used = {found.row for found in fixed}
    for row in answer.rows:
        if row.key not in used:
            yield f"{', '.join(dict.fromkeys(shown.name for shown in row.parts))}: {', '.join(row.kinds)}"
            yield f"{INDENT}{row.reason} ({_size(row)})"


def _size(row: Row) -> str:
    apart = ", ".join(f"{value:.1e} in the {name}" for name, value in row.size.items())
    return f"up to {apart}; row {row.key}"
