"""Real architectures, small: from a folder through chat template and sampler to the policy, plain and with LoRA."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from rekindle.core.random import pack_key
from rekindle.core.types import Batch
from rekindle.errors import InputError
from rekindle.tokens.grading.boxed import after_think
from rekindle.tokens.heads import refuse_dropout
from rekindle.tokens.loader import Loaded, eos_ids, load_model
from rekindle.tokens.lora import adapt, save_merged
from rekindle.tokens.policy import LMPolicy
from rekindle.tokens.rollouts import Example, Rollouts
from rekindle.tokens.sampling.base import Sampling
from rekindle.tokens.sampling.local import LocalSampler
from tests.tiny_models import KINDS, byte_bpe, save_chat_model, unigram

TOKENS = {"gemma3_text": unigram, "gemma4_text": unigram, "mistral": unigram}
EXAMPLES = [Example("a", "what is one plus one?"), Example("b", "The sum of 12")]
KEY = pack_key(5, 0, 0)


@pytest.fixture(scope="module", params=sorted(KINDS))
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp(request.param)
    save_chat_model(place, request.param, TOKENS.get(request.param, byte_bpe))
    return place


def drawn(loaded: Loaded, n: int = 4) -> Rollouts:
    sampler = LocalSampler(loaded.model, loaded.tokenizer, loaded.encode)
    return sampler.sample(EXAMPLES, n, Sampling(max_tokens=12), KEY, 0)


def batch_of(rollouts: Rollouts) -> Batch:
    rows = torch.zeros(len(rollouts))
    return Batch(
        action=rollouts.ids,
        mask=rollouts.mask,
        uid=rollouts.uid,
        group=rollouts.group,
        success=rows.bool(),
        graded=~rows.bool(),
        score=rows,
        prompt=rollouts.prompt,
        key=KEY,
    )


@torch.no_grad()
def by_transformers(model: Any, rollouts: Rollouts) -> Tensor:
    """Log-probs of the responses by the whole model, a row at a time; 0 off the mask."""
    found = torch.zeros(rollouts.mask.shape)
    for row, prompt in enumerate(rollouts.prompt.ids):
        size = int(rollouts.mask[row].sum())
        ids = torch.tensor([[*prompt, *rollouts.ids[row, :size].tolist()]])
        logp = model(input_ids=ids, use_cache=False).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
        found[row, :size] = logp.gather(1, ids[0, len(prompt) :, None])[:, 0]
    return found


def test_what_is_sampled_and_scored_is_what_transformers_says(folder: Path) -> None:
    loaded = load_model(str(folder))
    rollouts = drawn(loaded)
    assert len({tuple(row) for row in rollouts.ids.tolist()}) == 8 and rollouts.logp is not None
    truth = by_transformers(AutoModelForCausalLM.from_pretrained(folder).eval(), rollouts)
    assert truth.abs().max() > 1
    torch.testing.assert_close(LMPolicy(loaded.model)(batch_of(rollouts)).logp.detach(), truth, atol=1e-4, rtol=0)
    torch.testing.assert_close(rollouts.logp, truth, atol=1e-4, rtol=0)


def test_with_an_adapter_all_agree_too_and_only_it_gets_a_gradient(folder: Path, tmp_path: Path) -> None:
    loaded = load_model(str(folder))
    model = adapt(loaded.model, 4, None, ("all-linear",), seed=1)
    speak(model)
    refuse_dropout(model.train())
    policy = LMPolicy(model)
    rollouts = drawn(Loaded(model, loaded.tokenizer, loaded.encode))
    assert rollouts.logp is not None
    save_merged(model, tmp_path)
    truth = by_transformers(AutoModelForCausalLM.from_pretrained(tmp_path).eval(), rollouts)
    start = by_transformers(AutoModelForCausalLM.from_pretrained(folder).eval(), rollouts)
    assert (truth - start).abs().max() > 0.1, "the adapter is alive"
    now = policy(batch_of(rollouts))
    torch.testing.assert_close(rollouts.logp, truth, atol=1e-4, rtol=0)
    torch.testing.assert_close(now.logp.detach(), truth, atol=1e-4, rtol=0)
    now.logp.sum().backward()
    moved = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert moved and all("lora_" in name for name in moved)
    assert moved == {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def speak(model: torch.nn.Module) -> None:
    """Random second factors, so that the adapter says something."""
    rng = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.1, generator=rng)


def test_a_system_prompt_the_users_turn_and_the_opening_of_the_answer(folder: Path) -> None:
    loaded = load_model(str(folder), system_prompt="be brief.")
    shown = loaded.tokenizer.decode(loaded.encode(EXAMPLES[0])).replace(" ", "")
    assert shown == "<|system|>bebrief.<|end|><|user|>whatisoneplusone?<|end|><|assistant|><think>"
    assert eos_ids(loaded.model, loaded.tokenizer) == (2, 3)


def test_every_end_ends_a_response(folder: Path) -> None:
    rollouts = drawn(load_model(str(folder)), n=48)
    last = rollouts.ids.gather(1, rollouts.mask.sum(1, keepdim=True) - 1)[:, 0].tolist()
    assert {token for token, finish in zip(last, rollouts.finish, strict=True) if finish == "eos"} <= {2, 3}
    assert all((token in (2, 3)) == (finish == "eos") for token, finish in zip(last, rollouts.finish, strict=True))


# --- templates ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("llama")
    save_chat_model(place, "llama")
    return place


def shown(place: Path, example: Example = EXAMPLES[1], **more: Any) -> str:
    loaded = load_model(str(place), **more)
    return loaded.tokenizer.decode(loaded.encode(example))


def test_thinking_is_told_to_the_template(llama: Path) -> None:
    assert shown(llama).endswith("<|assistant|><think>")
    assert shown(llama, thinking=True).endswith("<|assistant|><think>")
    assert shown(llama, thinking=False).endswith("<|assistant|><think></think>")
    assert after_think("it is \\boxed{3}</think>\\boxed{4}") == "\\boxed{4}"


def test_a_template_of_the_users_takes_the_place_of_the_tokenizers(llama: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine.jinja"
    mine.write_text("{% for m in messages %}{{ m['content'] }}!{% endfor %}")
    assert shown(llama, chat_template=str(mine), system_prompt="s") == "s!The sum of 12!"
    assert shown(llama, chat_template=str(mine), task_name="reduce") == "The sum of 12!"
    bare = tmp_path / "bare"
    save_chat_model(bare, "llama", lambda: byte_bpe(None))
    assert shown(bare) == "The sum of 12"
    assert shown(bare, chat_template=str(mine)) == "The sum of 12!"


def test_messages_in_the_style_of_trl(llama: Path) -> None:
    talk = [
        {"role": "system", "content": "s"},
        {"role": "user", "content": "one?"},
        {"role": "assistant", "content": "two"},
    ]

    def told(count: int) -> str:
        return shown(llama, Example("m", "", None, {"messages": talk[:count]}), system_prompt="never")

    assert told(2) == "<|system|>s<|end|><|user|>one?<|end|><|assistant|><think>"
    assert told(3) == "<|system|>s<|end|><|user|>one?<|end|><|assistant|>two", "an answer that is begun stays open"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{% for m in messages %}", r"line 1: .*mend the template"),
        ("  \n", "is empty"),
        (b"\xff\xfe\x00", "cannot be read"),
        (None, r"cannot be read \(.*No such file"),
    ],
)
def test_a_template_that_is_none_is_named(llama: Path, tmp_path: Path, text: Any, message: str) -> None:
    file = tmp_path / "t.jinja"
    if text is not None:
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InputError, match=rf"chat_template '{file}'.*{message}"):
        load_model(str(llama), chat_template=str(file))


def test_a_template_that_refuses_some_messages_is_still_one(llama: Path, tmp_path: Path) -> None:
    strict = tmp_path / "strict.jinja"
    strict.write_text(
        "{% if messages[0]['role'] != 'system' %}{{ raise_exception('system first') }}{% endif %}"
        "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    )
    assert shown(llama, chat_template=str(strict), system_prompt="s:") == "s:The sum of 12"
    with pytest.raises(InputError, match=r"prompt 'b': the chat template refuses it .*system first"):
        shown(llama, chat_template=str(strict))


def test_thinking_that_nobody_would_hear_is_refused(llama: Path, tmp_path: Path) -> None:
    deaf = tmp_path / "deaf.jinja"
    deaf.write_text("{{ messages[0]['content'] }}")
    with pytest.raises(InputError, match="does not know enable_thinking, so thinking=False would do nothing"):
        load_model(str(llama), chat_template=str(deaf), thinking=False)
    with pytest.raises(InputError, match="thinking=True goes to a chat template, and none is used"):
        load_model(str(llama), task_name="reduce", thinking=True)


# --- folders --------------------------------------------------------------------------------------------------------


def test_weights_in_several_files(llama: Path, tmp_path: Path) -> None:
    whole = AutoModelForCausalLM.from_pretrained(llama)
    whole.save_pretrained(tmp_path, max_shard_size="8KB")
    byte_bpe().save_pretrained(tmp_path)
    parts = sorted(tmp_path.glob("*.safetensors"))
    assert len(parts) > 2
    loaded = load_model(str(tmp_path)).model.state_dict()
    assert all(torch.equal(value, loaded[name]) for name, value in whole.state_dict().items())
    parts[1].unlink()
    with pytest.raises(InputError, match="no such file"):
        load_model(str(tmp_path))


def test_bfloat16_on_disk_is_float32_in_training(tmp_path: Path) -> None:
    saved = save_chat_model(tmp_path, "qwen3", dtype="bfloat16")
    model = load_model(str(tmp_path)).model
    assert saved.dtype == torch.bfloat16 and {p.dtype for p in model.parameters()} == {torch.float32}
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight, "a tied head stays tied"
    for name, value in saved.state_dict().items():
        assert torch.equal(model.state_dict()[name], value.float())


def test_a_configuration_without_weights(llama: Path, tmp_path: Path) -> None:
    AutoModelForCausalLM.from_pretrained(llama).config.save_pretrained(tmp_path)
    byte_bpe().save_pretrained(tmp_path)
    with pytest.raises(InputError, match="a configuration, but no weights in the folder"):
        load_model(str(tmp_path))
