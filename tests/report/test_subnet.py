"""Sparsity, rank and overlap of updates: the source's numbers and its traps, on small folders of safetensors."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from rekindle.errors import InputError
from rekindle.report.delta import intersection, matrices, matrix_rank, overlap
from rekindle.report.origin import origin, saved_options, tuned_folder
from rekindle.report.subnet import Subnet, kind_of, layer_of, measure
from rekindle.report.weights import Weights

NAME = "model.layers.0.mlp.up_proj.weight"


def folder(path: Path, tensors: dict[str, Tensor], tie: bool | None = None) -> Path:
    path.mkdir(parents=True)
    save_file({name: tensor.clone() for name, tensor in tensors.items()}, path / "model.safetensors")
    if tie is not None:
        (path / "config.json").write_text(json.dumps({"tie_word_embeddings": tie}))
    return path


def compared(tmp: Path, *models: dict[str, Tensor], tie: bool | None = None, atol: float = 1e-5) -> Subnet:
    places = [folder(tmp / str(i), tensors, tie) for i, tensors in enumerate(models)]
    with Weights(places[0]) as base, Weights(places[1]) as tuned, Weights(places[-1]) as other:
        return measure(base, tuned, other if len(models) > 2 else None, atol=atol)


def random(*shape: int, seed: int = 0, scale: float = 0.02) -> Tensor:
    return scale * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_nothing_changed(tmp_path: Path) -> None:
    weight = random(20, 30)
    found = compared(tmp_path, {NAME: weight}, {NAME: weight}, {NAME: weight})
    for lens in found.lenses.values():
        assert lens.total.sparsity == (1.0,) * 5 and lens.total.largest == 0
        assert lens.rank is not None and vars(lens.rank) == {"share": 0.0, "stable": 0.0, "energy": 0.0}
        empty = lens.overlaps[0.0]
        assert all(value is None for value in vars(empty).values()), "the overlap of empty sets is undefined"


def test_k_changed_entries(tmp_path: Path) -> None:
    weight = random(20, 30)
    moved = weight.clone()
    moved.view(-1)[torch.randperm(600, generator=torch.Generator().manual_seed(1))[:60]] += 1e-2
    found = compared(tmp_path, {NAME: weight}, {NAME: moved}, atol=5e-3)
    assert found.tolerances == (0.0, 1e-8, 1e-6, 1e-5, 1e-4, 5e-3)
    for lens in found.lenses.values():
        assert lens.total.sparsity == (0.9,) * 6
        assert lens.total.largest == pytest.approx(1e-2, rel=0.02)


def test_the_spacing_of_bf16(tmp_path: Path) -> None:
    before = torch.tensor([1.0, 1.0, 0.02, 0.02]).bfloat16().float()
    after = before + torch.tensor([0.003, 0.005, 5e-5, 7e-5])
    found = compared(tmp_path, {NAME: before}, {NAME: after})
    assert found.lenses["bf16"].total.within[0] == 2 and found.lenses["fp32"].total.within[0] == 0
    assert found.lenses["fp32"].total.within[-1] == 2, "two moved less than 1e-4"


@pytest.mark.parametrize(
    ("reach", "bf16", "within", "fp32"), [(1e-6, 97.7, None, 100), (1e-5, 85.5, 91.0, 100), (1e-4, 39.0, None, 10)]
)
def test_a_dense_update_looks_sparse_in_bf16(
    tmp_path: Path, reach: float, bf16: float, within: float | None, fp32: float
) -> None:
    """Every fp32 weight of N(0, .02^2) moves by U(-x, x): the source's table."""
    weight = random(300000)
    step = reach * (2 * torch.rand(300000, generator=torch.Generator().manual_seed(1)) - 1)
    found = compared(tmp_path, {NAME: weight}, {NAME: weight + step})
    near = found.lenses["bf16"].total.sparsity
    assert 100 * near[0] == pytest.approx(bf16, abs=0.4)
    assert within is None or 100 * near[3] == pytest.approx(within, abs=0.4)
    exact = found.lenses["fp32"].total.sparsity
    # Near |w| = .02 the spacing of fp32 is 1.9e-9, so that steps of 1e-6 round to none in a thousandth of the entries.
    assert exact[0] < 0.005 and 100 * exact[3] == pytest.approx(fp32, abs=0.4)


