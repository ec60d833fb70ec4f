"""Runs that train an adapter: what they leave, how they resume, what they are held to, and where they may begin."""

from __future__ import annotations

import gc
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer

from rekindle.api import evaluate, train
from rekindle.cli.common import run_safely
from rekindle.cli.main import app
from rekindle.errors import InputError
from rekindle.tokens import quantized
from rekindle.tokens.embed import PolicyStates
from rekindle.tokens.loader import DTYPES, load_model
from rekindle.tokens.lora import START, adapted_layers, at, plain_weights
from rekindle.tokens.rollouts import Example
from rekindle.train.build import make_run
from rekindle.train.checkpoint import load_checkpoint, save_model
from rekindle.train.datacheck import load_tokens
from rekindle.train.events import read_events
from rekindle.train.finals import MERGED, leave_merged
from rekindle.train.lengths import lengths
from rekindle.train.retention import checkpoints
from rekindle.train.run import Run
from rekindle.train.start import Asked, prepare
from tests.tiny_models import byte_bpe, save_chat_model, unigram

IDS = torch.tensor([[9, 17, 30, 12, 41, 22, 60]])
SMALL: dict[str, Any] = {
    "lora.rank": 4,
    "rollout.prompts": 2,
    "rollout.group": 4,
    "rollout.max_tokens": 8,
    "rollout.temperature": 1.5,
    "descent.lr": 0.02,
    "checkpoint.every": 2,
    "empty_steps": 0,
}


