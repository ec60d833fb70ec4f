"""The other end of `engine`: `python -m benchmarks.speed.engine_side NAME FOLDER`, one JSON line a request."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from typing import Any

EOS = 2
# Without limits it sizes its cache to the machine's memory, over all of which its attention on a CPU then runs.
PAGES: dict[str, Any] = {"page_size": 32, "num_blocks": 256, "max_batch_tokens": 512}
Sample = Callable[[list[list[int]], int, int], list[list[int]]]


def vllm(folder: str, eager: bool) -> Sample:
    """vLLM, in float32, told to keep prompts of a group together and not to make texts."""
    from vllm import LLM, SamplingParams  # type: ignore[import-not-found]

    engine = LLM(
        folder,
        dtype="float32",
        enforce_eager=eager,
        max_model_len=256,
        max_num_seqs=256,
        enable_prefix_caching=True,
        disable_log_stats=True,
    )

    def sample(prompts: list[list[int]], n: int, limit: int) -> list[list[int]]:
        settings = SamplingParams(n=n, temperature=1.0, top_p=1.0, top_k=-1, max_tokens=limit, detokenize=False)
        rows = engine.generate([{"prompt_token_ids": ids} for ids in prompts], settings, use_tqdm=False)
        return [[len(answer.token_ids) for answer in row.outputs] for row in rows]

    return sample


def continuous(folder: str) -> Sample:
    """transformers' continuous batching, the rows of a prompt sharing its pages; its faster attention on a CPU."""
    import torch
    from transformers import AutoModelForCausalLM, ContinuousBatchingConfig, GenerationConfig

    options: dict[str, Any] = {"dtype": torch.float32, "attn_implementation": "eager"}
    model = AutoModelForCausalLM.from_pretrained(folder, **options).eval()

    def sample(prompts: list[list[int]], n: int, limit: int) -> list[list[int]]:
        wanted = GenerationConfig(
            do_sample=True, top_k=0, max_new_tokens=limit, num_return_sequences=n, eos_token_id=EOS, pad_token_id=0
        )
        config = ContinuousBatchingConfig(**PAGES)
        out = model.generate_batch(prompts, generation_config=wanted, continuous_batching_config=config)
        sizes: dict[tuple[int, ...], list[int]] = {tuple(ids): [] for ids in prompts}
        for answer in out.values():
            sizes[tuple(answer.prompt_ids)].append(len(answer.generated_tokens))
        return [sizes[tuple(ids)] for ids in prompts]

    return sample


def main() -> None:
    """Loads the model, says so, and answers until the input ends."""
    # The engines print to the standard output, which is the pipe.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    name, folder = sys.argv[1:]
    sample = vllm(folder, name.endswith("eager")) if name.startswith("vllm") else continuous(folder)
    print(json.dumps({}), file=answers, flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        print(json.dumps({"lengths": sample(asked["prompts"], asked["n"], asked["limit"])}), file=answers, flush=True)


if __name__ == "__main__":
    main()
