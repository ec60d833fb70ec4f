"""What is compared for the methods that have a file of their own: each against whichever rival has it."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

from benchmarks.judge import rows_trl, rows_verl, sides, trl_side, verl_side
from benchmarks.judge.cases import Case
from benchmarks.judge.row import TOLERANCE, Row
from benchmarks.judge.rows_verl import COUNT, GROUPED, SINGLE
from benchmarks.judge.sides import Said, record

LOSSES = rows_verl.LOSSES
POOL = "Ours leaves groups without an advantage out of means and counts (the paper drops such prompts), verl does not."
CUT = "verl selects in each micro-batch, ours once for the minibatch: only verl's depends on how it is cut."
DRAWN = "Both drop as many of the same tokens, chosen at random: verl by a generator, ours by a uniform for each token."


def rows() -> dict[str, Row]:
    """Every row of a method with a file of its own."""
    return {**_ratios(), **_covariance(), **_forking(), **_estimators(), **_value(), **_sampler()}


def _ratios() -> dict[str, Row]:
    wide = {"objective.low": 0.8, "objective.high": 1.2}
    mean = "seq-mean-token-mean"
    narrow = {"clip_ratio_low": 3e-4, "clip_ratio_high": 4e-4}
    sequence: dict[str, Any] = {"loss_type": "grpo", "importance_sampling_level": "sequence"}
    relative = record("cispo", wide)
    # 1.0625 is a number that float32 holds.
    gate, tau = record("sapo", {"objective.tau_down": 1.0625}), {"loss_type": "sapo", "sapo_temperature_neg": 1.0625}
    return {
        "verl-gspo": rows_verl.loss("gspo", record("gspo"), "gspo", mean, (*LOSSES, "empty rows"), **narrow),
        "verl-gspo-wide": rows_verl.loss("gspo", record("gspo", wide), "gspo", mean),
        "trl-gspo": rows_trl.loss("gspo", record("gspo"), **sequence, epsilon=3e-4, epsilon_high=4e-4),
        "trl-gspo-wide": rows_trl.loss("gspo", record("gspo", wide), **sequence),
        "verl-cispo": rows_verl.loss("cispo", record("cispo"), "cispo", clip_ratio_low=1.0, clip_ratio_high=4.0),
        "verl-cispo-default": rows_verl.loss("cispo", relative, "cispo"),
        "verl-cispo-same": rows_verl.loss(
            "cispo", record("cispo"), "cispo", reason=RELATIVE, clip_ratio_low=1.0, clip_ratio_high=5.0
        ),
        "trl-cispo": rows_trl.loss("cispo", record("cispo"), loss_type="cispo", epsilon_high=5.0),
        "trl-cispo-default": rows_trl.loss("cispo", relative, reason=ABSOLUTE, loss_type="cispo"),
        "verl-sapo": rows_verl.loss("sapo", record("sapo"), "sapo", mean),
        "trl-sapo": rows_trl.loss("sapo", gate, **tau),
        "trl-sapo-default": replace(
            rows_trl.loss("sapo", record("sapo"), reason=TAU, loss_type="sapo"),
            tolerance=1e-6,
        ),
        "verl-gpg": rows_verl.loss("gpg", record("gpg"), "gpg"),
    }


TAU = "TRL's temperatures are float32, and 1.05 is none; with 1.0625 the sides are equal."
RELATIVE = "The same number is another bound: verl's cap is 1 + clip_ratio_high, ours the ratio itself."
ABSOLUTE = "TRL's epsilon_high is the cap itself, by default epsilon = 0.2: most weights are 0.2; ours are 0.8 to 1.2."


def _covariance() -> dict[str, Row]:
    kl, theirs = record("kl_cov", {"objective.share": 0.1}), {"kl_cov_ratio": 0.1, "ppo_kl_coef": 1.0}
    # More tokens may be dropped than are eligible: nothing is drawn.
    sure = record("clip_cov", {"objective.share": 0.9, "objective.above": 0.2})
    drawn = record("clip_cov", {"objective.share": 0.1, "objective.above": 0.2})
    band = {"clip_cov_lb": 0.2, "clip_cov_ub": 5.0, "clip_ratio_low": 1.0, "clip_ratio_high": 1.0}
    both = ("ragged", "extreme")
    return {
        "verl-kl-cov": rows_verl.loss("kl_cov", kl, "kl_cov", kinds=(*both, "on-policy"), **theirs),
        "verl-kl-cov-idle": rows_verl.loss("kl_cov", kl, "kl_cov", "token-mean", ("dead groups",), POOL, **theirs),
        "verl-kl-cov-micro": rows_verl.loss("kl_cov", kl, "kl_cov", "token-mean", both, CUT, 4, **theirs),
        "verl-clip-cov": rows_verl.loss("clip_cov", sure, "clip_cov", kinds=both, clip_cov_ratio=0.9, **band),
        "verl-clip-cov-drawn": rows_verl.loss(
            "clip_cov", drawn, "clip_cov", "token-mean", both, DRAWN, clip_cov_ratio=0.1, **band
        ),
        "verl-clip-cov-micro": rows_verl.loss(
            "clip_cov", sure, "clip_cov", "token-mean", both, CUT, 4, clip_cov_ratio=0.9, **band
        ),
    }


def _forking() -> dict[str, Row]:
    method = record("forking_tokens")
    flags: dict[str, Any] = {"loss_type": "dapo", "top_entropy_quantile": 0.2, "epsilon_high": 0.28, "delta": 10.0}

    def rescaled(case: Case, pieces: int = 1) -> Said:
        said, share = trl_side.loss(case, pieces, **flags), trl_side.kept_share(case, 0.2)
        assert said.loss is not None and said.gradient is not None
        return Said(loss=said.loss / share, gradient=said.gradient / share)

    plain = rows_trl.loss("forking_tokens", method, reason=KEPT, **flags)
    scaled = replace(plain, theirs=rescaled, setting=plain.setting + SCALED, reason="")
    cut = rows_trl.loss("forking_tokens", method, ("ragged",), QUANTILE, 4, **flags)
    cut = replace(cut, theirs=partial(rescaled, pieces=4), setting=cut.setting + SCALED)
    return {"trl-forking": plain, "trl-forking-rescaled": scaled, "trl-forking-micro": cut}


SCALED = "; loss / share of tokens kept"

KEPT = "TRL divides by all tokens, ours (and the paper) by those kept: TRL's loss is about a fifth."
QUANTILE = "TRL takes the quantile of each micro-batch, ours ranks once for the minibatch."


def _estimators() -> dict[str, Row]:
    by_count, tokens = partial(rows_verl.of_method, reason=COUNT, tolerance=1e-8), {"modulate.0.ddof": 1}
    whitened, base = "reinforce_plus_plus", "reinforce_plus_plus_baseline"
    ddof1 = record("reinforce_pp_baseline", {"advantage.ddof": 1})
    same = rows_verl.of_method
    return {
        "verl-reinforce-pp": by_count(record("reinforce_pp", tokens), "reinforce_pp", whitened, GROUPED, kl_coef=1e-4),
        "verl-reinforce-pp-ddof": same(
            record("reinforce_pp"), "reinforce_pp", whitened, GROUPED, DDOF, TOLERANCE, kl_coef=1e-4
        ),
        "verl-reinforce-pp-baseline": by_count(ddof1, "reinforce_pp_baseline", base, GROUPED),
        "verl-reinforce-pp-baseline-ddof": same(
            record("reinforce_pp_baseline"), "reinforce_pp_baseline", base, GROUPED, DDOF
        ),
        "verl-reinforce-pp-baseline-singleton": same(
            ddof1, "reinforce_pp_baseline", base, ("singleton groups",), SINGLE
        ),
        "verl-remax": _remax(),
        "verl-opo": same(record("opo"), "opo", "opo", GROUPED),
        "verl-opo-singleton": same(record("opo"), "opo", "opo", ("singleton groups",), SINGLE),
        "verl-gpg-alpha": same(record("gpg"), "gpg", "gpg", GROUPED, ALPHA),
    }


DDOF = "verl's variance is over n - 1, ours over n (OpenRLHF, the paper's own code)."
ALPHA = "verl's alpha is rows / rows whose score is not 0; ours, as the paper's, groups / groups that are not constant."


def _remax() -> Row:
    method = record("remax")

    def ours(case: Case) -> Said:
        # Our collector has taken the greedy response's score off already.
        batch = replace(case.batch, score=case.batch.score - case.batch.column("score_greedy"))
        return sides.advantage(method, sides.with_batch(case, batch))

    row = rows_verl.of_method(method, "remax", "remax", GROUPED)
    return replace(row, ours=ours, flags=row.flags + "; score - score of the greedy response")


def _value() -> dict[str, Row]:
    method = record("ppo_clip", {"terms.0.coef": 0.5, "terms.0.clip": 0.5})
    advantage = rows_verl.of_method(method, "ppo_clip", "gae", GROUPED, COUNT, 1e-8, gamma=1.0, lam=0.95)
    loss = Row(
        method="ppo_clip, value loss",
        flags=sides.flags(method, "prepare", "terms"),
        rival="verl",
        setting="compute_value_loss, cliprange_value=0.5, token-mean, on the returns of gae, gamma=1, lam=0.95",
        kinds=("ragged", "shaped scores", "extreme"),
        ours=partial(sides.terms, method),
        theirs=partial(verl_side.value_loss, gamma=1.0, lam=0.95, clip=0.5),
    )
    return {"verl-gae": advantage, "verl-value-loss": loss}


def _sampler() -> dict[str, Row]:
    return {
        "verl-tis-token": _weighted("token", 2.0),
        "verl-tis-sequence": _weighted("sequence", 2.0),
        "verl-tis-mask": _weighted("token", "1e-9_2.0", {"aggregate.mask": True}),
        "trl-tis-token": _corrected("token_truncate", {"aggregate.level": "token", "aggregate.cap": 2.0}, 2.0),
        "trl-tis-sequence": _corrected("sequence_truncate", {"aggregate.level": "sequence"}, 2.0),
        "trl-tis-default": _corrected(
            "sequence_mask", {"aggregate.level": "sequence", "aggregate.mask": True, "aggregate.cap": 3.0}, 3.0
        ),
    }


def _weighted(level: str, threshold: float | str, options: dict[str, Any] | None = None) -> Row:
    method = record("tis", {"aggregate.level": level, **(options or {})})
    return Row(
        method="tis",
        flags=sides.flags(method, "objective", "aggregate"),
        rival="verl",
        setting=f"rollout_is={level}, rollout_is_threshold={threshold}, loss_mode=vanilla, loss_agg_mode=token-mean",
        kinds=LOSSES,
        ours=partial(sides.loss, method),
        theirs=partial(verl_side.weighted, level=level, threshold=threshold),
    )


def _corrected(mode: str, options: dict[str, Any], cap: float) -> Row:
    method = record("tis", {"objective.dual": 3.0, "advantage.eps": 1e-4, **options})
    flags = {"vllm_importance_sampling_mode": mode, "vllm_importance_sampling_clip_max": cap, "delta": 3.0}
    return Row(
        method="tis (whole)",
        flags=sides.flags(method, "advantage", "objective", "aggregate"),
        rival="TRL",
        setting=", ".join(f"{name}={value}" for name, value in flags.items()) + ", loss_type=dapo",
        kinds=("even groups",),
        ours=partial(sides.whole, method),
        theirs=partial(trl_side.whole, **flags),
        reason=rows_trl.SINGLE + " The sampler's log-probs are float32 too.",
        tolerance=1e-6,
    )
