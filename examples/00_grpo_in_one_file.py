"""GRPO, complete, in one file: imports nothing from Rekindle, and serves as an oracle for it.

Shao et al., "DeepSeekMath", arXiv 2402.03300, in the form that verl 0.9.1 runs by default: token mean over the batch,
sample standard deviation within the group of a prompt, clip 0.2, dual clip 3 (Ye et al., arXiv 1912.09729), no KL.

The task: the prompt is a digit; write digits whose sum, modulo 10, equals it, and stop. One right answer among many:

    prompt   7
    right    7.    43.    268... (6+8+2+1 = 17)    wrong    5.    7 with no stop within four tokens

    python examples/00_grpo_in_one_file.py        # random weights to a success above 0.9, in seconds

Seeds differ: others stop between 0.6 and 0.8, for a digit whose group holds no success gets no advantage, and once the
policy no longer tries anything else, never will. That loss of exploration is what the package is about.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

STOP, PAD = 10, 11  # tokens 0-9 are the digits
VOCABULARY = 12
MAX_TOKENS = 4


@dataclass(frozen=True)
class Stored:
    """Sampled responses, ready for updates. Rows of one prompt lie side by side, `group` of them."""

    prompts: list[list[int]]
    responses: list[list[int]]  # sampled tokens, the stop token included
    rewards: list[float]
    logp_old: Tensor  # [B, T] log-probs at the weights that sampled, 0 on padding
    group: int


# --- the task -------------------------------------------------------------------------------------------------------


def reward(prompt: list[int], response: list[int]) -> float:
    """1 where the written digits add up to the prompt modulo 10 and the response stops; 0 otherwise."""
    if not response or response[-1] != STOP or len(response) == 1:
        return 0.0
    return float(PAD not in response and sum(response[:-1]) % 10 == prompt[-1])


def make_model(seed: int = 0) -> PreTrainedModel:
    """A Llama of 35 thousand random parameters."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=48,
        intermediate_size=96,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=16,
        initializer_range=0.2,
        bos_token_id=None,
        eos_token_id=STOP,
        pad_token_id=PAD,
    )
    return LlamaForCausalLM(config)


# --- sampling -------------------------------------------------------------------------------------------------------


@torch.no_grad()
def sample(model: PreTrainedModel, prompts: list[list[int]], max_tokens: int = MAX_TOKENS) -> list[list[int]]:
    """One response for each prompt, at temperature 1. All prompts have the same length (this keeps the loop plain)."""
    ids = torch.tensor(prompts)
    width = ids.shape[1]
    done = torch.zeros(len(prompts), dtype=torch.bool)
    for _ in range(max_tokens):
        probs = model(ids).logits[:, -1].softmax(dim=-1)
        token = torch.multinomial(probs, 1)[:, 0].masked_fill(done, PAD)
        ids = torch.cat([ids, token[:, None]], dim=1)
        done |= token == STOP
        if done.all():
            break
    rows = ids[:, width:].tolist()
    return [row[: row.index(STOP) + 1] if STOP in row else row for row in rows]


def collect(model: PreTrainedModel, prompts: list[list[int]], group: int) -> Stored:
    """`group` responses for each prompt, with their rewards and the log-probs at the present weights."""
    repeated = [prompt for prompt in prompts for _ in range(group)]
    responses = sample(model, repeated)
    rewards = [reward(p, r) for p, r in zip(repeated, responses, strict=True)]
    with torch.no_grad():
        logp_old, _ = logprobs(model, repeated, responses)
    return Stored(repeated, responses, rewards, logp_old, group)


# --- the mathematics ------------------------------------------------------------------------------------------------


def logprobs(model: PreTrainedModel, prompts: list[list[int]], responses: list[list[int]]) -> tuple[Tensor, Tensor]:
    """Log-probs [B, T] of the response tokens (0 on padding) and the mask [B, T] of real ones."""
    rows = [p + r for p, r in zip(prompts, responses, strict=True)]
    width, T = max(map(len, rows)), max(map(len, responses))
    ids = torch.tensor([row + [0] * (width - len(row)) for row in rows])
    real = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
    logp = model(input_ids=ids, attention_mask=real).logits.log_softmax(dim=-1)
    taken = logp[:, :-1].gather(2, ids[:, 1:, None])[:, :, 0]  # the logits at position t predict the token at t + 1
    start = torch.tensor([len(p) - 1 for p in prompts])[:, None]
    mask = torch.arange(T) < torch.tensor([len(r) for r in responses])[:, None]
    where = (start + torch.arange(T)).clamp(max=width - 2)
    return taken.gather(1, where) * mask, mask


def advantages(rewards: list[float], group: int, eps: float = 1e-6, dtype: torch.dtype = torch.float64) -> Tensor:
    """(reward - mean) / (std + eps) [B] within each group, std with n - 1; 0 where all rewards of a group are equal."""
    r = torch.tensor(rewards, dtype=dtype).view(-1, group)
    scaled = (r - r.mean(dim=1, keepdim=True)) / (r.std(dim=1, keepdim=True) + eps)
    constant = r.amax(dim=1, keepdim=True) == r.amin(dim=1, keepdim=True)  # an epsilon alone would amplify rounding
    return scaled.masked_fill(constant, 0.0).flatten()


def grpo_loss(
    model: PreTrainedModel, stored: Stored, low: float = 0.8, high: float = 1.2, dual: float = 3.0
) -> tuple[Tensor, Tensor]:
    """The clipped loss, averaged over all response tokens of the batch, and the ratios [B, T] (1 on padding)."""
    logp, mask = logprobs(model, stored.prompts, stored.responses)
    A = advantages(stored.rewards, stored.group).to(logp.dtype)[:, None]
    ratio = (logp - stored.logp_old).clamp(-20, 20).exp()
    loss = torch.maximum(-A * ratio, -A * ratio.clamp(low, high))
    loss = torch.where(A < 0, torch.minimum(loss, -dual * A), loss)  # else a large ratio makes it unbounded
    return (loss * mask).sum() / mask.sum(), ratio.detach()


def update(model: PreTrainedModel, optimizer: torch.optim.Optimizer, stored: Stored, grad_clip: float = 1.0) -> float:
    """One optimiser update on a stored batch. Returns the loss before it."""
    optimizer.zero_grad()
    loss, _ = grpo_loss(model, stored)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), grad_clip)
    optimizer.step()
    return loss.item()


# --- training -------------------------------------------------------------------------------------------------------


def train(steps: int = 200, group: int = 32, updates: int = 2, lr: float = 1e-3, seed: int = 0) -> float:
    """Trains from random weights and prints the success of every step. Returns the success of the last ten steps."""
    model = make_model(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.01)
    history = []
    for step in range(1, steps + 1):
        stored = collect(model, [[digit] for digit in range(10)], group)
        success = sum(stored.rewards) / len(stored.rewards)
        distinct = len({tuple(r) for r, ok in zip(stored.responses, stored.rewards, strict=True) if ok})
        optimizer.param_groups[0]["lr"] = lr * (1 - (step - 1) / steps)
        for _ in range(updates):
            update(model, optimizer, stored)
        history.append(success)
        print(f"step {step:4d}   success {success:.3f}   different right answers {distinct}")
    return sum(history[-10:]) / len(history[-10:])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="GRPO in one file")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    begin = time.perf_counter()
    final = train(steps=options.steps, seed=options.seed)
    print(f"success of the last ten steps {final:.3f}, {time.perf_counter() - begin:.0f} s")
