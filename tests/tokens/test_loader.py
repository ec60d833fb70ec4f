"""Model folders: what loads, how prompts become ids, and the sentence that each unusable folder gets."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from rekindle.errors import InputError
from rekindle.tokens.loader import context_length, eos_ids, load_model, resolve_device
from rekindle.tokens.rollouts import Example

TEMPLATE = (
    "{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }};{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)


def byte_tokenizer(template: str | None = None, eos: str | None = "</s>") -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=280, special_tokens=["<s>", "</s>"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(["what is one plus one?", "user system assistant"] * 3, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=eos)
    fast.chat_template = template
    return fast


def tiny_llama(vocabulary: int = 280, **more: object) -> LlamaForCausalLM:
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    more = {"max_position_embeddings": 64, **more}
    tokens = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": None}
    return LlamaForCausalLM(LlamaConfig(vocab_size=vocabulary, **sizes, **{**tokens, **more}))


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("models") / "llama"
    tiny_llama().save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "model"))


def edit(folder: Path, name: str = "config.json", **values: object) -> None:
    path = folder / name
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def refusal(spec: object, **more: object) -> str:
    with pytest.raises(InputError) as caught:
        load_model(str(spec), **more)
    message = str(caught.value)
    assert "\n" not in message
    assert caught.value.__cause__ is None
    return message


def test_a_local_folder_loads_quietly_and_leaves_the_random_state(
    saved: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    loaded = load_model(str(saved), device="cpu", dtype="bf16")
    assert torch.equal(torch.get_rng_state(), before)
    assert capfd.readouterr() == ("", "")
    assert loaded.model.dtype == torch.bfloat16
    assert not loaded.model.training
    assert eos_ids(loaded.model, loaded.tokenizer) == (1,)
    assert context_length(loaded.model) == 64
    again = load_model(str(saved))
    assert again.model.dtype == torch.float32
    text = loaded.tokenizer.decode(loaded.encode(Example("a", "what is \u00e9?")))
    assert text == "what is \u00e9?"


def test_prompts_without_template_are_the_plain_ids(saved: Path) -> None:
    loaded = load_model(str(saved), system_prompt="unused without a template")
    assert loaded.encode(Example("a", "one")) == loaded.tokenizer("one").input_ids
    with pytest.raises(InputError, match=r"'a' is a list of messages, but the tokenizer has no chat template"):
        loaded.encode(Example("a", "q", None, {"messages": [{"role": "user", "content": "q"}]}))


@pytest.mark.parametrize("special", ["$A </s>", "<s> $A </s>", "<s> $A"])
def test_a_plain_prompt_is_left_open_by_a_tokenizer_that_appends_an_end(folder: Path, special: str) -> None:
    for template in (None, TEMPLATE):
        closing = byte_tokenizer(template)
        closing.backend_tokenizer.post_processor = processors.TemplateProcessing(
            single=special, special_tokens=[("<s>", 0), ("</s>", 1)]
        )
        closing.save_pretrained(folder)
        loaded, text = load_model(str(folder)), Example("a", "one?")
        own = loaded.tokenizer("one?", add_special_tokens=False).input_ids
        begin = [0] if special.startswith("<s>") else []
        assert loaded.tokenizer("one?").input_ids == begin + own + [1] * special.endswith("</s>")
        if template is None:
            assert loaded.encode(text) == begin + own
            assert loaded.encode(Example("c", "</s>one?")) == [*begin, 1, *own]
            assert loaded.encode(Example("b", "one?</s>")) == [*begin, *own, 1], (
                "an end that the prompt itself has stays"
            )
        else:
            assert loaded.tokenizer.decode(loaded.encode(text)) == "[user]one?;[assistant]"


def test_prompts_go_through_the_chat_template(folder: Path) -> None:
    byte_tokenizer(TEMPLATE).save_pretrained(folder)
    loaded = load_model(str(folder), system_prompt="be brief")

    def shown(example: Example, encode: Callable[[Example], list[int]] = loaded.encode) -> str:
        return loaded.tokenizer.decode(encode(example))

    assert shown(Example("a", "one?")) == "[system]be brief;[user]one?;[assistant]"
    own = [{"role": "system", "content": "s"}, {"role": "user", "content": "q"}]
    assert shown(Example("a", "q", None, {"messages": own})) == "[system]s;[user]q;[assistant]"
    assert shown(Example("a", "q", None, {"messages": own[1:]})) == "[system]be brief;[user]q;[assistant]"
    assert shown(Example("a", "one?"), load_model(str(folder)).encode) == "[user]one?;[assistant]"
    assert shown(Example("a", "1+1"), load_model(str(folder), task_name="reduce").encode) == "1+1"


def test_a_template_that_refuses_and_a_prompt_without_tokens_are_named(folder: Path) -> None:
    refusing = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    byte_tokenizer(refusing).save_pretrained(folder)
    with pytest.raises(InputError, match=r"prompt 'a': the chat template refuses it \(no system role\)"):
        load_model(str(folder), system_prompt="s").encode(Example("a", "q"))
    with pytest.raises(InputError, match="prompt 'a': the tokenizer makes no tokens of it"):
        load_model(str(folder)).encode(Example("a", "q"))


def test_all_end_ids_are_collected(folder: Path) -> None:
    edit(folder, "generation_config.json", eos_token_id=[5, 3])
    edit(folder, eos_token_id=7)
    loaded = load_model(str(folder))
    assert eos_ids(loaded.model, loaded.tokenizer) == (1, 3, 5, 7)


def test_the_context_length_of_another_architecture() -> None:
    config = GPT2Config(vocab_size=9, n_positions=11, n_embd=8, n_layer=1, n_head=1)
    assert context_length(GPT2LMHeadModel(config)) == 11


def test_missing_parts_of_a_folder(folder: Path, tmp_path: Path) -> None:
    assert "no such folder" in refusal("./nowhere")
    assert "no such folder" in refusal(tmp_path / "nowhere" / "model")
    assert "a file, not a folder" in refusal(folder / "config.json")
    (tmp_path / "empty").mkdir()
    assert "no config.json" in refusal(tmp_path / "empty")
    weights = folder / "model.safetensors"
    weights.rename(folder / "hidden")
    assert "no weights in the folder" in refusal(folder)
    (folder / "pytorch_model.bin").write_bytes(b"x")
    assert "only pickled weights (pytorch_model.bin)" in refusal(folder)
    weights.write_bytes(b"garbage")
    assert "no readable safetensors" in refusal(folder)
    (folder / "tokenizer.json").unlink()
    assert "no tokenizer in the folder" in refusal(folder)


def test_no_end_of_text_token(saved: Path, tmp_path: Path) -> None:
    model = tiny_llama(eos_token_id=None)
    model.generation_config.eos_token_id = None
    model.save_pretrained(tmp_path / "m")
    byte_tokenizer(eos=None).save_pretrained(tmp_path / "m")
    assert "no end-of-text token: set 'eos_token'" in refusal(tmp_path / "m")


@pytest.mark.parametrize("name", ["attention_dropout", "resid_pdrop", "layerdrop"])
def test_dropout_is_refused_by_its_key(folder: Path, name: str) -> None:
    edit(folder, **{name: 0.1})
    message = refusal(folder)
    assert str(folder) in message and f"set {name}=0 in its config.json" in message
    edit(folder, **{name: 0.0})
    assert not load_model(str(folder)).model.training


@pytest.mark.parametrize(("name", "value"), [("classifier_dropout", 0.1), ("summary_first_dropout", 0.1)])
def test_dropout_of_a_head_that_is_not_there_is_no_obstacle(folder: Path, name: str, value: float) -> None:
    edit(folder, **{name: value})
    assert load_model(str(folder)).model.config.to_dict()[name] == value


def test_a_gpt_neox_loads_with_the_dropout_of_its_defaults(tmp_path: Path) -> None:
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = GPTNeoXConfig(vocab_size=280, max_position_embeddings=64, eos_token_id=1, bos_token_id=0, **sizes)
    assert config.classifier_dropout == 0.1
    GPTNeoXForCausalLM(config).save_pretrained(tmp_path)
    byte_tokenizer().save_pretrained(tmp_path)
    assert load_model(str(tmp_path)).model.config.model_type == "gpt_neox"
    edit(tmp_path, hidden_dropout=0.1)
    assert "set hidden_dropout=0 in its config.json" in refusal(tmp_path)


def test_weights_that_do_not_fit_the_configuration(folder: Path) -> None:
    edit(folder, num_hidden_layers=3)
    assert "the weights lack" in refusal(folder)
    edit(folder, num_hidden_layers=2, hidden_size=64)
    assert "config.json asks for" in refusal(folder)
    (folder / "config.json").write_text("{")
    assert "invalid JSON" in refusal(folder)


def test_a_tokenizer_larger_than_the_model(tmp_path: Path) -> None:
    tiny_llama(vocabulary=100).save_pretrained(tmp_path / "m")
    byte_tokenizer().save_pretrained(tmp_path / "m")
    assert "more tokens (" in refusal(tmp_path / "m")


def test_code_in_a_folder_is_not_run(folder: Path) -> None:
    (folder / "evil.py").write_text("open('ran', 'w')\n")
    edit(folder, model_type="unheard_of", auto_map={"AutoConfig": "evil.C", "AutoModelForCausalLM": "evil.M"})
    assert "cannot be loaded" in refusal(folder)
    assert not Path("ran").exists()


def test_unknown_dtype_and_device(saved: Path) -> None:
    assert "unknown dtype 'float31': did you mean" in refusal(saved, dtype="float31")
    assert "unknown device 'gpu'" in refusal(saved, device="gpu")
    assert "unknown device 'meta'" in refusal(saved, device="meta")
    assert "device 'cuda:99' is not there" in refusal(saved, device="cuda:99")
    assert "device 'mps' has no float64" in refusal(saved, device="mps")
    assert resolve_device("cpu").type == "cpu"
    assert resolve_device("auto").type in ("cpu", "cuda")


def answer(status: int) -> Any:
    return SimpleNamespace(status_code=status, headers={}, request=None)


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (
            GatedRepoError("no", response=answer(403)),
            r"is gated: accept its licence at .*/o/m, then log in by `hf auth",
        ),
        (RepositoryNotFoundError("no", response=answer(404)), r"not on the hub: check the name, or log in by `hf auth"),
        (LocalEntryNotFoundError("no"), "without the network, since it is not in the cache: go online once, or give a"),
        (OfflineModeIsEnabled("no"), "without the network, since it is not in the cache"),
        (HfHubHTTPError("busy", response=answer(503)), r"cannot be fetched from the hub \(busy.*: try again later"),
        (OSError("odd"), r"is no folder here and, as a hub id, cannot be loaded \(odd\): check its name and files"),
    ],
)
def test_what_the_hub_says_becomes_a_remedy(monkeypatch: pytest.MonkeyPatch, error: Exception, told: str) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("rekindle.tokens.adapters.find_adapter_config_file", fail)
    message = refusal("o/m")
    assert message.startswith("model 'o/m' ") and re.search(told, message)


def test_what_lies_under_the_hubs_answer_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError("You are trying to access a gated repo") from GatedRepoError("no", response=answer(401))

    monkeypatch.setattr("rekindle.tokens.adapters.find_adapter_config_file", lambda spec: None)
    monkeypatch.setattr("transformers.AutoModelForCausalLM.from_pretrained", fail)
    assert "is gated" in refusal("o/m")


def test_a_hub_id_that_cannot_be_reached(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    assert "is no folder here and, as a hub id, cannot be loaded" in refusal("nobody/nothing-at-all")
