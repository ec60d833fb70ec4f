"""What `import-config --from trl` makes of counts, adapters, rewards and schedules, and what it says of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rekindle.core.schedules import Warmup
from rekindle.errors import InputError
from rekindle.interop.explain.written import Imported, imported
from rekindle.methods.cispo import CappedWeight

CONSTANT = "lr_scheduler_type: constant\n"
CISPO = "loss_type: cispo\nepsilon_high: 5\n"


def trl(folder: Path, lines: str) -> Imported:
    (folder / "x.yaml").write_text(lines)
    return imported(str(folder / "x.yaml"), "trl")


def told(found: Imported, start: str, *words: str) -> bool:
    """Whether a note begins with `start` and has all the words."""
    return any(note.startswith(start) and all(word in note for word in words) for note in found.notes)


@pytest.mark.parametrize(
    ("asked", "steps", "noted"), [(200, 25, "takes 8 of them"), (201, 25, "25.125 steps, 25 here")]
)
def test_updates_are_counted_over_iterations_where_no_size_is_given(
    folder: Path, asked: int, steps: int, noted: str
) -> None:
    found = trl(folder, f"max_steps: {asked}\nnum_iterations: 2\n{CONSTANT}")
    assert found.resolved.config.steps == steps and found.resolved.record.descent.epochs == 2
    assert told(found, "means", noted)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


@pytest.mark.parametrize("said", ["-1", "0", "null"])
def test_no_max_steps_is_not_said(folder: Path, said: str) -> None:
    found = trl(folder, f"max_steps: {said}\nbeta: 0.1\n{CONSTANT}")
    assert "steps" not in found.text.replace("minibatches", "").replace("max_steps", "")


@pytest.mark.parametrize(
    ("lines", "rank", "alpha"),
    [
        ("use_peft: true\n", 16, 32.0),
        ("use_peft: true\nlora_r: 8\n", 8, 32.0),
        ("use_peft: true\nlora_alpha: 4\n", 16, 4.0),
        ("lora_r: 8\nlora_alpha: 4\n", 0, None),
        ("use_peft: false\nlora_r: 8\n", 0, None),
    ],
)
def test_adapters_are_there_with_use_peft_only(folder: Path, lines: str, rank: int, alpha: float | None) -> None:
    found = trl(folder, CONSTANT + lines)
    assert (found.resolved.config.lora.rank, found.resolved.config.lora.alpha) == (rank, alpha)
    assert told(found, "not understood: lora_r=8, line", "use_peft") == ("lora_r" in lines and not rank)
    assert told(found, "means", "no dropout") == bool(rank)


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text("def short(task, text):\n    return 1.0\n")
    return tmp_path


def test_a_grading_beside_a_file_is_refused_with_its_weight(own: Path) -> None:
    lines = "reward_funcs: [accuracy_reward, mine.short]\nreward_weights: [0.7, 0.3]\n"
    found = trl(own, CONSTANT + lines)
    assert found.resolved.config.reward == ("mine.py:short=0.3",)
    assert told(found, "not understood: reward_funcs", "accuracy_reward", "0.7", "line 2")
    assert not told(found, "means", "accuracy_reward")


@pytest.mark.parametrize(
    ("lines", "start"),
    [
        ("reward_weights: [2.0]\n", "means something else here: reward_weights=2 "),
        ("reward_weights: [2.0]\nscale_rewards: none\n", "not understood: reward_weights=[2.0], line 3"),
        ("reward_weights: [-1]\n", "not understood: reward_weights"),
    ],
)
def test_a_weight_on_the_grading_is_said_where_it_matters(folder: Path, lines: str, start: str) -> None:
    assert told(trl(folder, f"{CONSTANT}reward_funcs: [accuracy_reward]\n{lines}"), start)
    plain = trl(folder, f"{CONSTANT}reward_funcs: [accuracy_reward]\nreward_weights: [1.0]\n")
    assert not any("reward_weights" in note for note in plain.notes)


def test_a_penalty_alone_is_said_to_stand_beside_the_grading(folder: Path) -> None:
    lines = "max_completion_length: 1280\nreward_funcs: get_soft_overlong_punishment\n"
    assert told(trl(folder, CONSTANT + lines), "means", "no other reward")


@pytest.mark.parametrize("lines", [CISPO, "loss_type: sapo\n"])
def test_a_ratio_by_response_is_refused_where_the_loss_has_one_a_token(folder: Path, lines: str) -> None:
    found = trl(folder, f"{CONSTANT}{lines}importance_sampling_level: sequence\n")
    assert told(found, "not understood: importance_sampling_level=sequence, line")
    assert not told(trl(folder, f"{CONSTANT}{lines}importance_sampling_level: token\n"), "not understood")


@pytest.mark.parametrize(
    ("lines", "fraction"),
    [
        ("max_steps: 100\nwarmup_steps: 20\n", 0.2),
        ("warmup_steps: 0.25\n", 0.25),
        ("warmup_steps: 0\nwarmup_ratio: 0.5\n", 0.5),
    ],
)
def test_a_warm_up_is_a_share_of_the_run(folder: Path, lines: str, fraction: float) -> None:
    found = trl(folder, f"beta: 0.1\nlr_scheduler_type: cosine\n{lines}")
    lr = found.resolved.record.descent.lr
    assert isinstance(lr, Warmup) and lr.fraction == fraction


def test_a_warm_up_that_cannot_be_kept_is_said(folder: Path) -> None:
    found = trl(folder, "beta: 0.1\nlr_scheduler_type: cosine\nwarmup_steps: 50\n")
    assert told(found, "not understood: warmup_steps=50, line 3", "max_steps")
    assert not isinstance(found.resolved.record.descent.lr, Warmup)
    assert told(trl(folder, "warmup_steps: 50\n"), "not understood: warmup_steps=50"), "without a scheduler, too"


@pytest.mark.parametrize("name", ["adamw_bnb_8bit", "sgd", "adamw_8bit", "paged_adamw"])
def test_another_optimiser_is_refused(folder: Path, name: str) -> None:
    assert told(trl(folder, f"{CONSTANT}optim: {name}\n"), f"not understood: optim={name}, line 2")
    assert not told(trl(folder, f"{CONSTANT}optim: adamw_torch_fused\n"), "not understood")


def test_what_no_method_has_beside_the_rest_is_left_out_in_those_words(folder: Path) -> None:
    found = trl(folder, f"{CISPO}lr_scheduler_type: cosine\n")
    assert isinstance(found.resolved.record.objective, CappedWeight)
    assert told(found, "left out: lr_scheduler_type=cosine", "no method here has it beside the rest")
    assert not told(found, "not understood")


@pytest.mark.parametrize(("said", "ours"), [(-1, 0), (0, 0)])
def test_top_k_of_all_is_0(folder: Path, said: int, ours: int) -> None:
    assert trl(folder, f"{CONSTANT}top_k: {said}\n").resolved.config.rollout.top_k == ours


def test_a_truncated_sampler_is_refused_by_the_file(folder: Path) -> None:
    with pytest.raises(InputError, match=r"x\.yaml: .*rollout.top_k=0"):
        trl(folder, f"{CONSTANT}top_k: 20\n")


BAD: list[tuple[str, str]] = [
    ("reward_funcs: accuracy_reward\nreward_weights: [abc]\n", "line 3: reward_weights is a list of finite numbers"),
    ("reward_funcs: accuracy_reward\nreward_weights: [1, 2]\n", "line 3: reward_weights is a list of 1 numbers"),
    ("temperature: 0\n", "line 2: temperature is a number above 0"),
    ("top_p: 1.5\n", "line 2: top_p is a number above 0, up to 1"),
    ("max_completion_length: 1280.5\n", "line 2: max_completion_length is a whole number"),
    ("num_generations: 2.5\n", "line 2: num_generations is a whole number"),
    ("seed: -3\n", "line 2: seed is a whole number from 0 up"),
    ("max_steps: abc\nwarmup_steps: 10\n", "line 2: max_steps is a number"),
    ("use_peft: true\nlora_alpha: 0\n", "line 3: lora_alpha is a number above 0"),
    ("generation_batch_size: 20\n", "line 2: generation_batch_size is no fit"),
]


@pytest.mark.parametrize(("lines", "message"), BAD)
def test_a_bad_number_is_named_with_file_line_and_remedy(folder: Path, lines: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        trl(folder, CONSTANT + lines)
    assert message in str(caught.value) and str(caught.value).endswith("correct it")


@pytest.mark.parametrize(
    "more", ["warmup_steps: 20\n", "warmup_steps: 30\n", "warmup_ratio: 1.0\n", "warmup_steps: -1\n"]
)
def test_a_warm_up_longer_than_the_run_is_named_with_its_line(folder: Path, more: str) -> None:
    with pytest.raises(InputError, match=rf"x.yaml, line 3: {more.partition(':')[0]} is .*: correct it"):
        trl(folder, f"lr_scheduler_type: cosine\nmax_steps: 20\n{more}")


def test_a_refused_name_is_listed_once(folder: Path) -> None:
    found: Any = trl(folder, f"{CONSTANT}lora_r: 4\nmask_truncated_completions: true\noptim: sgd\n")
    for name in ("lora_r", "mask_truncated_completions", "optim"):
        assert sum(name in note for note in found.notes) == 1, name
