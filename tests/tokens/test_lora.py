"""Adapters: how they begin, what they say, what is left when they are off, merged or saved, and which are refused."""

from __future__ import annotations

import json
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from rekindle.core.types import LOGP_REF
from rekindle.errors import InputError
from rekindle.tokens import adapters
from rekindle.tokens.embed import PolicyStates
from rekindle.tokens.heads import refuse_dropout, split
from rekindle.tokens.loader import load_model
from rekindle.tokens.lora import (
    START,
    StartWeights,
    adapt,
    adapted_layers,
    adapter_state,
    at,
    keep_start,
    load_adapter_state,
    plain_weights,
    save_adapter,
    save_merged,
)
from rekindle.tokens.packed import checkpoint_layers
from rekindle.tokens.policy import LMPolicy
from rekindle.tokens.sampling import laid_out as layout
from tests.tiny_models import build, byte_bpe, save_chat_model, tokenizer
from tests.tokens.test_models import speak
from tests.tokens.test_policy import make

IDS = torch.tensor([[3, 7, 11, 5, 9, 4]])
LINEAR = ("all-linear",)


def adapted(name: str = "llama", rank: int = 3, seed: int = 0, speaks: bool = True, **more: Any) -> Any:
    model = adapt(build(name, **more), rank, None, LINEAR, seed)
    if speaks:
        speak(model)
    return model


@torch.no_grad()
def said(model: nn.Module) -> Tensor:
    return model(input_ids=IDS).logits.float()


# --- the start ------------------------------------------------------------------------------------------------------


def test_the_first_weights_depend_on_the_seed_alone_and_say_nothing() -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    first = adapter_state(adapted(speaks=False))
    assert torch.equal(torch.get_rng_state(), before), "the global random state is left as it was"
    torch.manual_seed(99)
    again, other = adapter_state(adapted(speaks=False)), adapter_state(adapted(seed=1, speaks=False))
    assert all(torch.equal(value, again[name]) for name, value in first.items())
    some = next(name for name in first if "lora_A" in name)
    assert first[some].abs().max() > 0 and not torch.equal(first[some], other[some])
    assert torch.equal(said(adapted(speaks=False)), said(build("llama")))
    assert not torch.equal(said(adapted()), said(build("llama"))), "an adapter that speaks is heard"


def test_rank_alpha_and_targets() -> None:
    whole = adapt(build("llama"), 3, None, LINEAR, 0)
    assert len(adapted_layers(whole)) == 14 and split(whole).plain_weight is not None, "the head is left out"
    some = adapt(build("llama"), 3, 9.0, ("q_proj", "v_proj"), 0)
    assert {path.rpartition(".")[2] for path in adapted_layers(some)} == {"q_proj", "v_proj"}
    layer = adapted_layers(some)["model.layers.0.self_attn.q_proj"]
    assert layer.scaling["default"] == 9 / 3 and layer.r["default"] == 3
    assert adapted_layers(whole)["model.layers.0.self_attn.q_proj"].scaling["default"] == 2
    trained = {name for name, parameter in whole.named_parameters() if parameter.requires_grad}
    assert len(trained) == 28 and all("lora_" in name for name in trained)


def test_targets_that_cannot_be_adapted() -> None:
    with pytest.raises(InputError, match=r"lora.targets do not fit the model .*choose among down_proj, gate_proj"):
        adapt(build("llama"), 3, None, ("query",), 0)
    with pytest.raises(InputError, match=r"lora.targets names 'lm_head', which shares its weights"):
        adapt(build("qwen3"), 3, None, ("q_proj", "lm_head"), 0)
    for more in ("lm_head", "q_proj"):
        with pytest.raises(
            InputError, match=f"every linear layer but the head, and {more}: set it to all-linear alone"
        ):
            adapt(build("llama"), 3, None, (more, "all-linear"), 0)
    assert "lm_head" in adapted_layers(adapt(build("llama"), 3, None, ("lm_head",), 0)), "an untied head may"


def test_adapters_are_float32_over_a_narrower_base() -> None:
    model = adapted(dtype=torch.bfloat16)
    assert {p.dtype for n, p in model.named_parameters() if "lora_" in n} == {torch.float32}
    assert {p.dtype for n, p in model.named_parameters() if "lora_" not in n} == {torch.bfloat16}
    now = LMPolicy(model)(make())
    now.logp.sum().backward()
    grads = [p.grad for p in model.parameters() if p.grad is not None]
    assert len(grads) == 28 and all(torch.isfinite(grad).all() for grad in grads)


def test_without_peft_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(InputError, match=r"pip install 'rekindle\[train\]'"):
        adapt(build("llama"), 3, None, LINEAR, 0)