def test_sparsity_rises_with_tolerance_and_coarseness(tmp_path: Path) -> None:
    weight = random(50, 60)
    found = compared(tmp_path, {NAME: weight}, {NAME: weight + 1e-5 * random(50, 60, seed=2, scale=1.0)})
    for lens in found.lenses.values():
        assert list(lens.total.sparsity) == sorted(lens.total.sparsity)
    assert found.lenses["bf16"].total.sparsity[0] >= found.lenses["fp32"].total.sparsity[0]


def test_overlap_of_the_worked_sets() -> None:
    one, two = torch.zeros(20, dtype=torch.bool), torch.zeros(20, dtype=torch.bool)
    one[0:4], two[2:8] = True, True
    found = overlap([intersection(one, two)])
    assert (found.o1, found.o2, found.jaccard) == pytest.approx((0.5, 1 / 3, 0.25))
    assert (found.chance_o1, found.chance_o2) == pytest.approx((0.3, 0.2))
    assert (found.tensor_o1, found.tensor_o2) == pytest.approx((0.3, 0.2)), "one tensor: both chance levels agree"


def test_chance_by_tensor_knows_the_densities() -> None:
    found = overlap([(100, 90, 90, 81), (100, 10, 10, 1)])
    assert found.o1 == pytest.approx(0.82) and found.chance_o1 == pytest.approx(0.5)
    assert found.tensor_o1 == pytest.approx((100 * 0.9 * 0.9 + 100 * 0.1 * 0.1) / 100)


def test_random_masks_reach_chance() -> None:
    seeds = torch.Generator().manual_seed(0)
    one, two = (torch.rand(40000, generator=seeds) < density for density in (0.3, 0.1))
    found = overlap([intersection(one, two)])
    assert found.o1 == pytest.approx(0.1, abs=3 * (0.09 / 12000) ** 0.5)
    assert found.o2 == pytest.approx(0.3, abs=3 * (0.21 / 4000) ** 0.5)


def test_one_empty_set() -> None:
    found = overlap([(20, 0, 5, 0)])
    assert (found.o1, found.o2, found.jaccard, found.chance_o1, found.chance_o2) == (None, 0.0, 0.0, None, 0.0)


def test_overlap_with_another_run(tmp_path: Path) -> None:
    base, other_name = torch.zeros(4, 5), "model.layers.1.mlp.up_proj.weight"
    one, two = base.clone(), base.clone()
    one.view(-1)[:4], two.view(-1)[2:8] = 1.0, 2e-6
    still = random(3, 3)
    found = compared(
        tmp_path, {NAME: base, other_name: still}, {NAME: one, other_name: still}, {NAME: two, other_name: still}
    )
    seen = found.lenses["fp32"].overlaps
    assert (seen[0.0].o1, seen[0.0].o2) == pytest.approx((0.5, 1 / 3))
    assert (seen[1e-5].o1, seen[1e-5].o2) == (0.0, None), "changes of 2e-6 are none at 1e-5"
    assert seen[0.0].chance_o1 == pytest.approx(6 / 29) and seen[0.0].tensor_o1 == pytest.approx(0.3)


def test_ranks() -> None:
    one = torch.outer(torch.ones(6), torch.arange(1.0, 5.0))
    found = matrix_rank(one)
    assert (found.share, found.stable, found.energy) == pytest.approx((0.25, 1.0, 1.0))
    full = matrix_rank(torch.eye(10))
    assert (full.share, full.stable, full.energy) == pytest.approx((1.0, 10.0, 9.0))
    assert len(list(matrices(torch.zeros(3, 4, 5)))) == 3, "experts slice by slice"


