"""Options of a run from verl's configuration (0.9.1), and which of ours stay where verl's defaults are others."""

from __future__ import annotations

from collections.abc import Mapping
from math import inf
from typing import Any

from rekindle.interop.explain.given import Given
from rekindle.interop.explain.verl_parts import ACTOR
from rekindle.interop.explain.verl_run import PARAM_DTYPE, REFERENCE, ROLLOUT

MODEL = "actor_rollout_ref.model"
DEFAULTS: Mapping[str, tuple[str, Any]] = {
    "data.train_batch_size": ("rollout.prompts", 1024),
    f"{ROLLOUT}.n": ("rollout.group", 1),
    f"{ROLLOUT}.temperature": ("rollout.temperature", 1.0),
    f"{ROLLOUT}.top_p": ("rollout.top_p", 1.0),
    f"{ROLLOUT}.top_k": ("rollout.top_k", -1),
    "data.max_response_length": ("rollout.max_tokens", 512),
    "trainer.total_training_steps": ("steps", None),
    "data.seed": ("seed", None),
    f"{MODEL}.enable_gradient_checkpointing": ("checkpointing", True),
}
"""verl's name -> ours, and verl's default."""
DTYPES = {**dict.fromkeys(("fp32", "float32", "32"), "full"), **dict.fromkeys(("bf16", "bfloat16"), "bf16")}
"""verl's words for what an engine computes in, and our precision."""
TEXTS = {f"{MODEL}.path": "model", "data.train_files": "data", "data.val_files": "data_heldout"}


def config_of(given: Given) -> dict[str, Any]:
    """Options of the run; our defaults that stay are noted where verl's are others."""
    found: dict[str, Any] = {}
    for name, (ours, default) in DEFAULTS.items():
        if not given.has(name):
            given.left.append(f"{ours}: ours; verl's default of {name} is {default}")
            continue
        found[ours] = _value(given, name, default)
    found |= {ours: text for name, ours in TEXTS.items() if (text := _file(given, name)) is not None}
    rank, alpha = (given.whole(f"{MODEL}.lora_rank", 0, least=0), given.above(f"{MODEL}.lora_alpha"))
    found |= {"lora.rank": rank, "lora.alpha": alpha or 16.0} if rank else {}
    path, name = (given.take(f"reward.custom_reward_function.{key}") for key in ("path", "name"))
    found |= {"reward": (f"{path}:{name or 'compute_score'}",)} if path else {}
    found |= _precision(given)
    for key in ("shuffle", "strategy"):
        given.take(f"{ACTOR}.{key}")
    for key in (f"{ROLLOUT}.name", f"{ROLLOUT}.tensor_model_parallel_size", "trainer.balance_batch"):
        given.take(key)
    given.take(f"{ROLLOUT}.log_prob_micro_batch_size_per_gpu")
    given.take(f"{REFERENCE}.log_prob_micro_batch_size_per_gpu")
    if given.has("trainer.n_gpus_per_node"):
        given.means.append(
            f"trainer.n_gpus_per_node={given.take('trainer.n_gpus_per_node')}: here --ranks N asks for N"
        )
    if given.has(f"{ROLLOUT}.name"):
        given.means.append(f"rollout.name={given.take(f'{ROLLOUT}.name')}: here --sampler vllm asks for an engine")
    return found


def _value(given: Given, name: str, default: Any) -> Any:
    """An option of the run, by the kind of verl's default; what samples has bounds of ours."""
    if default is True:
        return given.truth(name)
    if isinstance(default, float):
        return given.above(name, most=1.0 if name.endswith("top_p") else inf)
    if name.endswith("top_k"):
        return max(given.whole(name, least=-1), 0)  # -1 is vLLM's own word for all
    return given.whole(name, least=0 if name == "data.seed" else 1)


def _file(given: Given, name: str) -> str | None:
    """A text, or the one of a list; several files are no option of ours."""
    value = given.take(name)
    if not isinstance(value, list):
        return None if value is None else str(value)
    if not value:
        raise given.wrong(name, "a path, or a list of one")
    if len(value) > 1:
        given.refused(name, "one file here: the first is taken")
    return str(value[0])


def _precision(given: Given) -> dict[str, Any]:
    """What the FSDP engines compute in: verl reads no other option of theirs."""
    actor = f"{ACTOR}.fsdp_config"
    if given.has(f"{actor}.dtype"):
        given.refused(f"{actor}.dtype", f"verl's FSDP engine reads {PARAM_DTYPE}, not this")
    for name in (f"{actor}.mixed_precision.{kind}" for kind in ("reduce_dtype", "buffer_dtype")):
        if DTYPES.get(given.text(name, "fp32")) != "full":
            given.refused(name, "gradients are summed in float32 here")
    said = given.text(f"{actor}.{PARAM_DTYPE}", "bf16")
    for engine in (f"{REFERENCE}.fsdp_config", "critic.fsdp"):
        if given.text(f"{engine}.{PARAM_DTYPE}", said) != said:
            given.refused(f"{engine}.{PARAM_DTYPE}", "one precision for all here: the actor's")
    if not given.has(f"{actor}.{PARAM_DTYPE}"):
        given.left.append(f"precision: full here; verl's default is bf16 ({PARAM_DTYPE} of the actor)")
        return {}
    if said not in DTYPES:
        given.refused(f"{actor}.{PARAM_DTYPE}", "fp32 and bf16 are the two precisions here: left at full")
        return {}
    return {"precision": DTYPES[said]}
