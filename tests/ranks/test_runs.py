"""Runs by several ranks through the command line: the same rollouts, one folder, no rank that outlives a failure."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from rekindle.api import train
from rekindle.train.events import read_events, timeless
from rekindle.train.retention import checkpoints

STEPS = 4
SIZES = {
    "rollout.prompts": 6,
    "rollout.group": 4,
    "rollout.votes": 8,
    "rollout.block": 2,
    "rollout.max_tokens": 40,
    "descent.micro_batch": 3,
    "evaluate.prompts": 5,
    "evaluate.samples": 4,
    "evaluate.every": 2,
    "checkpoint.every": 1,
}
INTERRUPTIBLE = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
INTERRUPTIBLE += "from rekindle.cli.main import main; main()"
"""A shell starts what runs in its background deaf to interrupts."""
STOPPER = """
import os
import signal
from dataclasses import dataclass
from rekindle.errors import GuardStop
from rekindle.methods import grpo

@dataclass(frozen=True)
class Stops:
    kind: str = "guard"
    def __call__(self, run, update):
        if run.step_index != 1 or os.environ.get("RANK") != "1":
            return
        if self.kind == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        raise GuardStop("rank 1 has seen enough") if self.kind == "guard" else ZeroDivisionError("a bug")

def guard():
    return grpo.method().replace(after=(Stops(),))

def bug():
    return grpo.method().replace(after=(Stops("bug"),))

def killed():
    return grpo.method().replace(after=(Stops("killed"),))
"""


def command(out: Path, *more: str, method: str = "evol_rl", steps: int = STEPS) -> list[str]:
    """`rekindle train` of the small run."""
    sets = [word for name, value in SIZES.items() for word in ("--set", f"{name}={value}")]
    return ["train", method, "--task", "digit_sum", "--steps", str(steps), *sets, "--out", str(out), *more]


def started(words: list[str], *before: str) -> subprocess.Popen[str]:
    """`rekindle WORDS`, each rank on one thread."""
    told = {n: v for n, v in os.environ.items() if n not in ("RANK", "WORLD_SIZE")} | {"OMP_NUM_THREADS": "1"}
    call = [sys.executable, *(before or ("-m", "rekindle")), *words]
    return subprocess.Popen(call, env=told, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finished(process: subprocess.Popen[str], seconds: float = 600) -> tuple[int, str, str]:
    """(exit code, stdout, stderr)."""
    out, err = process.communicate(timeout=seconds)
    return process.returncode, out, err


def tokens(folder: Path, step: int) -> dict[str, list[Any]]:
    """What was sampled in a step."""
    return pq.read_table(folder / "rollouts" / f"step-{step:06d}.parquet").to_pydict()


def far(a: Path, b: Path) -> float:
    """Largest difference of final weights, relative to the largest of its tensor."""
    x, y = (load_file(folder / "final" / "model.safetensors") for folder in (a, b))
    assert x.keys() == y.keys()
    return max(((x[n] - y[n]).abs().max() / x[n].abs().max()).item() for n in x)


def norm_of_the_first_step(folder: Path) -> float:
    """The gradient's, before it is clipped: a scale that Adam and clipping hide from the weights is seen here."""
    found = next(event["grad_norm"] for event in read_events(folder / "events.jsonl") if event["kind"] == "step")
    assert found > 1e-3
    return found


def ranks_below(process: subprocess.Popen[str]) -> list[int]:
    """The processes that this one started, the ranks in their order."""
    return [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]