def test_sparse_is_not_low_rank() -> None:
    seeds = torch.Generator().manual_seed(0)
    for density, low, high in ((0.01, 0.88, 0.98), (0.05, 1.0, 1.0)):
        delta = torch.randn(200, 300, generator=seeds) * (torch.rand(200, 300, generator=seeds) < density)
        assert low <= matrix_rank(delta).share <= high


def test_a_merged_lora_is_called_so(tmp_path: Path) -> None:
    weight, update = random(40, 40), random(40, 2, seed=1) @ random(2, 40, seed=2)
    found = compared(tmp_path, {NAME: torch.zeros(40, 40)}, {NAME: update})
    assert found.low_rank and not found.sparse_and_full
    assert not compared(tmp_path / "full", {NAME: weight}, {NAME: random(40, 40, seed=3)}).low_rank


def test_norms_have_no_rank_and_kinds_are_told_apart() -> None:
    kinds = {
        "model.layers.3.self_attn.q_proj.weight": "q",
        "model.layers.3.self_attn.k_proj.bias": "k",
        "model.layers.3.self_attn.v_proj.weight": "v",
        "model.layers.3.self_attn.o_proj.weight": "o",
        "model.layers.3.self_attn.q_norm.weight": "norm",
        "model.layers.3.mlp.gate_proj.weight": "gate",
        "model.layers.11.mlp.up_proj.weight": "up",
        "model.layers.11.mlp.down_proj.weight": "down",
        "model.layers.11.input_layernorm.weight": "norm",
        "model.embed_tokens.weight": "embed",
        "transformer.wpe.weight": "embed",
        "transformer.h.2.attn.c_attn.weight": "other",
        "transformer.h.2.attn.c_proj.weight": "o",
        "transformer.h.2.mlp.c_proj.weight": "down",
        "transformer.h.2.ln_1.weight": "norm",
        "gpt_neox.layers.0.attention.dense.weight": "o",
        "gpt_neox.embed_in.weight": "embed",
        "embed_out.weight": "other",
        "lm_head.weight": "other",
        "model.norm.weight": "norm",
    }
    assert {name: kind_of(name) for name in kinds} == kinds
    assert [layer_of(name) for name in list(kinds)[6:8]] == [11, 11]
    assert layer_of("transformer.h.2.ln_1.weight") == 2 and layer_of("h.2.ln_1.weight") == 2
    assert layer_of("model.norm.weight") is None


def test_pooled_and_not_averaged(tmp_path: Path) -> None:
    small, large = torch.zeros(2, 2), torch.zeros(10, 10)
    other = "model.layers.0.self_attn.q_proj.weight"
    found = compared(tmp_path, {NAME: small, other: large}, {NAME: small + 1, other: large})
    lens = found.lenses["fp32"]
    assert lens.total.sparsity[0] == pytest.approx(100 / 104)
    assert lens.by(layer_of)[0].sparsity[0] == pytest.approx(100 / 104)
    assert lens.nonzero_by_layer(0) == {0: 0.5}, "the paper's script averages over tensors"
    assert {kind: count.sparsity[0] for kind, count in lens.by(kind_of).items()} == {"up": 0.0, "q": 1.0}


def test_tied_heads_count_once(tmp_path: Path) -> None:
    embed, head = "model.embed_tokens.weight", "lm_head.weight"
    before, after = random(6, 4), random(6, 4, seed=1)
    tied = compared(tmp_path / "tied", {embed: before, head: before.clone()}, {embed: after, head: after.clone()})
    assert tied.skipped == {head: f"equal to {embed} in every model, which is counted"}
    assert tied.lenses["fp32"].total.size == 24
    by_config = compared(tmp_path / "config", {embed: before, head: after}, {embed: after, head: after}, tie=True)
    assert by_config.skipped == {head: f"tied to {embed}, which is counted"}
    untied = compared(tmp_path / "untied", {embed: before, head: before.clone()}, {embed: after, head: before.clone()})
    assert untied.skipped == {} and untied.lenses["fp32"].total.size == 48


