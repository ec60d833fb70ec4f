"""Our reward manager in verl 0.9.1's loaders, our functions in its processes and its actor's loss, its dumps read."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy
import pytest
import torch
from transformers import AutoTokenizer

from rekindle.errors import InputError
from rekindle.interop.verl import read_dump
from rekindle.interop.votes import spoken
from rekindle.methods.evol_rl import NoveltyBands
from rekindle.tokens.embed import HashedNgrams
from rekindle.tokens.labels import MajorityVote
from rekindle.tokens.tasks.files import load_files
from rekindle.tokens.verify import Verifier
from tests.cli.folders import llama_folder

# verl's and its dependencies' own warnings are not ours to fix.
pytestmark = [pytest.mark.heavy, pytest.mark.filterwarnings("ignore")]

ROOT = Path(__file__).parents[2]
SAID = ("so the sum is 7", "what is 7", "7", "one 8", "it is 4", "4", "4 is the sum", "three")
RULE = {"extract": "last_number"}


@pytest.fixture(scope="module", autouse=True)
def verl() -> Any:
    reason = "verl is in the environment of `make judge` only: rewards and workers of verl NOT CHECKED here"
    return pytest.importorskip("verl", reason=reason)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(llama_folder(tmp_path_factory.mktemp("verl") / "model"))


@pytest.fixture(scope="module")
def tokenizer(model: str) -> Any:
    return AutoTokenizer.from_pretrained(model)


def composed(method: str, *more: str) -> Any:
    """verl's whole configuration, with the options that the page names; one that verl does not know is an error."""
    import verl  # type: ignore[import-not-found]
    from omegaconf import OmegaConf  # type: ignore[import-not-found]

    config = OmegaConf.load(Path(verl.__file__).parent / "trainer/config/_generated_ppo_trainer.yaml")
    options = [
        "reward.reward_manager.source=importlib",
        "reward.reward_manager.module.path=pkg://rekindle.interop.verl.managers",
        "reward.reward_manager.name=GroupRewardManager",
        "reward.num_workers=1",
        f"+reward.reward_kwargs.method={method}",
        "+reward.reward_kwargs.extract=last_number",
        "actor_rollout_ref.rollout.n=4",
        "data.train_batch_size=2",
        "trainer.val_before_train=false",
        "trainer.test_freq=-1",
    ]
    for option in (*options, *more):
        path, _, value = option.removeprefix("+").partition("=")
        OmegaConf.set_struct(config, not option.startswith("+"))
        OmegaConf.update(config, path, OmegaConf.from_dotlist([f"x={value}"]).x, merge=True)
    OmegaConf.set_struct(config, True)
    return config


def proto(tokenizer: Any) -> Any:
    """Two prompts with four responses each, as verl's trainer holds them."""
    from verl import DataProto  # type: ignore[import-not-found]

    ids = [[*tokenizer(text).input_ids, tokenizer.eos_token_id] for text in SAID]
    width = max(map(len, ids))
    tensors = {
        "prompts": torch.ones(8, 2, dtype=torch.long),
        "responses": torch.tensor([row + [0] * (width - len(row)) for row in ids]),
        "attention_mask": torch.tensor([[1, 1] + [1] * len(row) + [0] * (width - len(row)) for row in ids]),
    }
    others = {"uid": numpy.array(["b"] * 4 + ["a"] * 4, dtype=object), "session_id": numpy.arange(8) % 4}
    return DataProto.from_dict(tensors=tensors, non_tensors=others)


def wanted(tokenizer: Any, tmp_path: Path, method: str) -> torch.Tensor:
    """The scores of the method's own parts, as a run of ours on a data file would give them."""
    from rekindle.tokens.grading.grader import Grader

    (tmp_path / "train.jsonl").write_text('{"prompt": "3+4", "answer": "7"}\n')
    verifier = Verifier(load_files(tmp_path / "train.jsonl"), grader=Grader("exact", "last_number"))
    rows = spoken([tokenizer.decode(tokenizer(t).input_ids, skip_special_tokens=True) for t in SAID], [0] * 4 + [1] * 4)
    verdicts = MajorityVote()(rows, verifier)
    run = SimpleNamespace(verifier=verifier, embed=HashedNgrams())
    return NoveltyBands()(rows, verdicts, run).score if method == "evol_rl" else verdicts.score


