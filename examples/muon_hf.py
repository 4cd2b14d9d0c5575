"""Muon in a training of the transformers library's Trainer, stopped half-way and resumed; needs isometry[hf]."""

import torch
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments, get_cosine_schedule_with_warmup

import isometry as iso

VOCABULARY, LENGTH, STEPS = 64, 16, 60

torch.manual_seed(0)
config = GPT2Config(
    vocab_size=VOCABULARY, n_positions=LENGTH, n_embd=32, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0
)
start = torch.randint(VOCABULARY, (512, 1))
tokens = (start + 3 * torch.arange(LENGTH)) % VOCABULARY  # sequences that a model can learn to continue
texts = [{"input_ids": row, "labels": row} for row in tokens]


def trainer(steps):
    """A Trainer of a model and its optimizer: the embedding, tied to the head, goes to AdamW; c_attn by its blocks."""
    model = GPT2LMHeadModel(config)
    optimizer = iso.optim.Muon(iso.roles.route(model), lr=0.02, weight_decay=0.01, adamw={"lr": 3e-3})
    schedule = get_cosine_schedule_with_warmup(optimizer, num_warmup_steps=5, num_training_steps=STEPS)
    arguments = TrainingArguments(
        output_dir="muon_hf", max_steps=steps, per_device_train_batch_size=16, gradient_accumulation_steps=2,
        use_cpu=True, report_to=[], logging_steps=STEPS // 4, save_steps=STEPS // 2, disable_tqdm=True,
    )  # fmt: skip
    return Trainer(model=model, args=arguments, train_dataset=texts, optimizers=(optimizer, schedule))


first = trainer(STEPS // 2)
print(iso.roles.route(first.model))
first.train()
second = trainer(STEPS)
second.train(resume_from_checkpoint=f"muon_hf/checkpoint-{STEPS // 2}")  # the routing table is in it
losses = [entry["loss"] for entry in second.state.log_history if "loss" in entry]
print(f"step {second.state.global_step}: loss {losses[0]:.3f} -> {losses[-1]:.3f}")