def test_mismatches_are_listed_and_skipped(tmp_path: Path) -> None:
    embed, buffer = "model.embed_tokens.weight", "model.layers.0.self_attn.rotary_emb.inv_freq"
    base = {
        NAME: random(3, 3),
        embed: random(6, 4),
        "only.weight": random(2),
        buffer: random(2),
        "ids": torch.arange(3),
    }
    tuned = {NAME: random(3, 3), embed: random(8, 4), buffer: random(2, seed=1), "ids": torch.arange(3)}
    found = compared(tmp_path, base, tuned)
    assert found.skipped[embed] == "shapes differ: 6x4 and 8x4"
    assert found.skipped["only.weight"].startswith("not in ") and found.skipped["ids"] == "no parameter (I64)"
    assert buffer in found.skipped and list(found.lenses["fp32"].tensors) == [NAME]
    with pytest.raises(InputError, match="share no tensor of one shape"):
        compared(tmp_path / "none", {NAME: random(3, 3)}, {NAME: random(4, 4)})


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_a_broken_model_is_an_error(tmp_path: Path, broken: float) -> None:
    with pytest.raises(InputError, match=r"up_proj.weight' holds NaN or infinity"):
        compared(tmp_path, {NAME: torch.zeros(2, 2)}, {NAME: torch.tensor([[0.0, broken], [0.0, 0.0]])})


def test_adapters_are_refused(tmp_path: Path) -> None:
    place = folder(tmp_path / "lora", {NAME: random(2, 2)})
    (place / "adapter_config.json").write_text("{}")
    with pytest.raises(InputError, match="merge it first"):
        Weights(place)


def test_folders_without_a_model_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is no folder"):
        Weights(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"no \*.safetensors"):
        Weights(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"not one")
    with pytest.raises(InputError, match="no readable safetensors"):
        Weights(tmp_path)


def test_shards_and_bf16_weights(tmp_path: Path) -> None:
    base = folder(
        tmp_path / "base",
        {NAME: random(3, 3).bfloat16(), "model.layers.10.a": random(2), "model.layers.2.a": random(2)},
    )
    tuned = tmp_path / "tuned"
    tuned.mkdir()
    save_file({NAME: random(3, 3).bfloat16()}, tuned / "model-00001-of-00002.safetensors")
    save_file(
        {"model.layers.10.a": random(2), "model.layers.2.a": random(2)}, tuned / "model-00002-of-00002.safetensors"
    )
    with Weights(base) as one, Weights(tuned) as two:
        assert one.names == two.names and one.names[1:] == ("model.layers.2.a", "model.layers.10.a")
        assert (one.dtype(NAME), one.shape(NAME)) == ("BF16", (3, 3))
        assert measure(one, two, ranks=False).lenses["fp32"].total.sparsity[0] == 1


RUN = """
[run]
record_hash = "x"
unset = []
[run.versions]
[run.options]
method = "mine"
task = "reduce"
steps = 120
"rollout.prompts" = 8
"rollout.group" = 32
"descent.lr" = 1e-4
"descent.epochs" = 2
"descent.minibatches" = 4
"descent.cut_groups" = false
"""


def test_the_run_of_a_model(tmp_path: Path) -> None:
    assert origin(tmp_path) is None and saved_options(tmp_path) == {}
    (tmp_path / "run.toml").write_text(RUN)
    with pytest.raises(InputError, match="no model yet"):
        tuned_folder(tmp_path)
    for place in ("checkpoints/step-000020", "checkpoints/step-000040", "final"):
        (tmp_path / place).mkdir(parents=True)
        if place != "final":
            assert tuned_folder(tmp_path) == tmp_path / place
    assert tuned_folder(tmp_path) == tmp_path / "final" and tuned_folder(tmp_path / "final") == tmp_path / "final"
    final, early = origin(tmp_path / "final"), origin(tmp_path / "checkpoints" / "step-000020")
    assert final is not None and (final.lr, final.steps, final.updates) == (1e-4, 120, 960)
    assert final.distance == pytest.approx(0.096) and final.task == "reduce"
    assert early is not None and (early.steps, early.updates) == (20, 160)
