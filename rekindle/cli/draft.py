"""`draft`: make, align and measure a small model that drafts for a large one (speculative decoding)."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rekindle.cli.common import print_json, print_table, say

if TYPE_CHECKING:
    from rekindle.tokens.rollouts import Example
    from rekindle.train.draft import Heard, Phase
    from rekindle.train.draft_measure import Pair, SameLaw

LAW_PROMPTS = 4
"""Prompts whose answers are compared with and without the draft."""

app = typer.Typer(help="Small models that draft for large ones.", no_args_is_help=True, rich_markup_mode=None)

Target = Annotated[str, typer.Option(help="the model to be spared work: a run or model folder, a hub id, 'embedded'")]
Draft = Annotated[str, typer.Option(help="the small model: a run or model folder, or a hub id")]
TaskName = Annotated[str | None, typer.Option(help="a task for prompts: reduce (default), digit_sum, rg:NAME")]
Data = Annotated[str | None, typer.Option(help="a file, a data set folder or a hub id for prompts instead")]
Rows = Annotated[str, typer.Option(help="answers of the target: a file with prompt and demonstration", metavar="FILE")]
Out = Annotated[str, typer.Option(help="a new or empty folder", metavar="DIR")]
Layers = Annotated[int | None, typer.Option(min=1, help="layers of the draft (default: a quarter)")]
Width = Annotated[int | None, typer.Option(min=1, help="hidden size of the draft (default: half)")]
Prompts = Annotated[int, typer.Option(min=1, help="prompts that the target answers, evenly spread")]
Temperatures = Annotated[
    list[float] | None, typer.Option("--temperature", min=0.0, help="of the answers, repeatable (default 0 .3 .7 1)")
]
PretrainSteps = Annotated[int, typer.Option(min=0, help="steps of next-token prediction")]
KldSteps = Annotated[int, typer.Option(min=0, help="steps by KLD")]
Steps = Annotated[int, typer.Option("--tvdpp-steps", min=0, help="steps by TVD++")]
Lr = Annotated[float, typer.Option(help="learning rate")]
Batch = Annotated[int, typer.Option(min=1, help="rows a step")]
MaxTokens = Annotated[int | None, typer.Option(min=1, help="longest answer (default: the task's)")]
Longest = Annotated[int | None, typer.Option("--max-tokens", min=1, help="refuse longer answers (default: none)")]
Seed = Annotated[int, typer.Option(min=0, help="seed of weights, answers and order")]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1 or auto")]
Gamma = Annotated[int, typer.Option(min=1, help="tokens that are drafted a block")]
Samples = Annotated[int, typer.Option(min=1, help="prompts that are answered, evenly spread")]
Heat = Annotated[float, typer.Option("--temperature", min=0.01, help="of target and draft")]
Law = Annotated[
    int, typer.Option(min=0, help="also test that the draft changes no answer: answers to each of 4 prompts")
]
Json = Annotated[bool, typer.Option("--json", help="print {METRIC: number}")]


@app.callback()
def _root() -> None:
    """Small models that draft for large ones."""


@app.command("make")
def make(
    target: Target,
    out: Out,
    task: TaskName = None,
    data: Data = None,
    layers: Layers = None,
    width: Width = None,
    prompts: Prompts = 1000,
    temperature: Temperatures = None,
    pretrain_steps: PretrainSteps = 300,
    kld_steps: KldSteps = 300,
    tvdpp_steps: Steps = 200,
    lr: Lr = 1e-3,
    batch: Batch = 32,
    max_tokens: MaxTokens = None,
    seed: Seed = 0,
    device: Device = "cpu",
) -> None:
    """Build a small draft, let the target answer prompts, and train the draft on the answers: SFT, KLD, TVD++."""
    from rekindle.tokens.draft_model import build_draft, parameter_count, save_draft
    from rekindle.train import draft as drafts
    from rekindle.train.evaluate import spread
    from rekindle.train.measure import load_source, open_model, task_sampling

    source, folder = load_source(task, data), drafts.new_folder(Path(out))
    loaded = open_model(target, source, device, "float32", source.system_prompt)
    model = build_draft(loaded, layers, width, seed)
    print(f"draft: {parameter_count(model)} parameters of {parameter_count(loaded.model)} of the target")
    limit, began = task_sampling(source, max_tokens).max_tokens, time.perf_counter()
    asked = spread(source.split("train"), prompts)
    rows, left = drafts.distilled(loaded, asked, tuple(temperature or drafts.TEMPERATURES), limit, seed)
    file = folder / "answers.jsonl"
    drafts.write_rows(rows, file)
    print(f"answers: {len(rows)} kept, {left} left out, {time.perf_counter() - began:.0f} s: {file}")
    save_draft(model, loaded, folder / "start")
    setup = drafts.Setup(
        target=drafts.target_place(target, source.name),
        data=file,
        max_tokens=limit,
        seed=seed,
        device=device,
    )
    first = drafts.Phase(name="pretrained", loss=None, steps=pretrain_steps, lr=lr, batch=batch)
    phases = (first, *_phases(kld_steps, tvdpp_steps, lr, batch))
    print(f"draft: {drafts.tuned(str(folder / 'start'), phases, setup, folder, _told())}")


@app.command("align")
def align(
    target: Target,
    draft: Draft,
    data: Rows,
    out: Out,
    kld_steps: KldSteps = 300,
    tvdpp_steps: Steps = 200,
    lr: Lr = 1e-4,
    batch: Batch = 32,
    max_tokens: Longest = None,
    seed: Seed = 0,
    device: Device = "cpu",
) -> None:
    """Train a draft that there is on answers of its target: KLD, then TVD++."""
    from rekindle.train import draft as drafts
    from rekindle.train.measure import load_source

    source, folder = load_source(None, data), drafts.new_folder(Path(out))
    start = drafts.target_place(draft, source.name)
    setup = drafts.Setup(
        target=drafts.target_place(target, source.name),
        data=Path(data),
        max_tokens=max_tokens or drafts.longest(start, source.split("train")),
        seed=seed,
        device=device,
    )
    print(f"draft: {drafts.tuned(start, _phases(kld_steps, tvdpp_steps, lr, batch), setup, folder, _told())}")


@app.command("measure")
def measure(
    target: Target,
    draft: Draft,
    task: TaskName = None,
    data: Data = None,
    gamma: Gamma = 3,
    samples: Samples = 100,
    max_tokens: MaxTokens = None,
    temperature: Heat = 1.0,
    same_law: Law = 0,
    seed: Seed = 0,
    device: Device = "cpu",
    json: Json = False,
) -> None:
    """Block efficiency, acceptance and speed-up of speculative decoding with a draft."""
    from rekindle.train.draft_measure import measure as measured
    from rekindle.train.draft_measure import paired
    from rekindle.train.evaluate import spread
    from rekindle.train.measure import load_source, open_model, task_sampling
    from rekindle.train.refusals import check_prompts, evaluated_split

    source = load_source(task, data)
    ours, small = (open_model(spec, source, device, "float32", source.system_prompt) for spec in (target, draft))
    pair, block = paired(ours, small, gamma, temperature, draft), gamma + 1
    limit = max_tokens or max(block, task_sampling(source, None).max_tokens // block * block)
    examples = spread(source.split(evaluated_split(source)), samples)
    for loaded in (ours, small):
        check_prompts(loaded, examples, limit, "--max-tokens")
    asked = [ours.encode(example) for example in examples]
    found = {name: value for name, value in vars(measured(pair, asked, limit, seed)).items()}
    if same_law:
        law = _law(pair, ours, spread(examples, LAW_PROMPTS), same_law, seed)
        found |= {f"law/{name}": value for name, value in vars(law).items()}
    if json:
        print_json(found)
        return
    print_table(("metric", "value"), [(name, f"{value:.4g}") for name, value in found.items()])


def _law(pair: Pair, target: Any, examples: Sequence[Example], count: int, seed: int) -> SameLaw:
    """Whether the first block of an answer is drawn alike with the draft and by the package's own sampler."""
    from rekindle.core.random import pack_key
    from rekindle.tokens.sampling.base import Sampling
    from rekindle.tokens.sampling.local import LocalSampler
    from rekindle.train.draft_measure import drafted, same_law, undrafted

    how = Sampling(pair.temperature, max_tokens=pair.gamma + 1)
    sampler, samples = LocalSampler(pair.target, target.tokenizer, target.encode), []
    for place, example in enumerate(examples):
        plain = sampler.sample([example], count, how, pack_key(seed, place, 2), 0)
        spoken = drafted(pair, target.encode(example), count, how.max_tokens, seed + place * count)
        samples.append((spoken, undrafted(plain.ids, plain.mask)))
    return same_law(samples)


def _phases(kld_steps: int, tvdpp_steps: int, lr: float, batch: int) -> Sequence[Phase]:
    from rekindle.train.draft import Phase

    return (
        Phase(name="by_kld", loss="kld", steps=kld_steps, lr=lr, batch=batch),
        Phase(name="by_tvdpp", loss="tvd++", steps=tvdpp_steps, lr=lr, batch=batch),
    )


def _told() -> Heard:
    """Prints where a phase begins and ends; notes go to stderr."""
    last: dict[str, dict[str, Any]] = {}
    began: dict[str, float] = {}

    def heard(phase: str, record: dict[str, Any]) -> None:
        began.setdefault(phase, time.perf_counter())
        if record["kind"] == "note":
            say(f"note: {record['text']}")
        if record["kind"] == "step":
            last[phase] = record
        if record["kind"] == "end":
            shown = {name: last[phase][name] for name in ("nll", "acceptance") if name in last[phase]}
            said = ", ".join(f"{name} {value:.3f}" for name, value in shown.items())
            print(f"{phase}: {last[phase]['step']} steps, {said}, {time.perf_counter() - began[phase]:.0f} s")

    return heard
