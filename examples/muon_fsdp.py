"""NorMuon on sharded parameters (FSDP2), here on processors; also runs as one process without torchrun.

torchrun --standalone --nproc-per-node 2 examples/muon_fsdp.py
"""

import os

import torch
import torch.distributed as dist
from torch.distributed.checkpoint.state_dict import get_state_dict
from torch.distributed.fsdp import fully_shard

import isometry as iso

STEPS = 30

several = int(os.environ.get("WORLD_SIZE", "1")) > 1
if several:
    dist.init_process_group("gloo")
rank, size = (dist.get_rank(), dist.get_world_size()) if several else (0, 1)

data = iso.data.load("shakespeare:length=32")
torch.manual_seed(0)
model = iso.nn.reference_model("gpt:depth=2,width=48,heads=4", in_shape=data.shape, classes=data.outputs)
if several:
    for block in model.blocks:
        fully_shard(block)
    fully_shard(model)

# The same lines as on one device: rows are exchanged for whole matrices, of which each process steps its share.
optimizer = iso.optim.NorMuon(iso.roles.route(model), lr=0.02, adamw={"lr": 3e-3})
order = torch.Generator().manual_seed(1)  # the same on all processes, each of which takes its part of a batch
for step in range(1, STEPS + 1):
    index = torch.randint(len(data.inputs), (32,), generator=order).chunk(size)[rank]
    logits = model(data.inputs[index])
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), data.targets[index].flatten())
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if step in {1, STEPS}:
        mean = loss.detach().clone()
        if several:
            dist.all_reduce(mean)
        if rank == 0:
            print(f"step {step}: loss {mean / size:.4f}")

held = sum(optimizer.state_bytes().values())
print(f"process {rank} of {size} holds {held} bytes of state", flush=True)
if several:
    weights, state = get_state_dict(model, optimizer)  # what torch.distributed.checkpoint.save takes
    dist.destroy_process_group()
