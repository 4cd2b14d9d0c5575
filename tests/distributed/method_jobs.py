"""Low-rank optimizers, and those whose steps depend on all parameters, on parameters shared by rows.

``python -m tests.distributed.method_jobs STORE OUT``, in an environment as torchrun makes it.
"""

from __future__ import annotations

import datetime
import os
import sys

import torch
import torch.distributed as dist
from torch import nn

from isometry.optim import SGDP, AdamP, ClippedSGD, DCTAdamW, Dion, GeneralizedSignSGD, NormalizedSGD, Trion
from tests.distributed.optim_jobs import batch, gathered

MAKERS = {
    "dct-adamw": lambda p: DCTAdamW(p, lr=0.02, rank=0.3, weight_decay=0.1, refresh=2),
    "dct-adamw, 4 bits": lambda p: DCTAdamW(p, lr=0.02, rank=0.3, ef_bits=4),
    "dct-adamw, no error": lambda p: DCTAdamW(p, lr=0.02, rank=0.3, error_feedback=False),
    "trion": lambda p: Trion(p, lr=0.05, rank=0.3, polar="accurate"),
    "dion": lambda p: Dion(p, lr=0.05, rank=0.3),
    "clipped": lambda p: ClippedSGD(p, lr=0.5, clip=0.05, momentum=0.9, weight_decay=0.1),
    "normalized": lambda p: NormalizedSGD(p, lr=0.05, momentum=0.9, nesterov=True),
    # Thresholds between those that nothing passes and those that all do; the layer's view needs all rows.
    "adamp": lambda p: AdamP(p, lr=0.02, delta=1.0, weight_decay=0.1),
    "sgdp": lambda p: SGDP(p, lr=0.1, momentum=0.9, delta=2.0),
    "generalized-signsgd": lambda p: GeneralizedSignSGD(p, lr=0.01, betas=(0.9, 0.8)),
}
STEPS = 6


def net():
    """Odd sizes, so that shards are unequal; equal shapes, so that each process owns one of them."""
    torch.manual_seed(0)
    layers = [nn.Linear(15, 7), nn.Tanh(), nn.Linear(7, 7), nn.Tanh(), nn.Linear(7, 7), nn.Tanh(), nn.Linear(7, 3)]
    return nn.Sequential(*layers).double()


def groups(model):
    matrices = [(n, p) for n, p in model.named_parameters() if p.ndim == 2]
    return [
        {"params": matrices},
        {"params": [(n, p) for n, p in model.named_parameters() if p.ndim < 2], "rule": "adamw"},
    ]


def train(model, optimizer, steps):
    x = batch().double()
    for _ in range(steps):
        optimizer.zero_grad()
        (model(x) - 1).square().mean().backward()
        optimizer.step()


def alone(method):
    model = net()
    train(model, optimizer := MAKERS[method](groups(model)), STEPS)
    return gathered(model), optimizer.state_bytes()


def sharded_net():
    from torch.distributed.fsdp import fully_shard

    model = net()
    for index in (0, 2, 4, 6):
        fully_shard(model[index])
    fully_shard(model)
    return model


def sharded(method):
    model = sharded_net()
    train(model, optimizer := MAKERS[method](groups(model)), STEPS)
    return gathered(model), optimizer.state_bytes()


def resumed(method):
    """Saved in mid-run through torch.distributed.checkpoint's gathered state, loaded into a new model."""
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict, set_state_dict

    options = StateDictOptions(full_state_dict=True)
    first = sharded_net()
    train(first, optimizer := MAKERS[method](groups(first)), 3)
    weights, state = get_state_dict(first, optimizer, options=options)
    second = sharded_net()
    again = MAKERS[method](groups(second))
    set_state_dict(second, again, model_state_dict=weights, optim_state_dict=state, options=options)
    train(second, again, STEPS - 3)
    return gathered(second)


def jobs():
    found = {method: sharded(method) for method in MAKERS}
    return found | {f"{method}, resumed": resumed(method) for method in MAKERS}


def main(store, out):
    torch.set_num_threads(1)
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    dist.init_process_group(
        "gloo", init_method=f"file://{store}", rank=rank, world_size=size, timeout=datetime.timedelta(seconds=60)
    )
    torch.save(jobs(), out)
    dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
