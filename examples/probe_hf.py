"""Follow measurements in a training of the transformers library's Trainer; needs isometry[hf]."""

from pathlib import Path

import torch
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments

from isometry.training import Probe, ProbeTrainerCallback

VOCABULARY, LENGTH = 64, 16

torch.manual_seed(0)
config = GPT2Config(
    vocab_size=VOCABULARY, n_positions=LENGTH, n_embd=32, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0
)
model = GPT2LMHeadModel(config)
start = torch.randint(VOCABULARY, (256, 1))
tokens = (start + 3 * torch.arange(LENGTH)) % VOCABULARY  # sequences that a model can learn to continue
texts = [{"input_ids": row, "labels": row} for row in tokens]

arguments = TrainingArguments(
    output_dir="out", max_steps=20, per_device_train_batch_size=16, use_cpu=True, report_to=[], logging_steps=10,
    save_strategy="no", disable_tqdm=True,
)  # fmt: skip
trainer = Trainer(model=model, args=arguments, train_dataset=texts)
path = Path("probe_hf.jsonl")
path.unlink(missing_ok=True)  # a training anew; without this line the probe would ask where the old one goes on
# None: measure whenever it is due. A training of hours keeps the default, at most 5 % of its time.
probe = Probe(model, {"input_ids": tokens[:16]}, max_overhead=None, path=path)
ProbeTrainerCallback.attach(trainer, probe)  # the numbers go through Trainer.log, and so to everything in report_to
trainer.train()
print(probe.history)
