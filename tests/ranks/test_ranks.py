"""What ranks share and how: pieces, blocks of prompts, sums, failures, what a launcher says. Ranks are threads here."""

from __future__ import annotations

import copy
import json
import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from rekindle.core.random import pack_key
from rekindle.core.ranks import Alone, Ranks, Together, in_order, shared, sum_gradients, turns
from rekindle.core.types import ENTROPY_OLD, LOGP_OLD
from rekindle.errors import EngineDead, GuardStop, InputError
from rekindle.methods import grpo
from rekindle.tokens.policy import LMPolicy
from rekindle.tokens.rollouts import Example, Rollouts
from rekindle.tokens.sampling.base import Sampler, Sampling
from rekindle.tokens.sampling.local import LocalSampler
from rekindle.train import crew as crew_module
from rekindle.train import launch, runfile
from rekindle.train.config import Resolved
from rekindle.train.crew import cause, last_words, settled
from rekindle.train.events import Log, NoLog
from rekindle.train.folder import Folder
from rekindle.train.launch import as_rank, follow, placed, speaks
from rekindle.train.ranks import (
    PATIENCE,
    Place,
    Processes,
    RankLost,
    agreed,
    buckets,
    device_of,
    joined,
    kind_of,
    lost,
    meeting,
    noticed,
    place,
)
from rekindle.train.ranks import started as launched
from rekindle.train.run import Run
from rekindle.train.shared_sampler import LeaderSampler, SharedSampler, share
from rekindle.train.start import Asked, claim, prepare
from rekindle.train.together import refuse_drift, refuse_unlike, shared_columns
from tests.batches import make_batch
from tests.methods.stage import staged
from tests.ranks.team import Member, together
from tests.tiny_models import build, tokenizer

KEY = pack_key(3, 1, 0)
EXAMPLES = [Example(str(i), "abcdefgh"[: 2 + i % 4]) for i in range(7)]