# --- plain weights --------------------------------------------------------------------------------------------------


def test_plain_weights_of_a_model_without_adapter_are_its_own() -> None:
    model = build("qwen3")
    weights = plain_weights(model)
    assert weights.keys() == model.state_dict().keys()
    assert all(value.data_ptr() == model.state_dict()[name].data_ptr() for name, value in weights.items())


def test_merged_weights_are_the_sum_and_the_model_stays_as_it_is() -> None:
    model, plain = adapted(), build("llama")
    before, spoken = {n: v.clone() for n, v in model.state_dict().items()}, said(model)
    weights = plain_weights(model)
    assert weights.keys() == plain.state_dict().keys()
    path = "model.layers.1.mlp.down_proj"
    down, up = (before[f"base_model.model.{path}.lora_{end}.default.weight"] for end in "AB")
    by_hand = plain.state_dict()[f"{path}.weight"] + 2.0 * up @ down
    torch.testing.assert_close(weights[f"{path}.weight"], by_hand, atol=1e-6, rtol=0)
    assert torch.equal(weights["lm_head.weight"], plain.state_dict()["lm_head.weight"])
    assert not any(value.requires_grad for value in weights.values())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    plain.load_state_dict(weights)
    torch.testing.assert_close(said(plain), spoken, atol=1e-4, rtol=0)
    assert (spoken - said(build("llama"))).abs().max() > 0.1


@pytest.mark.parametrize("name", ["gpt2", "qwen3", "gemma2", "gpt_neox"])
def test_a_merged_folder_says_the_same(name: str, tmp_path: Path) -> None:
    model = adapted(name)
    save_merged(model, tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    torch.testing.assert_close(said(loaded), said(model), atol=1e-4, rtol=0)
    assert not any("lora" in key or "base_layer" in key for key in load_file(tmp_path / "model.safetensors"))
    assert loaded.generation_config.eos_token_id == model.generation_config.eos_token_id


def test_a_merged_folder_in_another_number_format(tmp_path: Path) -> None:
    model = adapted("qwen3")
    save_merged(model, tmp_path, torch.bfloat16)
    sums = plain_weights(model)
    saved = load_file(tmp_path / "model.safetensors")
    assert saved and all(torch.equal(value, sums[name].bfloat16()) for name, value in saved.items())
    assert json.loads((tmp_path / "config.json").read_text())["dtype"] == "bfloat16"


# --- what the run began with ----------------------------------------------------------------------------------------


def test_inside_the_start_weights_the_adapter_is_off() -> None:
    model, base = adapted(), said(build("llama"))
    spoken = said(model)
    with at(StartWeights(model)) as inside:
        assert inside is model and torch.equal(said(model), base)
    assert torch.equal(said(model), spoken)
    assert {n for n, p in model.named_parameters() if p.requires_grad} == {n for n in names(model) if "lora_" in n}
    with pytest.raises(KeyError), at(StartWeights(model)):
        raise KeyError
    assert torch.equal(said(model), spoken), "also where something goes wrong inside"
    with at(model) as plain:
        assert plain is model and torch.equal(said(plain), spoken)


def test_a_run_that_began_with_an_adapter_keeps_that() -> None:
    model = adapted()
    start = said(model)
    kept = keep_start(model)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".default." in name:
                parameter.mul_(1.5)
    trained = said(model)
    assert (trained - start).abs().max() > 0.1
    with at(kept):
        assert torch.equal(said(model), start)
    assert torch.equal(said(model), trained)
    assert {n for n, p in model.named_parameters() if p.requires_grad} == {n for n in names(model) if ".default." in n}
    merged = plain_weights(model)
    fresh = build("llama")
    fresh.load_state_dict(merged)
    torch.testing.assert_close(said(fresh), trained, atol=1e-4, rtol=0, msg="what trains is merged, not the start")
    share = sum(p.numel() for n, p in model.named_parameters() if f".{START}." in n)
    assert share == sum(value.numel() for value in adapter_state(model).values())


def names(model: nn.Module) -> set[str]:
    return {name for name, _ in model.named_parameters()}


@pytest.mark.parametrize("targets", [LINEAR, ("q_proj", "lm_head")])
def test_a_reference_pass_is_that_of_a_second_model(targets: tuple[str, ...]) -> None:
    model = adapt(build("llama"), 3, None, targets, 0)
    speak(model)
    policy, batch, needs = LMPolicy(model), make(), (LOGP_REF,)
    inside = policy.columns(batch, needs, {"reference": StartWeights(model)})
    beside = policy.columns(batch, needs, {"reference": build("llama")})
    assert inside.keys() == beside.keys() and inside
    for name, values in inside.items():
        torch.testing.assert_close(values, beside[name], atol=1e-5, rtol=0)
        own = policy.columns(batch, needs, {"reference": model})[name]
        assert (values - own).abs().max() > 1e-2, "and not that of the trained weights"


def test_states_for_novelty_are_those_of_the_start() -> None:
    model = adapted()
    texts = ["abc", "", "defghij"]
    inside = PolicyStates(StartWeights(model), tokenizer())(texts)
    torch.testing.assert_close(inside, PolicyStates(build("llama"), tokenizer())(texts), atol=1e-6, rtol=0)
    assert (inside - PolicyStates(model, tokenizer())(texts)).abs().max() > 1e-3


# --- in the machinery -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["llama", "gemma2"])
def test_recomputed_layers_give_the_same_gradients(name: str) -> None:
    grads = []
    for recompute in (False, True):
        model = adapted(name).train()
        if recompute:
            checkpoint_layers(model)
        now = LMPolicy(model)(make())
        (now.logp.sum() + now.entropy.sum()).backward()
        grads.append({n: p.grad for n, p in model.named_parameters() if p.grad is not None})
    assert grads[0] and grads[0].keys() == grads[1].keys()
    for key, grad in grads[0].items():
        torch.testing.assert_close(grads[1][key], grad, atol=1e-5, rtol=1e-4)


def test_laid_out_layers_keep_their_adapters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layout, "_LEAST", 1)
    model = adapted()
    with torch.no_grad(), layout.laid_out(model):
        inside = [path for path, module in model.named_modules() if "forward" in vars(module)]
        laid = said(model)
    assert sum(path.endswith("base_layer") for path in inside) == 14
    torch.testing.assert_close(laid, said(model), atol=1e-4, rtol=0)
    assert (laid - said(build("llama"))).abs().max() > 0.1
    assert not any("forward" in vars(module) for module in model.modules())