KL = "held"
HELD = """from rekindle.core.terms import KLToReference
from rekindle.methods import grpo


def method():
    return grpo.method().replace(terms=(KLToReference(coef=0.05),))
"""


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny chat model, four rows and a reward that no two responses share."""
    place = tmp_path_factory.mktemp("given")
    save_chat_model(place / "model", "qwen3")
    rows = [{"prompt": f"what is {n} plus one?", "answer": str(n + 1)} for n in range(4)]
    (place / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (place / "reward.py").write_text(
        "def length(completions, **columns):\n    return [len(text) / 10 for text in completions]\n"
    )
    (place / "held.py").write_text(HELD)
    return place


def asked(base: Path, **options: Any) -> dict[str, Any]:
    said = {"model": str(base / "model"), **SMALL, **options}
    return {"data": str(base / "rows.jsonl"), "reward": (f"{base / 'reward.py'}:length",), **said}


def run(base: Path, out: Path, method: str = "grpo", steps: int = 4, resume: bool = False, **options: Any) -> Path:
    said = asked(base, **options)
    given = {"model": said.pop("model"), "data": said.pop("data"), "reward": said.pop("reward")}
    heard = said.pop("heard", None)
    return train(called(base, method), steps=steps, out=out, resume=resume, options=said, heard=heard, **given)


def called(base: Path, method: str) -> str:
    return f"{base / 'held.py'}:method" if method == KL else method


def made(base: Path, method: str = "grpo", **options: Any) -> Run:
    return make_run(*prepare(Asked(called(base, method), {**asked(base, **options), "steps": 1})))


@pytest.fixture(scope="module")
def whole(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(base, tmp_path_factory.mktemp("whole") / "run")


@torch.no_grad()
def said(model: Any) -> Tensor:
    return model(input_ids=IDS).logits.log_softmax(-1)


def by_peft(folder: Path) -> Any:
    where = json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"]
    return PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(where), str(folder)).eval()


# --- what a run leaves ----------------------------------------------------------------------------------------------


def test_the_final_folder_is_an_adapter_that_peft_loads(base: Path, whole: Path) -> None:
    final = whole / "final"
    assert {path.name for path in final.iterdir()} >= {"adapter_model.safetensors", "adapter_config.json", "README.md"}
    assert not (final / "model.safetensors").exists()
    start = said(AutoModelForCausalLM.from_pretrained(base / "model"))
    trained = said(by_peft(final))
    assert (trained - start).abs().max() > 0.05, "the run has taught something"
    torch.testing.assert_close(said(load_model(str(final)).model), trained, atol=1e-5, rtol=0)
    card = (final / "README.md").read_text()
    assert "library_name: peft" in card and "PeftModel.from_pretrained" in card and "LoRA adapter of rank 4" in card
    assert AutoTokenizer.from_pretrained(final).chat_template == byte_bpe().chat_template


def test_the_base_does_not_move(base: Path) -> None:
    going = made(base)
    frozen = {n: p.detach().clone() for n, p in going.loaded.model.named_parameters() if "lora_" not in n}
    first = {n: p.detach().clone() for n, p in going.trainable()}
    assert first and all("lora_" in name for name in first)
    going.record.step(going)
    now = dict(going.loaded.model.named_parameters())
    assert all(torch.equal(value, now[name]) for name, value in frozen.items())
    assert any(not torch.equal(value, now[name]) for name, value in first.items())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "bf16"])
def test_merging_gives_the_trained_log_probs(base: Path, whole: Path, tmp_path: Path, dtype: str) -> None:
    said_so = ["export", str(whole), str(tmp_path / "merged"), "--merge"]
    assert run_safely(app, said_so if dtype == "float32" else [*said_so, "--dtype", dtype]) == 0
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    assert merged.dtype == DTYPES[dtype] and type(merged).__name__ == "Qwen3ForCausalLM"
    close = 1e-5 if dtype == "float32" else 0.2
    torch.testing.assert_close(said(merged).float(), said(by_peft(whole / "final")), atol=close, rtol=0)
    assert AutoTokenizer.from_pretrained(tmp_path / "merged").chat_template
    assert not list(tmp_path.glob(".*"))


def test_a_finished_run_leaves_a_merged_model_too(base: Path, tmp_path: Path) -> None:
    going = made(base)
    going.record.step(going)
    leave_merged(going, tmp_path)
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / MERGED)
    torch.testing.assert_close(said(merged), said(going.loaded.model), atol=1e-5, rtol=0)
    assert "library_name: transformers" in (tmp_path / MERGED / "README.md").read_text()
    leave_merged(made(base, **{"lora.merge": False}), tmp_path / "unasked")
    leave_merged(made(base, **{"lora.rank": 0}), tmp_path / "unasked")
    assert not (tmp_path / "unasked").exists()


def test_an_exported_sum_is_rounded_once(base: Path, tmp_path: Path) -> None:
    going = made(base, dtype="bfloat16")
    going.record.step(going)
    save_model(going, tmp_path / "final")
    leave_merged(going, tmp_path)
    assert run_safely(app, ["export", str(tmp_path / "final"), str(tmp_path / "out"), "--merge"]) == 0
    sums, left = (load_file(tmp_path / name / "model.safetensors") for name in ("out", MERGED))
    assert {v.dtype for v in sums.values()} == {torch.float32} and {v.dtype for v in left.values()} == {torch.bfloat16}
    trained = by_peft(tmp_path / "final")
    torch.testing.assert_close(
        said(AutoModelForCausalLM.from_pretrained(tmp_path / "out")), said(trained), atol=1e-5, rtol=0
    )


def test_export_copies_what_is_needed_and_refuses_the_rest(
    base: Path, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = checkpoints(whole / "checkpoints")[-1]
    assert run_safely(app, ["export", str(place), str(tmp_path / "out")]) == 0
    assert (tmp_path / "out" / "adapter_model.safetensors").is_file() and not (tmp_path / "out" / "state").exists()
    assert run_safely(app, ["export", str(base / "model"), str(tmp_path / "plain")]) == 0
    torch.testing.assert_close(
        said(AutoModelForCausalLM.from_pretrained(tmp_path / "plain")),
        said(AutoModelForCausalLM.from_pretrained(base / "model")),
    )
    refused = {
        (str(whole), str(tmp_path / "out")): "is there and not empty: give a new one",
        (str(base / "model"), str(tmp_path / "x"), "--merge"): "there is nothing to merge: leave --merge out",
        (str(whole), str(tmp_path / "x"), "--dtype", "bfloat16"): "add --merge",
        (str(whole), str(tmp_path / "x"), "--merge", "--dtype", "bf61"): "unknown dtype 'bf61': did you mean 'bf16'",
        (str(tmp_path / "nowhere"), str(tmp_path / "x")): "is no folder here: name a run",
        (str(base), str(tmp_path / "x")): "is no model: neither config.json nor adapter_config.json",
    }
    capsys.readouterr()
    for words, told in refused.items():
        assert run_safely(app, ["export", *words]) == 2
        assert told in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


def test_a_run_folder_and_an_adapter_folder_are_measured(base: Path, whole: Path) -> None:
    how = {"data": base / "rows.jsonl", "samples": 4, "max_tokens": 6, "seed": 3}
    assert evaluate(whole, **how) == evaluate(whole / "final", **how)
    assert evaluate(whole, **how).mean["entropy"] != evaluate(base / "model", **how).mean["entropy"]


# --- resuming -------------------------------------------------------------------------------------------------------


class Interrupted(Exception):
    """Stands for whatever ends a process."""


def stop_at_three(record: dict) -> None:
    if record["kind"] == "step" and record["step"] == 3:
        raise Interrupted


def adapter(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "final" / "adapter_model.safetensors")


def test_an_interrupted_run_resumes_bit_for_bit(base: Path, whole: Path, tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        run(base, tmp_path / "run", heard=stop_at_three)
    assert [place.name for place in checkpoints(tmp_path / "run" / "checkpoints")] == ["step-000002"]
    resumed = adapter(run(base, tmp_path / "run", resume=True))
    assert resumed.keys() == adapter(whole).keys()
    assert all(torch.equal(value, resumed[name]) for name, value in adapter(whole).items())
    again = {name: value for name, value in adapter(run(base, tmp_path / "seeded", seed=1)).items()}
    assert any(not torch.equal(value, again[name]) for name, value in resumed.items()), "another seed, another adapter"


def test_a_checkpoint_holds_the_adapter_and_its_moments_and_no_base(whole: Path) -> None:
    place = checkpoints(whole / "checkpoints")[-1]
    adapters = load_file(place / "adapter_model.safetensors")
    numbers = sum(v.numel() for file in place.rglob("*.safetensors") for v in load_file(file).values())
    assert numbers == 3 * sum(v.numel() for v in adapters.values()) + len(adapters), "and a count of updates each"


# --- what the run began with ----------------------------------------------------------------------------------------


def held(run: Run) -> int:
    """Bytes of all weights that this process holds, those of `run` among them."""
    gc.collect()
    found = [thing for thing in gc.get_objects() if type(thing) is nn.Parameter]
    assert len(found) >= len(run.trainable())
    return sum({p.data_ptr(): p.numel() * p.element_size() for p in found}.values())


def test_the_reference_costs_no_second_model(base: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(base / "model")
    size = sum(p.numel() * p.element_size() for p in model.parameters())
    del model
    gc.collect()
    empty = sum({p.data_ptr(): p.nbytes for p in gc.get_objects() if type(p) is nn.Parameter}.values())
    sizes = {}
    for rank in (0, 4):
        going = made(base, KL, **{"lora.rank": rank})
        assert "reference" in going.references
        sizes[rank] = held(going) - empty
        adapters = sum(p.numel() * p.element_size() for n, p in going.trainable() if "lora_" in n)
        del going
    assert sizes[0] >= 2 * size, "a run of all weights holds a frozen copy"
    assert sizes[4] <= size + adapters


def test_the_reference_is_the_start_all_through(base: Path) -> None:
    going = made(base, KL)
    before = said(AutoModelForCausalLM.from_pretrained(base / "model"))
    going.record.step(going)
    with at(going.references["reference"]) as model:
        torch.testing.assert_close(said(model), before, atol=1e-5, rtol=0)
    assert (said(going.loaded.model) - before).abs().max() > 1e-3


def test_a_run_goes_on_from_an_adapter(base: Path, whole: Path, tmp_path: Path) -> None:
    final = whole / "final"
    going = made(base, KL, model=str(final), **{"lora.rank": 0})
    start = said(by_peft(final))
    torch.testing.assert_close(said(going.loaded.model), start, atol=1e-5, rtol=0)
    assert len(adapted_layers(going.loaded.model)) == 14 and {f".{START}." in n for n, _ in going.trainable()} == {
        False
    }
    going.record.step(going)
    with at(going.references["reference"]) as model:
        torch.testing.assert_close(said(model), start, atol=1e-5, rtol=0, msg="its reference is the start adapter")
    assert (said(going.loaded.model) - start).abs().max() > 1e-3
    own = run(base, tmp_path / "run", KL, model=str(final), **{"lora.rank": 4})
    place = checkpoints(own / "checkpoints")[-1]
    kept = load_file(place / "state" / "start.safetensors")
    assert all(torch.equal(value, adapter(whole)[name]) for name, value in kept.items()) and kept
    assert any(not torch.equal(value, adapter(whole)[name]) for name, value in adapter(own).items())
    load_checkpoint(resumable := made(base, KL, model=str(final)), place)
    torch.testing.assert_close(said(resumable.loaded.model), said(by_peft(own / "final")), atol=1e-5, rtol=0)


def test_a_run_goes_on_from_an_adapter_over_a_narrower_base(
    base: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start: dict[str, Any] = {"model": str(whole / "final"), "lora.rank": 0}
    going = made(base, dtype="bfloat16", **start)
    first = {name: p.detach().clone() for name, p in going.trainable()}
    assert first and {p.dtype for p in first.values()} == {torch.float32}
    assert {p.dtype for n, p in going.loaded.model.named_parameters() if "lora_" not in n} == {torch.bfloat16}
    going.record.step(going)
    assert any(not torch.equal(p, first[name]) for name, p in going.trainable())
    monkeypatch.setattr(quantized, "installed", lambda: True)
    with pytest.raises(InputError, match=r"^lora.quantize=8bit computes on a CUDA device, and the device is 'cpu'"):
        made(base, **{"lora.quantize": "8bit"}, **start)


def counted(base: Path, **options: Any) -> tuple[list[int], list[int]]:
    """Tokens of the longest and the average prompt: of the plan, and of the run."""
    resolved, task = prepare(Asked("grpo", {**asked(base, **options), "steps": 1}))
    found, going = lengths(resolved, task), made(base, **options)
    own = [len(going.loaded.encode(example)) for example in going.examples]
    assert found.known and found.looked_at == len(own)
    return [found.longest, round(found.mean * len(own))], [max(own), sum(own)]


def test_a_plan_counts_prompts_as_the_run_does(base: Path, whole: Path, tmp_path: Path) -> None:
    long = tmp_path / "long.jinja"
    long.write_text("{{ 'be brief. ' * 2 }}{{ messages[-1]['content'] }}")
    shipped = tmp_path / "adapter"
    shutil.copytree(whole / "final", shipped)
    byte_bpe(long.read_text()).save_pretrained(shipped)
    start: dict[str, Any] = {"model": str(shipped), "lora.rank": 0}
    plain = counted(base)
    found, example = load_tokens(str(shipped), None, None), Example("a", "what is one?")
    assert (
        found.encode(example)
        == load_model(str(shipped)).encode(example)
        != load_tokens(str(base / "model"), None, None).encode(example)
    ), "also where data is looked at"
    for options in ({"chat_template": str(long)}, start, {"system_prompt": "be brief."}):
        planned, own = counted(base, **options)
        assert planned == own != plain[1], options
    assert plain[0] == plain[1]
    with pytest.raises(InputError, match="cannot be read"):
        lengths(*prepare(Asked("grpo", asked(base, chat_template=str(tmp_path / "none.jinja")))))
    with pytest.raises(InputError, match="does not know enable_thinking"):
        lengths(*prepare(Asked("grpo", asked(base, chat_template=str(long), thinking=True))))


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"lora.rank": 8}, r"has lora.rank=4, and the run asks for 8: leave it out, or start from the merged model"),
        ({"lora.rank": 4, "lora.alpha": 3.0}, "has lora.alpha=8, and the run asks for 3.0"),
        ({"lora.rank": 4, "lora.targets": ("q_proj",)}, "has its own targets: leave lora.targets out"),
    ],
)
def test_an_adapter_keeps_its_shape(base: Path, whole: Path, options: dict[str, Any], told: str) -> None:
    with pytest.raises(InputError, match=told):
        made(base, model=str(whole / "final"), **options)


def test_novelty_compares_states_of_the_start(base: Path) -> None:
    going = made(base, "evol_rl", reward=(), embed="policy")
    assert isinstance(going.embed, PolicyStates)
    before = going.embed(["one plus one", "two"])
    going.record.step(going)
    torch.testing.assert_close(going.embed(["one plus one", "two"]), before, atol=1e-6, rtol=0)


# --- in other company -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["llama", "gemma3_text", "mistral", "qwen3_5_text"])
def test_a_step_of_each_architecture_from_the_folder_to_the_merged_model(kind: str, base: Path, tmp_path: Path) -> None:
    save_chat_model(tmp_path / "model", kind, byte_bpe if kind in ("llama", "qwen3_5_text") else unigram)
    there = run(base, tmp_path / "run", steps=1, model=str(tmp_path / "model"), system_prompt="be brief.")
    assert [r["grad_norm"] > 0 for r in read_events(there / "events.jsonl") if r["kind"] == "step"] == [True]
    assert run_safely(app, ["export", str(there), str(tmp_path / "merged"), "--merge"]) == 0
    merged = load_model(str(tmp_path / "merged")).model
    torch.testing.assert_close(said(merged), said(by_peft(there / "final")), atol=1e-4, rtol=0)
    assert not torch.equal(said(merged), said(load_model(str(tmp_path / "model")).model))


@pytest.mark.parametrize(
    "options",
    [
        {"precision": "bf16"},
        {"checkpointing": True},
        {"dtype": "bfloat16"},
        {"checkpointing": True, "precision": "bf16"},
    ],
)
def test_number_formats_and_recomputed_layers(base: Path, options: dict[str, Any]) -> None:
    going = made(base, KL, **options)
    first = {name: p.detach().clone() for name, p in going.trainable()}
    assert {p.dtype for p in first.values()} == {torch.float32}
    going.record.step(going)
    assert any(not torch.equal(p, first[name]) for name, p in going.trainable())


def test_a_value_head_trains_beside_the_adapter(base: Path, tmp_path: Path) -> None:
    for dtype in ("float32", "bfloat16"):
        going = made(base, "ppo_clip", dtype=dtype)
        first = {name: p.detach().clone() for name, p in going.trainable()}
        assert {name.partition(".")[0] for name in first} == {"base_model", "heads"}
        going.record.step(going)
        moved = {name.partition(".")[0] for name, p in going.trainable() if not torch.equal(p, first[name])}
        assert moved == {"base_model", "heads"}
    there = run(base, tmp_path / "run", "ppo_clip", steps=2)
    assert (checkpoints(there / "checkpoints")[-1] / "state" / "heads.safetensors").is_file()


def test_what_cannot_train_is_refused(base: Path) -> None:
    with pytest.raises(InputError, match="nothing would train: add --lora RANK"):
        made(base, **{"lora.rank": 0, "lora.quantize": "4bit"})
    with pytest.raises(InputError, match="weights in bfloat16 lose every update"):
        made(base, **{"lora.rank": 0, "dtype": "bfloat16"})


def test_plain_weights_of_a_run_are_what_it_samples_from(base: Path) -> None:
    going = made(base)
    going.record.step(going)
    plain = AutoModelForCausalLM.from_pretrained(base / "model")
    plain.load_state_dict(plain_weights(going.loaded.model))
    torch.testing.assert_close(said(plain), said(going.loaded.model), atol=1e-5, rtol=0)


def test_a_system_prompt_that_nobody_would_hear_is_refused(base: Path, tmp_path: Path) -> None:
    save_chat_model(tmp_path, "qwen3", lambda: byte_bpe(None))
    plain: dict[str, Any] = {"model": str(tmp_path)}
    told = "the system_prompt goes to a chat template, and none is used: write it into the prompts, give chat_template"
    with pytest.raises(InputError, match=told):
        made(base, system_prompt="be brief.", **plain)
    with pytest.raises(InputError, match=told):
        lengths(*prepare(Asked("grpo", asked(base, system_prompt="be brief.", **plain))))
    for quiet in ("task", "none", ""):
        assert not made(base, system_prompt=quiet, **plain).loaded.encode.chat, "the task's own is for chat models"
    mine = tmp_path / "mine.jinja"
    mine.write_text("{% for m in messages %}{{ m['content'] }}{% endfor %}")
    going = made(base, system_prompt="be brief.", chat_template=str(mine), **plain)
    assert going.tokenizer.decode(going.loaded.encode(going.examples[0])).startswith("be brief.what is")


def test_templates_and_thinking_reach_the_prompts_of_a_run(base: Path, tmp_path: Path) -> None:
    template = tmp_path / "mine.jinja"
    template.write_text("{{ messages[-1]['content'] }}{% if not enable_thinking %}</think>{% endif %}")
    going = made(base, chat_template=str(template), thinking=False)
    text = going.tokenizer.decode(going.loaded.encode(going.examples[0]))
    assert text.endswith("plus one?</think>")