@pytest.mark.parametrize("count", [1, 2, 3, 5])
@pytest.mark.parametrize("pieces", [1, 2, 3, 4, 7])
def test_every_piece_falls_to_one_rank_and_shares_make_turns_equal(count: int, pieces: int) -> None:
    for sharded in (False, True):
        dealt = together(count, lambda rank: turns(pieces, rank), sharded)
        busy = sorted(turn.piece for one in dealt for turn in one if not turn.idle)
        assert busy == list(range(pieces))
        sizes = {len(one) for one in dealt}
        assert sizes == {-(-pieces // count)} if sharded else max(sizes) - min(sizes) <= 1
        assert all(turn.piece < pieces for one in dealt for turn in one)


def test_results_come_back_in_the_order_of_the_pieces_and_idle_work_is_dropped() -> None:
    for sharded in (False, True):
        done: list[int] = []

        def work(piece: int, done: list[int] = done) -> int:
            done.append(piece)
            return 10 * piece

        got = together(3, lambda rank, work=work: shared(list(range(5)), work, rank), sharded)
        assert got == [[0, 10, 20, 30, 40]] * 3
        assert sorted(done) == ([0, 1, 2, 3, 4, 4] if sharded else [0, 1, 2, 3, 4])
    assert in_order([(1, "b"), (0, "a")], Alone()) == ["a", "b"]


def test_gradients_are_summed_and_missing_ones_count_as_zero() -> None:
    def work(rank: Member) -> list[Tensor | None]:
        mine = [torch.nn.Parameter(torch.zeros(2)) for _ in range(3)]
        mine[0].grad = torch.full((2,), 1.0 + rank.index)
        if rank.index == 1:
            mine[1].grad = torch.full((2,), 5.0)
        sum_gradients(mine, rank)
        return [p.grad for p in mine]

    for first, second, third in together(3, work):
        assert first is not None and first.tolist() == [6.0, 6.0]
        assert second is not None and second.tolist() == [5.0, 5.0] and third is None
    assert isinstance(Alone(), Together) and isinstance(Processes(0, 2), Together) and isinstance(Alone(), Ranks)
    assert Alone().norm([torch.tensor([3.0]), torch.tensor([[4.0]])]) == 5.0 and Alone().norm([]) == 0.0


def test_buckets_hold_tensors_of_one_kind_up_to_the_limit() -> None:
    sizes = [(3, torch.float32), (4, torch.float32), (4, torch.float32), (1, torch.float64), (50, torch.float64)]
    tensors = [torch.zeros(n, dtype=dtype) for n, dtype in sizes]
    assert [[t.numel() for t in bucket] for bucket in buckets(tensors, 8)] == [[3, 4], [4], [1], [50]]
    assert buckets([]) == []


@pytest.mark.parametrize(("prompts", "block", "count"), [(7, 2, 2), (7, 2, 3), (6, 3, 2), (5, 8, 2), (8, 1, 3)])
def test_prompts_are_dealt_in_whole_blocks(prompts: int, block: int, count: int) -> None:
    parts = [share(prompts, block, Member(i, count, None)) for i in range(count)]  # type: ignore[arg-type]
    assert [i for part in parts for i in range(part.start, part.stop)] == list(range(prompts))
    assert all(part.start % block == 0 or part.start == prompts for part in parts)
    blocks = [-(-(part.stop - part.start) // block) for part in parts]
    assert max(blocks) - min(blocks) <= 1


def local() -> LocalSampler:
    return LocalSampler(build("llama"), tokenizer())


def test_ranks_draw_token_for_token_what_one_draws() -> None:
    for settings in (
        Sampling(max_tokens=12, block=2),
        Sampling(max_tokens=12, block=8),
        Sampling(max_tokens=5, top_k=1),
    ):
        want = local().sample(EXAMPLES, 3, settings, KEY, 11)
        inner = [local(), local()]  # made here: the random state that makes a model is one for all threads

        def draw(rank: Member, settings: Sampling = settings, inner: list[LocalSampler] = inner) -> Rollouts:
            return SharedSampler(inner[rank.index], rank).sample(EXAMPLES, 3, settings, KEY, 11)

        for got in together(2, draw):
            assert isinstance(SharedSampler(inner[0], Alone()), Sampler)
            assert got.text == want.text and got.example == want.example and got.finish == want.finish
            assert torch.equal(got.ids, want.ids) and torch.equal(got.mask, want.mask)
            assert torch.equal(got.uid, want.uid) and torch.equal(got.group, want.group)
            assert torch.equal(got.logp_sampled, want.logp_sampled)
    assert len(set(want.text)) > 3


def test_a_leader_draws_for_all_and_its_failures_are_those_of_all() -> None:
    settings = Sampling(max_tokens=6)
    inner = local()
    want = inner.sample(EXAMPLES, 2, settings, KEY, 0)

    def draw(rank: Member) -> Rollouts:
        sampler = LeaderSampler(inner if rank.index == 0 else None, rank, 0.5)
        assert isinstance(sampler, Sampler) and sampler.apart == 0.5 and sampler.push() == {}
        sampler.rest()
        sampler.close()
        return sampler.sample(EXAMPLES, 2, settings, KEY, 0)

    assert all(got.text == want.text for got in together(2, draw))

    def fail(rank: Member) -> str:
        with pytest.raises(InputError, match="sample at least one") as failed:
            LeaderSampler(inner if rank.index == 0 else None, rank, None).sample([], 2, settings, KEY, 0)
        return str(failed.value)

    assert len(set(together(2, fail))) == 1


class OwnGuard(GuardStop):
    """A user's own class, which the process that watches the ranks cannot know."""


@pytest.mark.parametrize("kind", [InputError, GuardStop, EngineDead, OwnGuard])
def test_a_foreseen_failure_of_one_rank_is_that_of_all(kind: type[Exception]) -> None:
    def work(rank: Member) -> None:
        with pytest.raises(kind_of(kind()), match="rank 1 says so") as failed:
            agreed(rank, lambda: fail(rank.index))
        assert failed.type in (InputError, GuardStop, EngineDead)

    def fail(index: int) -> int:
        if index == 1:
            raise kind(f"rank {index} says so")
        return index

    together(3, work)
    assert agreed(Alone(), lambda: 7) == [7] and together(2, lambda r: agreed(r, lambda: r.index)) == [[0, 1]] * 2


def test_an_engine_that_dies_as_it_rests_before_an_update_ends_all_ranks_alike() -> None:
    def rest(index: int) -> None:
        if index == 1:
            raise EngineDead("the engine of rank 1 does not rest")

    def work(rank: Member) -> None:
        run: Any = object.__new__(Run)  # of a run, what comes before the update
        run.ranks, run.sampler = rank, SimpleNamespace(rest=lambda: rest(rank.index))
        with pytest.raises(EngineDead, match="of rank 1 does not rest"):
            run.descend(make_batch(), grpo.method(), 0)

    together(2, work)


def test_columns_by_ranks_are_bit_for_bit_those_of_one() -> None:
    stage, batch = staged("grpo", torch.float32)
    needs = (LOGP_OLD, ENTROPY_OLD)
    want = stage.policy.columns(batch, needs, {}, micro_batch=7)
    twins = [LMPolicy(copy.deepcopy(stage.policy.model)) for _ in range(2)]
    got = together(2, lambda rank: shared_columns(twins[rank.index], batch, needs, {}, 7, rank))
    for one in got:
        assert one.keys() == want.keys() and all(torch.equal(one[name], want[name]) for name in want)
    assert want["logp_old"].abs().max() > 0.1


def test_ranks_that_differ_are_stopped_with_the_tensor_named() -> None:
    def drift(rank: Member, where: int) -> None:
        named = [(f"layer.{i}", torch.full((2,), float(i))) for i in range(6)]
        named[where][1][0] += 1e-7 * (1 + where) * rank.index
        for step in range(3):
            refuse_drift(named, step, 0, 1.5, rank)

    with pytest.raises(GuardStop, match=r"after update 0 of step 1 the sum of 'layer\.5'"):
        together(2, lambda rank: drift(rank, 5))
    for shares in (False, True):
        with pytest.raises(GuardStop, match=r"'gradient norm' is 0\.0, 1\.0, 2\.0 on ranks 0 to 2"):
            together(3, lambda rank: refuse_drift([], 0, 0, float(rank.index), rank), shares)
    together(2, lambda rank: refuse_drift([("share", torch.ones(2) * rank.index)], 0, 0, 1.5, rank), sharded=True)
    together(2, lambda rank: refuse_drift([], 0, 0, math.nan, rank))
    batch = make_batch()
    together(2, lambda rank: refuse_unlike(batch, 0, rank))
    with pytest.raises(GuardStop, match="in the batch of step 4 the sum of 'score'"):
        together(2, lambda rank: refuse_unlike(replace(batch, score=batch.score + rank.index), 4, rank))


def environment(index: int, count: int) -> dict[str, str]:
    return {"RANK": str(index), "WORLD_SIZE": str(count), "MASTER_ADDR": "here", "MASTER_PORT": "1"}


def test_a_launcher_says_which_rank_this_is() -> None:
    assert place(environment(1, 2)) == Place(1, 2, 1) and place(environment(3, 4) | {"LOCAL_RANK": "1"}) == Place(
        3, 4, 1
    )
    assert place({}) is None and place(environment(0, 1)) is None
    assert launched({}) is None and launched(environment(0, 1)) == Place(0, 1, 0)
    assert speaks({}) and speaks(environment(0, 2)) and not speaks(environment(1, 2))
    assert not speaks(environment(0, 2) | {"REKINDLE_TOLD": "x"})
    assert device_of("cuda:1", None) == "cuda:1" and device_of("cpu", Place(0, 2, 0)) == "cpu"
    with pytest.raises(InputError, match="names one GPU for 2 ranks: set device=cuda"):
        device_of("cuda:1", Place(0, 2, 0))


def test_each_rank_takes_a_gpu_of_its_own_and_no_device_that_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert [device_of(name, Place(1, 2, 1)) for name in ("cuda", "auto", "cpu")] == ["cuda:1", "cuda:1", "cpu"]
    with pytest.raises(InputError, match=r"local rank 2 has no GPU of its own \(2 here\)"):
        device_of("cuda", Place(2, 3, 2))
    for name in ("gpu", "cdua", "meta"):
        with pytest.raises(InputError, match=f"unknown device '{name}'"):
            device_of(name, Place(1, 2, 1))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert device_of("auto", Place(1, 2, 1)) == "auto"
    with pytest.raises(InputError, match=r"device 'cuda' is not there \(CUDA devices: 0\)"):
        device_of("cuda", Place(1, 2, 1))


def test_ranks_need_processes_and_shares_need_ranks() -> None:
    with joined(1, "cpu", False) as ranks:
        assert isinstance(ranks, Alone)
    for count, sharded, said in ((2, False, "torchrun --nproc-per-node 2"), (1, True, "add --ranks N")):
        with pytest.raises(InputError, match=said), joined(count, "cpu", sharded):
            pass
    with pytest.raises(RankLost, match=r"rank 3 lost the other ranks \(connection closed\)"), lost(3):
        raise RuntimeError("connection closed\nby a peer")


def test_what_torch_says_of_a_rank_that_is_gone_is_a_lost_rank_wherever_it_is_said() -> None:
    gone = (
        RuntimeError("[/torch/gloo/gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:44957"),
        RuntimeError("Connection reset by peer"),
        dist.DistBackendError("NCCL communicator was aborted on rank 0"),
    )
    for error in gone:
        with pytest.raises(RankLost, match="rank 1 lost the other ranks"), noticed(Processes(1, 2)):
            raise error
    own = (RuntimeError("shapes differ"), GuardStop("NCCL error seen"), EngineDead("Connection closed by peer"))
    for ranks, others in ((Processes(1, 2), own), (Alone(), gone)):
        for error in others:
            with pytest.raises(RuntimeError) as kept, noticed(ranks):
                raise error
            assert kept.value is error


def asked(*sets: str, **flags: Any) -> Any:
    return prepare(Asked("grpo", {"task": "digit_sum", **flags}, sets))[0]


def test_pieces_are_made_small_enough_for_the_ranks_and_it_is_said() -> None:
    resolved = asked(ranks=4, **{"rollout.prompts": 8, "rollout.group": 8})
    assert resolved.config.rollout.block == 2 and resolved.origin["rollout.block"] == "ranks"
    rows = 64 // resolved.options["descent.minibatches"]
    assert resolved.options["descent.micro_batch"] == rows // 4 and resolved.origin["descent.micro_batch"] == "ranks"
    assert [n for n in resolved.notes if "each of 4 ranks has work" in n and n.startswith("rollout.block=2")]
    kept = asked("rollout.block=8", "descent.micro_batch=64", ranks=4)
    assert kept.config.rollout.block == 8 and kept.options["descent.micro_batch"] == 64
    assert len([n for n in kept.notes if "leaves some of the 4 ranks without work" in n]) == 2
    alone = asked()
    assert alone.config.rollout.block == 8 and not alone.notes
    recorded = placed(replace(alone, config=replace(alone.config, ranks=4)), None, recorded=True)
    assert recorded.options == alone.options | {"ranks": 4}


def test_a_run_that_goes_on_stays_cut_as_it_was_whatever_the_number_of_ranks(tmp_path: Path) -> None:
    def going_on(ranks: int, *sets: str) -> Resolved:
        return prepare(Asked("grpo", {"task": "digit_sum", "out": str(tmp_path), "ranks": ranks}, sets), resume=True)[0]

    for began, now in (1, 4), (4, 1), (4, 2):
        assert asked(ranks=began).config.rollout.block != asked(ranks=now).config.rollout.block
        (tmp_path / "run.toml").write_text(runfile.to_toml(asked(ranks=began, out=str(tmp_path))))
        claim(Folder(tmp_path), going_on(now), resume=True)
        with pytest.raises(InputError, match=r"changed options: rollout\.block \(\d -> 3\)"):
            claim(Folder(tmp_path), going_on(now, "rollout.block=3"), resume=True)
    assert not [note for note in going_on(1).notes if "instead of" in note]
    (tmp_path / "run.toml").unlink()
    assert going_on(4).options == asked(ranks=4, out=str(tmp_path)).options, "nothing has begun there"


def test_the_launcher_decides_how_many_ranks_there_are() -> None:
    resolved = placed(asked(), Place(1, 3, 1))
    assert resolved.config.ranks == 3 and resolved.origin["ranks"] == "launcher"
    with pytest.raises(InputError, match="--ranks 2, but 3 processes were started"):
        placed(asked(ranks=2), Place(1, 3, 1))
    assert placed(asked(ranks=3), Place(1, 3, 1)).origin["ranks"] == "flag"


def test_ranks_meet_in_a_file_for_as_long_as_they_wait_for_each_other(tmp_path: Path) -> None:
    file = tmp_path / "a?b#c"
    met = meeting(Place(1, 2, 1), {"REKINDLE_MEETING": str(file)})
    assert (met["rank"], met["world_size"], met["store"].timeout) == (1, 2, PATIENCE)
    met["store"].set("word", "said")
    assert b"said" in file.read_bytes() and meeting(Place(1, 2, 1), {}) == {}


def test_a_launcher_of_one_process_is_not_contradicted_either(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in environment(0, 1).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match="--ranks 2, but 1 process was started: drop --ranks, or start 2"):
        asked(ranks=2)
    assert asked().config.ranks == 1 and asked(ranks=1).origin["ranks"] == "flag"
    recorded = prepare(Asked("grpo", {"task": "digit_sum"}, toml={"ranks": 2}))[0]
    assert recorded.config.ranks == 1 and recorded.origin["ranks"] == "launcher"


def test_the_first_cause_is_told() -> None:
    lost_ = ("RankLost", "rank 0 lost the other ranks")
    both = cause([1, 1], {0: lost_, 1: ("GuardStop", "loss nan")})
    assert type(both) is GuardStop and str(both) == "loss nan"
    killed = cause([1, -9], {0: lost_})
    assert type(killed) is EngineDead and "rank 1 was killed (SIGKILL)" in str(killed) and "--resume" in str(killed)
    assert isinstance(cause([0, 1], {}), SystemExit) and isinstance(cause([1, 0], {0: lost_}), RankLost)


def sleepers(count: int) -> list[subprocess.Popen[bytes]]:
    """Ranks that are busy and exchange nothing."""
    sleep = [sys.executable, "-c", "import time; time.sleep(600)"]
    return [subprocess.Popen(sleep, start_new_session=True) for _ in range(count)]


def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds that `settled` is ready to wait, in turn; none passes while a rank sleeps."""
    asked: list[float] = []
    monkeypatch.setattr(crew_module, "wait", lambda crew, seconds: asked.append(seconds))
    return asked


def test_the_others_get_long_only_where_all_that_ended_lost_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for kind, long in (None, 0), ("GuardStop", 0), ("RankLost", 1):
        crew, asked, folder = sleepers(2), waits(monkeypatch), tmp_path / str(kind)
        folder.mkdir()
        crew[1].kill()
        crew[1].wait()
        if kind is not None:
            (folder / "rank-0001.json").write_text(json.dumps([kind, "its words"]))
        assert settled(crew, folder) == [0, -signal.SIGKILL]
        assert asked.count(10 * crew_module.GRACE) == long, kind
        crew[0].wait()  # it was stopped


def test_a_killed_rank_is_noticed_soon_while_the_others_are_busy(tmp_path: Path) -> None:
    crew, began = sleepers(2), time.monotonic()
    crew[1].kill()
    crew[1].wait()
    codes = settled(crew, tmp_path)
    assert time.monotonic() - began < 10 * crew_module.GRACE, "not the time that only a lost rank's witness gets"
    assert "rank 1 was killed (SIGKILL)" in str(cause(codes, {})) and crew[0].poll() == -signal.SIGTERM


def test_a_rank_leaves_its_last_sentence_for_who_watches_it(tmp_path: Path) -> None:
    told = {"REKINDLE_TOLD": str(tmp_path), "REKINDLE_PARENT": str(os.getppid())}
    with pytest.raises(SystemExit), as_rank(1, told, sys.exit):
        raise InputError("no such file: give another")
    assert last_words(tmp_path) == {1: ("InputError", "no such file: give another")}
    assert json.loads((tmp_path / "rank-0001.json").read_text())[0] == "InputError"
    with pytest.raises(SystemExit), as_rank(0, told, sys.exit):
        raise OwnGuard("enough")
    assert last_words(tmp_path)[0] == ("GuardStop", "enough")
    assert type(cause([1, 0], {0: last_words(tmp_path)[0]})) is GuardStop
    with pytest.raises(InputError), as_rank(1, {}):
        raise InputError("said by whoever runs it")


def test_the_command_of_a_rank_ends_at_once_with_its_code_and_what_it_wrote() -> None:
    code = (
        "import atexit, sys\nfrom rekindle.cli.main import main\natexit.register(print, 'taken down')\n"
        "print('said', end='')\nmain(sys.argv[1:])"
    )
    ends = {}
    for count in ("1", "2"):
        command = [sys.executable, "-c", code, "show", "no_such_method"]
        done = subprocess.run(command, env=os.environ | {"WORLD_SIZE": count}, capture_output=True, check=False)
        ends[count] = (done.returncode, done.stdout, b"no_such_method" in done.stderr)
    assert ends == {"1": (2, b"saidtaken down\n", True), "2": (2, b"said", True)}


def test_a_rank_that_does_not_write_keeps_no_record() -> None:
    log = NoLog()
    assert isinstance(log, Log)
    assert log.write("step", 3, {"loss": 1.0}, time={"seconds": 2.0})["time"] == {"seconds": 2.0}
    assert log.resume(4) == {"kind": "resume", "step": 4, "time": {}} and log.sync() is None


def test_a_rank_without_its_parent_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "kill", lambda pid, number: sent.append((pid, number)))
    parents = iter([5, 5, 1])
    monkeypatch.setattr(os, "getppid", lambda: next(parents))
    waited: list[float] = []
    follow(5, waited.append)
    assert sent == [(os.getpid(), signal.SIGKILL)] and len(waited) == 2


@pytest.mark.parametrize(("said", "threads"), [("2,1", 2), ("1", 1), ("", None), ("many", None)])
def test_a_probe_takes_the_threads_of_a_rank_however_they_are_said(
    monkeypatch: pytest.MonkeyPatch, said: str, threads: int | None
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", said)
    before = torch.get_num_threads()
    with launch.threads_of(2):
        assert torch.get_num_threads() == (before if threads is None else threads)
    assert torch.get_num_threads() == before