@pytest.mark.parametrize("method", ["evol_rl", "ttrl"])
def test_verls_loader_finds_the_manager_and_its_scores_are_ours(tokenizer: Any, tmp_path: Path, method: str) -> None:
    from verl.trainer.ppo.reward import load_reward_manager  # type: ignore[import-not-found]

    manager, data = load_reward_manager(composed(method), tokenizer, reward_router_address=None), proto(tokenizer)
    want = wanted(tokenizer, tmp_path, method)

    async def one_by_one() -> list[Any]:
        return await asyncio.gather(*(manager.run_single(data[i : i + 1]) for i in (5, 0, 1, 6, 4, 2, 7, 3)))

    told = asyncio.run(one_by_one())
    scores = torch.tensor([one["reward_score"] for one in told], dtype=torch.float64)
    torch.testing.assert_close(scores, want[torch.tensor([5, 0, 1, 6, 4, 2, 7, 3])], rtol=0, atol=1e-12)
    assert want.unique().numel() >= (4 if method == "evol_rl" else 2), "alive"
    whole = manager(data, return_dict=True)
    lengths = data.batch["attention_mask"][:, 2:].sum(dim=1)
    placed = whole["reward_tensor"][torch.arange(8), lengths - 1].double()
    torch.testing.assert_close(placed, want, rtol=0, atol=1e-6)
    assert (whole["reward_tensor"] != 0).sum() == (want != 0).sum(), "one number a row, at its last token"
    assert whole["reward_extra_info"]["label"] == ["7"] * 4 + ["4"] * 4
    assert {one["reward_extra_info"]["label"] for one in told} == {"4", "7"}


def test_verls_reward_worker_gathers_the_calls_of_its_trainer(model: str, tokenizer: Any, tmp_path: Path) -> None:
    from verl.experimental.reward_loop.reward_loop import RewardLoopWorker  # type: ignore[import-not-found]

    worker = RewardLoopWorker(composed("evol_rl", f"actor_rollout_ref.model.path={model}"))
    told = asyncio.run(worker.compute_score_batch(proto(tokenizer)))
    scores = torch.tensor([one["reward_score"] for one in told], dtype=torch.float64)
    torch.testing.assert_close(scores, wanted(tokenizer, tmp_path, "evol_rl"), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("option", "sentence"),
    [("reward.num_workers=8", r"reward\.num_workers is 8"), ("trainer.test_freq=5", "verl validates with 1 responses")],
)
def test_options_of_verl_that_do_not_fit(tokenizer: Any, option: str, sentence: str) -> None:
    from verl.trainer.ppo.reward import load_reward_manager  # type: ignore[import-not-found]

    with pytest.raises(InputError, match=sentence):
        load_reward_manager(composed("ttrl", option), tokenizer)


LOSSES = "from rekindle.interop.verl import register\nregister('evol_rl')\nregister('clip_cov')\n"
ASKED = """
from verl.trainer.ppo import core_algos
print(core_algos.get_policy_loss_fn("rekindle_clip_cov").name, core_algos.get_adv_estimator_fn("rekindle_evol_rl").name)
"""
BY_MODEL = """
import sys
from verl.workers.config import HFModelConfig
HFModelConfig(path=sys.argv[1], external_lib="my_losses", override_config={"attn_implementation": "eager"})
"""