# --- folders --------------------------------------------------------------------------------------------------------


@pytest.fixture
def saved(tmp_path: Path) -> tuple[Path, Path]:
    """A base folder and an adapter folder over it that has no tokenizer of its own."""
    base, folder = tmp_path / "base", tmp_path / "adapter"
    save_chat_model(base, "qwen3")
    model = adapt(load_model(str(base)).model, 3, None, LINEAR, 0)
    speak(model)
    save_adapter(model, folder)
    return base, folder


def edit(folder: Path, **values: object) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def test_a_saved_adapter_is_pefts(saved: tuple[Path, Path]) -> None:
    base, folder = saved
    theirs = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), str(folder))
    loaded = load_model(str(folder))
    assert loaded.adapter and not load_model(str(base)).adapter
    assert torch.equal(said(loaded.model), said(theirs))
    assert json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"] == str(base)
    byte_bpe(None).save_pretrained(folder)
    assert load_model(str(folder)).tokenizer.chat_template is None, "a tokenizer of the adapter's own comes first"


def test_the_base_is_found_from_everywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_chat_model(tmp_path / "base", "llama")
    monkeypatch.chdir(tmp_path)
    save_adapter(adapt(load_model("base").model, 3, None, LINEAR, 0), tmp_path / "adapter")
    monkeypatch.chdir("/")
    assert load_model(str(tmp_path / "adapter")).adapter


def test_an_adapter_of_pefts_own_with_dropout_can_train(tmp_path: Path) -> None:
    base = save_chat_model(tmp_path / "base", "llama")
    from peft import get_peft_model

    theirs = get_peft_model(
        AutoModelForCausalLM.from_pretrained(tmp_path / "base"),
        LoraConfig(r=2, target_modules=["q_proj", "o_proj"], lora_dropout=0.1, use_rslora=True, task_type="CAUSAL_LM"),
    )
    speak(theirs)
    theirs.save_pretrained(tmp_path / "theirs")
    model = load_model(str(tmp_path / "theirs")).model
    refuse_dropout(model.train())
    assert torch.equal(said(model), said(theirs.eval())) and base.dtype == torch.float32
    fresh = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    fresh.load_state_dict(plain_weights(model))
    torch.testing.assert_close(said(fresh), said(theirs), atol=1e-4, rtol=0)