def alive(pid: int) -> bool:
    """Whether a process runs (a zombie does not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def after_first_checkpoint(process: subprocess.Popen[str], out: Path) -> None:
    """Wait until there is something to go on from."""
    deadline = time.monotonic() + 600
    while not checkpoints(out / "checkpoints") and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    assert process.poll() is None and checkpoints(out / "checkpoints")


def forget_last(out: Path) -> None:
    """Take the last checkpoint and the final model from a finished run."""
    for folder in (checkpoints(out / "checkpoints")[-1], out / "final"):
        shutil.rmtree(folder)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("alone") / "run"
    train("evol_rl", task="digit_sum", steps=STEPS, out=out, options=SIZES)
    torch.set_num_threads(threads)
    return out


@pytest.mark.heavy
def test_two_ranks_draw_what_one_draws_and_leave_what_one_leaves(alone: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    code, said, err = finished(started(command(out, "--ranks", "2")))
    assert code == 0, err
    assert said.count("trained model:") == 1 and said.count(f"step {STEPS}/{STEPS}") == 2, "one rank speaks"
    assert tokens(out, 1) == tokens(alone, 1), "step 1: the same tokens, scores and log-probs"
    assert norm_of_the_first_step(out) == pytest.approx(norm_of_the_first_step(alone), rel=1e-5)
    same = [step for step in range(1, STEPS + 1) if tokens(out, step)["response"] == tokens(alone, step)["response"]]
    print(f"\nsteps with equal responses: {same} of {STEPS}; weights {far(alone, out):.1e} apart")
    assert far(alone, out) < 1e-4
    mine, theirs = (timeless(read_events(folder / "events.jsonl")) for folder in (out, alone))
    assert [(r["kind"], r["step"]) for r in mine] == [(r["kind"], r["step"]) for r in theirs]
    assert mine[0]["ranks"] == 2 and mine[1] == theirs[1], "the baseline is measured on the same samples"
    files = [sorted(str(p.relative_to(folder)) for p in folder.rglob("*")) for folder in (out, alone)]
    assert files[0] == files[1]


@pytest.mark.heavy
def test_a_killed_rank_ends_all_and_one_rank_goes_on(alone: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    process = started(command(out, "--ranks", "2"))
    after_first_checkpoint(process, out)
    first, second = ranks_below(process)
    os.kill(second, signal.SIGKILL)
    began = time.monotonic()
    code, _, err = finished(process)
    assert code == 4 and time.monotonic() - began < 90, err
    assert "rank 1 was killed (SIGKILL)" in err and "--resume" in err and "Traceback" not in err
    assert not alive(first) and not alive(second)
    assert not (out / "final").exists()
    train("evol_rl", task="digit_sum", steps=STEPS, out=out, options=SIZES, resume=True)
    assert far(alone, out) < 1e-4


@pytest.mark.heavy
@pytest.mark.parametrize(
    ("shard", "kind", "code"),
    [("none", "guard", 3), ("none", "bug", 1), ("full", "guard", 3), ("full", "bug", 1), ("full", "killed", 4)],
)
def test_what_ends_one_rank_amid_updates_ends_all_and_is_said_once(
    tmp_path: Path, shard: str, kind: str, code: int
) -> None:
    own = tmp_path / "own.py"
    own.write_text(STOPPER)
    words = command(tmp_path / "run", "--ranks", "2", "--shard", shard, method=f"{own}:{kind}")
    got, _, err = finished(started(words))
    assert got == code, err
    if kind == "guard":
        assert err.strip().splitlines() == ["rekindle: rank 1 has seen enough"]
    elif kind == "killed":
        assert "rekindle: rank 1 was killed (SIGKILL)" in err and "Traceback" not in err
    else:
        assert "ZeroDivisionError: a bug" in err and "rank 1 ended with exit code 1" in err
        assert err.count("Traceback") == 1, "of the rank that has the bug"
    assert len(checkpoints(tmp_path / "run" / "checkpoints")) == 1, "of the step before"


@pytest.mark.heavy
def test_an_interrupt_ends_all_ranks(tmp_path: Path) -> None:
    out = tmp_path / "run"
    process = started(command(out, "--ranks", "2", steps=500), "-c", INTERRUPTIBLE)
    after_first_checkpoint(process, out)
    crew = ranks_below(process)
    process.send_signal(signal.SIGINT)
    code, _, err = finished(process)
    assert code == 130 and err.count("stopped by SIGINT") == 1 and "--resume" in err, err
    assert len(crew) == 2 and not any(map(alive, crew))


@pytest.mark.heavy
def test_ranks_follow_the_process_that_watches_them(tmp_path: Path) -> None:
    out = tmp_path / "run"
    process = started(command(out, "--ranks", "2", steps=500))
    after_first_checkpoint(process, out)
    crew = ranks_below(process)
    process.kill()
    deadline = time.monotonic() + 90
    while any(map(alive, crew)) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.communicate()  # rank 0 held its output open
    assert len(crew) == 2 and not any(map(alive, crew))


@pytest.mark.heavy
@pytest.mark.parametrize("launcher", ["torchrun", "accelerate"])
def test_launchers_of_clusters_start_the_same_run(alone: Path, tmp_path: Path, launcher: str) -> None:
    out = tmp_path / "run"
    torchrun = ("-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "rekindle")
    # Its flag for several processes by torchrun's launcher; on CPUs it would start one, or ask for MPI.
    accelerate = ("-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "-m", "rekindle")
    code, said, err = finished(started(command(out), *(torchrun if launcher == "torchrun" else accelerate)))
    assert code == 0, err
    assert said.count("trained model:") == 1 and tokens(out, 1) == tokens(alone, 1) and far(alone, out) < 1e-4
    start = json.loads((out / "events.jsonl").read_text().splitlines()[0])
    assert start["ranks"] == 2


@pytest.mark.heavy
def test_weights_in_shares_train_the_same_model_and_resume(alone: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    code, _, err = finished(started(command(out, "--ranks", "2", "--shard", "full")))
    assert code == 0, err
    assert tokens(out, 1)["response"] == tokens(alone, 1)["response"] and far(alone, out) < 1e-4
    assert norm_of_the_first_step(out) == pytest.approx(norm_of_the_first_step(alone), rel=1e-5)
    state, theirs = (
        load_file(checkpoints(f / "checkpoints")[-1] / "state/optimizer.safetensors") for f in (out, alone)
    )
    assert {n: v.shape for n, v in state.items()} == {n: v.shape for n, v in theirs.items()}
    forget_last(out)
    code, _, err = finished(started(command(out, "--ranks", "3", "--shard", "full", "--resume")))
    assert code == 0, err
    assert far(alone, out) < 1e-4


@pytest.mark.heavy
def test_a_run_goes_on_with_more_and_with_fewer_ranks_though_nobody_said_how_its_work_is_cut(tmp_path: Path) -> None:
    out, toml = tmp_path / "run", tmp_path / "my.toml"
    small = {"rollout.prompts": 8, "rollout.group": 2, "rollout.max_tokens": 8, "evaluate.every": 0}
    given = {**small, "evaluate.baseline": False, "checkpoint.every": 1}
    toml.write_text(
        "\n".join(f"{path} = {json.dumps(value)}" for path, value in {**given, "task": "digit_sum"}.items())
    )
    train("grpo", task="digit_sum", steps=2, out=out, options=given)
    forget_last(out)
    words = ["train", "grpo", "--config", str(toml), "--steps", "2", "--out", str(out), "--ranks", "2"]
    code, _, err = finished(started([*words, "--resume"]))
    assert code == 0, err
    fresh = str(tmp_path / "fresh")
    code, _, err = finished(started([fresh if word == str(out) else word for word in words]))
    assert code == 0 and "so that each of 2 ranks has work" in err, err
    forget_last(tmp_path / "fresh")
    train("grpo", task="digit_sum", steps=2, out=fresh, options=given, resume=True)
