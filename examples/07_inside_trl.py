"""EVOL-RL inside TRL's GRPO trainer, recorded token by token. Needs trl 1.16. See docs/interop_trl.md.

python examples/07_inside_trl.py     # three steps on the tiny model that comes with Rekindle, on the CPU
"""

from pathlib import Path

from datasets import Dataset
from trl import GRPOConfig

from rekindle.interop.trl import RekindleRecorder, RekindleTrainer, novelty_reward
from rekindle.interop.trl.dumps import read_dump
from rekindle.tokens.loader import load_model
from rekindle.tokens.tasks import load_task

OUT = Path("runs/inside-trl")
loaded = load_model("embedded", task_name="reduce")
prompts = [example.prompt for example in load_task("reduce").split("train")[:64]]
trainer = RekindleTrainer(
    model=loaded.model,
    processing_class=loaded.tokenizer,
    train_dataset=Dataset.from_dict({"prompt": prompts}),
    reward_funcs=novelty_reward(task="reduce"),  # the vote selects, novelty orders: no label is read
    method="evol_rl",  # its loss and advantage; "grpo+kl_cov" or a record of your own work as well
    args=GRPOConfig(
        output_dir=str(OUT / "trl"),
        beta=0.001,  # TRL keeps a reference, which EVOL-RL's KL term reads; the coefficient is EVOL-RL's
        max_steps=3,
        learning_rate=1e-4,
        num_generations=8,
        per_device_train_batch_size=16,
        max_completion_length=40,
        logging_steps=1,
        report_to=[],
        use_cpu=True,
        bf16=False,
    ),
)
RekindleRecorder(OUT / "run").attach(trainer)
trainer.train()
for step in read_dump(OUT / "run").steps:
    print({name: round(step[name], 4) for name in ("step", "loss", "entropy", "success", "groups/dead")})