@pytest.mark.parametrize("hook", ["VERL_USE_EXTERNAL_MODULES", "external_lib"])
def test_verls_hooks_register_in_another_process(model: str, tmp_path: Path, hook: str) -> None:
    (tmp_path / "my_losses.py").write_text(LOSSES)
    env = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    env |= {hook: "my_losses"} if hook.isupper() else {}
    program = ASKED if hook.isupper() else BY_MODEL + ASKED
    done = subprocess.run(
        [sys.executable, "-c", program, model], env=env, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split()[-2:] == ["rekindle_clip_cov", "rekindle_evol_rl"]


@pytest.mark.parametrize("method", ["evol_rl", "dr_grpo", "reinforce_pp", "gspo"])
def test_the_options_that_register_prints_are_verls_and_are_all_that_is_wanted(method: str) -> None:
    from verl.trainer.ppo import core_algos  # type: ignore[import-not-found]

    from rekindle.interop.verl import register

    told = register(method)
    lines = [line for line in str(told).splitlines() if not line.startswith("#")]
    config = composed("ttrl", *lines, "actor_rollout_ref.actor.loss_scale_factor=64")
    actor, mask = config.actor_rollout_ref.actor, torch.ones(2, 3)
    loss, estimate = core_algos.get_policy_loss_fn(told.name), core_algos.get_adv_estimator_fn(told.name)
    assert actor.policy_loss.loss_mode == config.algorithm.adv_estimator == told.name
    rewards = torch.tensor([[0.0, 0.0, 1.0], [0.0, 0.0, 0.0]])
    advantage, _ = estimate(rewards, mask, numpy.array(["a", "a"], dtype=object), config.algorithm)
    found, _ = loss(-mask, -mask, advantage, mask, actor.loss_agg_mode, actor)
    assert advantage[0, 0] > 0 > advantage[1, 0] and found.isfinite()
    plain = composed("ttrl", "actor_rollout_ref.actor.entropy_coeff=0.5")
    with pytest.raises(InputError, match=f"{told.name} wants "):
        loss(-mask, -mask, advantage, mask, "token-mean", plain.actor_rollout_ref.actor)


def test_verls_own_actor_loss_calls_ours(verl: Any) -> None:
    from tensordict import TensorDict
    from verl.utils import tensordict_utils as tu  # type: ignore[import-not-found]
    from verl.workers.config import ActorConfig, PolicyLossConfig  # type: ignore[import-not-found]
    from verl.workers.utils import losses  # type: ignore[import-not-found]

    from rekindle.interop.verl import register

    told = register("grpo")
    generator = torch.Generator().manual_seed(0)
    lengths, prompt = [5, 3, 4], 2

    def rows(kind: str) -> Any:
        whole = [torch.randn(n, generator=generator) if kind == "float" else torch.ones(n) for n in lengths]
        return torch.nested.as_nested_tensor(whole, layout=torch.jagged)

    old, advantages, mask = rows("float"), rows("float"), rows("ones")
    logs = [torch.randn(prompt + n, generator=generator) for n in lengths]
    logp = torch.nested.as_nested_tensor(logs, layout=torch.jagged)
    prompts = torch.nested.as_nested_tensor([torch.ones(prompt, dtype=torch.long)] * 3, layout=torch.jagged)
    responses = torch.nested.as_nested_tensor([torch.ones(n, dtype=torch.long) for n in lengths], layout=torch.jagged)
    whole = torch.nested.as_nested_tensor([torch.ones(prompt + n) for n in lengths], layout=torch.jagged)
    fields = {"response_mask": mask, "old_log_probs": old, "advantages": advantages, "prompts": prompts}
    data = TensorDict({**fields, "responses": responses, "attention_mask": whole}, batch_size=3)
    tu.assign_non_tensor(data, dp_size=2, batch_num_tokens=40, global_batch_size=10, max_response_len=5)
    found = {}
    for mode in ("vanilla", told.name):
        inner = PolicyLossConfig(loss_mode=mode)
        config = ActorConfig(strategy="fsdp", rollout_n=1, ppo_micro_batch_size_per_gpu=1, policy_loss=inner)
        found[mode] = losses.ppo_loss(config, {"log_probs": logp}, data)
    assert found[told.name][0].item() == pytest.approx(found["vanilla"][0].item(), rel=1e-6)
    assert {"actor/pg_loss", "actor/clip_high", "actor/ppo_kl"} <= found[told.name][1].keys()


DUMPS = """
import importlib, sys
from unittest.mock import MagicMock
import numpy
name, folder = sys.argv[1:]
while True:  # of the trainer's own needs, none is asked for what is called here
    try:
        module = importlib.import_module(name)
        break
    except ModuleNotFoundError as error:
        sys.modules[error.name] = MagicMock()
trainer = next(one for one in vars(module).values() if isinstance(one, type) and "_write_generations" in vars(one))
extra = {"acc": [numpy.bool_(True), False], "uid": ["u_0_0", "u_1_0"], "short": [1]}
if "v1" not in name:
    extra["acc"] = [True, False]
trainer._write_generations(["a?", "a?"], ["x", "\\u00e9"], ["7", None], [1.0, -1.0], extra, folder, 3)
from verl.utils.tracking import FileLogger
log = FileLogger("mine", "first")
log.log({"actor/entropy": numpy.float64(0.5), "critic/score/mean": 0.25, "training/epoch": 0}, step=3)
log.finish()
"""


@pytest.mark.parametrize("trainer", ["verl.trainer.ppo.v1.trainer_base", "verl.trainer.ppo.ray_trainer"])
def test_what_verls_trainers_and_its_logger_write_is_read(trainer: str, tmp_path: Path) -> None:
    env = {**os.environ, "PYTHONPATH": str(ROOT), "VERL_FILE_LOGGER_PATH": str(tmp_path / "log.jsonl")}
    done = subprocess.run(
        [sys.executable, "-c", DUMPS, trainer, str(tmp_path)], env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    run = read_dump(tmp_path)
    rows = run.tables[3].to_pydict()
    assert rows["success"] == [True, False] and rows["group"] == [0, 0] and rows["response"] == ["x", "\u00e9"]
    assert rows["reward/verl/uid"] == ["u_0_0", "u_1_0"] and "reward/verl/short" not in rows
    assert run.steps[0]["entropy"] == 0.5 and run.steps[0]["score"] == 0.25
