"""`data check`: what a run would find in a data set, before one is started."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from rekindle.cli.common import print_json, print_table
from rekindle.errors import InputError

if TYPE_CHECKING:
    from rekindle.train.datareport import DataReport

app = typer.Typer(help="Look at data before training on it.", no_args_is_help=True, rich_markup_mode=None)

Spec = Annotated[str | None, typer.Argument(help="a file, a folder or a hub id", metavar="FILE|FOLDER|HUB_ID")]
TaskName = Annotated[str | None, typer.Option(help="a task instead: reduce, digit_sum, rg:chain_sum")]
Heldout = Annotated[str | None, typer.Option(help="data to evaluate on: prompts that are in both are named")]
Model = Annotated[str | None, typer.Option(help="count tokens by its tokenizer (no weights)", metavar="DIR|HUB_ID")]
MaxTokens = Annotated[int | None, typer.Option(min=1, help="longest response (default: as in training)")]
Grade = Annotated[str | None, typer.Option("--grade", help="exact, math, choice, json or code (default: the layout's)")]
LayoutName = Annotated[str, typer.Option("--layout", help="data_layout (default auto: by the columns)")]
Config = Annotated[str | None, typer.Option("--config", help="data_config")]
Split = Annotated[str, typer.Option("--split", help="data_split")]
Prompt = Annotated[str | None, typer.Option("--prompt", help="data_prompt", metavar="COLUMN")]
Answer = Annotated[str | None, typer.Option("--answer", help="data_answer", metavar="COLUMN")]
Reward = Annotated[
    list[str] | None, typer.Option(help="a reward that judges instead, repeatable", metavar="FILE.py:function[=weight]")
]
Sandbox = Annotated[str | None, typer.Option(help="as a run is told", metavar="FILE.py:function")]
Unsafe = Annotated[bool, typer.Option("--unsafe-sandbox", help="as a run is told")]
Json = Annotated[bool, typer.Option("--json", help="print {facts, warnings, refusals}")]


@app.callback()
def _root() -> None:
    """Look at data before training on it."""


@app.command("check")
def check(
    data: Spec = None,
    task: TaskName = None,
    heldout: Heldout = None,
    model: Model = None,
    max_tokens: MaxTokens = None,
    grade: Grade = None,
    sandbox: Sandbox = None,
    unsafe_sandbox: Unsafe = False,
    reward: Reward = None,
    layout: LayoutName = "auto",
    config: Config = None,
    split: Split = "train",
    prompt: Prompt = None,
    answer: Answer = None,
    json: Json = False,
) -> None:
    """Say what is in a data set, what to be warned of, and what a run would be refused for (exit code 2)."""
    from rekindle.errors import unknown
    from rekindle.tokens.grading.grader import KINDS
    from rekindle.tokens.grading.programs import Programs
    from rekindle.tokens.tasks import load_task
    from rekindle.tokens.tasks.files import Reading
    from rekindle.train.datacheck import check_data, check_task

    if (data is None) == (task is None):
        raise InputError("name one thing to check: a file, folder or hub id, or --task NAME")
    if grade is not None and grade not in KINDS:
        raise unknown("way of grading", grade, KINDS)
    if task is not None:
        said = {"--heldout": heldout, "--grade": grade, "--reward": reward, "--config": config, "--prompt": prompt}
        said |= {"--answer": answer, "--sandbox": sandbox, "--layout": None if layout == "auto" else layout}
        said |= {"--split": None if split == "train" else split}
        refuse_unused(said)
        report = check_task(task, load_task(task), model, max_tokens)
    else:
        reading = Reading(
            rewarded=bool(reward),
            by=grade,
            layout=layout,
            prompt=prompt,
            answer=answer,
            config=config,
            split=split,
        )
        programs = Programs(sandbox or "", unsafe_sandbox)
        report = check_data(str(data), heldout, reading, model, max_tokens, reward or (), programs)
    tell(report, json=json)


def refuse_unused(said: dict[str, Any]) -> None:
    """InputError naming an option that says how a file is read, and that a task has no use for."""
    name = next((option for option, value in said.items() if value is not None), None)
    if name is not None:
        raise InputError(f"{name} is for data of your own, and --task has its own: drop one of the two")


def tell(report: DataReport, *, json: bool) -> None:
    """Print the report; InputError where a run would be refused."""
    if json:
        print_json({"facts": report.facts, "warnings": report.warnings, "refusals": report.refusals})
    else:
        print_table(("", ""), [(name, shown(value)) for name, value in lines(report.facts)])
        for kind, sentences in (("warning", report.warnings), ("refused", report.refusals)):
            for sentence in sentences:
                print(f"{kind}: {sentence}")
    if report.refusals:
        named = report.facts.get("data", report.facts.get("task"))
        raise InputError(f"{named}: a run on this data would be refused: repair what the report calls refused")


def lines(facts: dict[str, Any]) -> list[tuple[str, Any]]:
    """The facts, a line each; the columns a line each."""
    found: list[tuple[str, Any]] = []
    for name, value in facts.items():
        if name == "columns":
            found += [(f"column {column}", kinds) for column, kinds in value.items()]
        else:
            found.append((name, value))
    return found


def shown(value: Any) -> str:
    """A fact as text: a share in percent, counts of a mapping side by side."""
    if isinstance(value, dict):
        return ", ".join(f"{name} {count}" for name, count in value.items()) or "-"
    if isinstance(value, float):
        return f"{100 * value:.1f} %"
    return "-" if value is None else str(value)
