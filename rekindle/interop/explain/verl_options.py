"""Options of a run from verl's configuration (0.9.1), and which of ours stay where verl's defaults are others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rekindle.interop.explain.given import Given
from rekindle.interop.explain.verl_parts import ACTOR
from rekindle.interop.explain.verl_run import ROLLOUT

DEFAULTS: Mapping[str, tuple[str, Any]] = {
    "data.train_batch_size": ("rollout.prompts", 1024),
    f"{ROLLOUT}.n": ("rollout.group", 1),
    f"{ROLLOUT}.temperature": ("rollout.temperature", 1.0),
    f"{ROLLOUT}.top_p": ("rollout.top_p", 1.0),
    f"{ROLLOUT}.top_k": ("rollout.top_k", -1),
    "data.max_response_length": ("rollout.max_tokens", 512),
    "trainer.total_training_steps": ("steps", None),
    "data.seed": ("seed", None),
    "actor_rollout_ref.model.enable_gradient_checkpointing": ("checkpointing", True),
}
"""verl's name -> ours, and verl's default."""
TEXTS = {"actor_rollout_ref.model.path": "model", "data.train_files": "data", "data.val_files": "data_heldout"}


def config_of(given: Given) -> dict[str, Any]:
    """Options of the run; our defaults that stay are noted where verl's are others."""
    found: dict[str, Any] = {}
    for name, (ours, default) in DEFAULTS.items():
        if not given.has(name):
            given.left.append(f"{ours}: ours; verl's default of {name} is {default}")
            continue
        value = given.truth(name) if default is True else given.number(name)
        found[ours] = float(value) if isinstance(default, float) else value
    if found.get("rollout.top_k") == -1:
        found["rollout.top_k"] = 0
    for name, ours in TEXTS.items():
        value = given.take(name)
        found |= {} if value is None else {ours: str(value[0] if isinstance(value, list) else value)}
    if given.has("actor_rollout_ref.model.lora_rank") and (
        rank := int(given.number("actor_rollout_ref.model.lora_rank"))
    ):
        found |= {"lora.rank": rank, "lora.alpha": float(given.number("actor_rollout_ref.model.lora_alpha", 16))}
    path, name = (given.take(f"reward.custom_reward_function.{key}") for key in ("path", "name"))
    found |= {"reward": (f"{path}:{name or 'compute_score'}",)} if path else {}
    dtype = given.text(f"{ACTOR}.fsdp_config.dtype", "bfloat16")
    found |= {"precision": "full" if "32" in dtype else "bf16"} if given.has(f"{ACTOR}.fsdp_config.dtype") else {}
    for key in ("shuffle", "strategy"):
        given.take(f"{ACTOR}.{key}")
    for key in (f"{ROLLOUT}.name", f"{ROLLOUT}.tensor_model_parallel_size", "trainer.balance_batch"):
        given.take(key)
    given.take(f"{ROLLOUT}.log_prob_micro_batch_size_per_gpu")
    given.take("actor_rollout_ref.ref.log_prob_micro_batch_size_per_gpu")
    if given.has("trainer.n_gpus_per_node"):
        given.means.append(
            f"trainer.n_gpus_per_node={given.take('trainer.n_gpus_per_node')}: here --ranks N asks for N"
        )
    if given.has(f"{ROLLOUT}.name"):
        given.means.append(f"rollout.name={given.take(f'{ROLLOUT}.name')}: here --sampler vllm asks for an engine")
    return found