def refusal(folder: Path) -> str:
    with pytest.raises(InputError) as caught:
        load_model(str(folder))
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    "odd",
    [
        {"peft_type": "IA3"},
        {"use_dora": True},
        {"bias": "all"},
        {"modules_to_save": ["lm_head"]},
        {"init_lora_weights": "pissa"},
        {"use_bdlora": {"target_modules_bd_a": ["q_proj"], "nblocks": 2}},
        {"kasa_config": {}},
        {"velora_config": {}},
        {"monteclora_config": {}},
    ],
)
def test_adapters_of_other_kinds_are_refused(saved: tuple[Path, Path], odd: dict[str, Any]) -> None:
    edit(saved[1], **odd)
    told = refusal(saved[1])
    assert (
        f"adapter '{saved[1]}'" in told and "merge it into its base" in told and str(next(iter(odd.values()))) in told
    )


@pytest.mark.parametrize("odd", [{"alora_invocation_tokens": [5, 6]}, {"arrow_config": {}}])
def test_adapters_that_no_sum_can_stand_for_are_refused(saved: tuple[Path, Path], odd: dict[str, Any]) -> None:
    edit(saved[1], **odd)
    name, value = next(iter(odd.items()))
    told = refusal(saved[1])
    assert f"uses {name}={value}, which is more than plain LoRA: its weights cannot be merged either" in told


def test_options_without_a_value_are_not_used(saved: tuple[Path, Path]) -> None:
    edit(saved[1], trainable_token_indices={}, megatron_config={}, modules_to_save=[], use_bdlora=None)
    assert load_model(str(saved[1])).adapter


def test_every_option_of_the_installed_peft_is_known() -> None:
    assert {field.name for field in fields(LoraConfig)} <= adapters.KNOWN, "look at each: does it change the sum?"


def test_damaged_adapter_folders(saved: tuple[Path, Path], tmp_path: Path) -> None:
    base, folder = saved
    edit(folder, r=5)
    assert "has other tensors than this adapter" in refusal(folder)
    edit(folder, r=3, base_model_name_or_path=str(tmp_path / "gone"))
    assert f"adapter '{folder}' lacks its base: model '{tmp_path / 'gone'}': no such folder" in refusal(folder)
    edit(folder, base_model_name_or_path=None)
    assert "no base_model_name_or_path in adapter_config.json" in refusal(folder)
    edit(folder, base_model_name_or_path=str(base))
    weights = folder / "adapter_model.safetensors"
    weights.write_bytes(b"garbage")
    assert "no readable safetensors" in refusal(folder)
    weights.rename(folder / "hidden")
    assert "no adapter_model.safetensors in the folder" in refusal(folder)
    (folder / "adapter_model.bin").write_bytes(b"x")
    assert "only a pickled adapter_model.bin, which can run code" in refusal(folder)
    (folder / "hidden").rename(weights)
    (folder / "adapter_config.json").write_text("{")
    assert "adapter_config.json, line 1, column 2: invalid JSON" in refusal(folder)


def test_tensors_of_another_adapter_are_refused_and_name_the_file() -> None:
    with pytest.raises(InputError, match="here has other tensors than this adapter"):
        load_adapter_state(adapted(rank=3), adapter_state(adapted(rank=2)), "here")


def test_an_adapter_of_the_hub(saved: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    fetched: list[dict[str, Any]] = []

    def fetch(spec: str, **asked: Any) -> str:
        fetched.append({"spec": spec, **asked})
        return str(saved[1])

    monkeypatch.setattr(adapters, "find_adapter_config_file", lambda spec: spec if "adapter" in spec else None)
    monkeypatch.setattr(adapters, "snapshot_download", fetch)
    loaded = load_model("someone/an-adapter")
    assert torch.equal(said(loaded.model), said(load_model(str(saved[1])).model))
    assert fetched[0]["spec"] == "someone/an-adapter" and fetched[0]["ignore_patterns"] == ["*.bin"]


# --- narrower bases -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("quantize", ["8bit", "4bit"])
def test_a_quantised_base_is_refused_where_it_cannot_run(
    saved: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, quantize: Any
) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(InputError, match=f"lora.quantize={quantize} needs bitsandbytes"):
        load_model(str(saved[0]), quantize=quantize)
    from rekindle.tokens import quantized

    monkeypatch.setattr(quantized, "installed", lambda: True)
    with pytest.raises(
        InputError, match=f"lora.quantize={quantize} computes on a CUDA device, and the device is 'cpu'"
    ):
        load_model(str(saved[0]), quantize=quantize)
    told = quantized.quantization(quantize, torch.device("cuda"), torch.bfloat16)
    assert told.load_in_4bit == (quantize == "4bit") and told.load_in_8bit == (quantize == "8bit")
    assert quantize == "8bit" or (told.bnb_4bit_quant_type, told.bnb_4bit_compute_dtype) == ("nf4", torch.bfloat16)
