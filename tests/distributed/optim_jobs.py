"""Trainings on manifolds that two processes share: DDP, and FSDP2 with sharded parameters and state.

``python -m tests.distributed.optim_jobs STORE OUT``, in an environment as torchrun makes it, runs everything as one of
two processes and saves the results.
"""

from __future__ import annotations

import datetime
import os
import sys

import torch
import torch.distributed as dist
from torch import nn

from isometry import manifolds
from isometry.optim import RiemannianAdam, RiemannianSGD

MAKERS = {
    "sgd": lambda p: RiemannianSGD(p, lr=0.05, momentum=0.9, weight_decay=0.01),
    "adam": lambda p: RiemannianAdam(p, lr=0.02, amsgrad=True, weight_decay=0.01),
}
SCALES = ("fixed", "learned")
STEPS = 6


def net(scale="fixed", dtype=torch.float32):
    """Odd sizes, so that shards are unequal; a layer with fewer rows than processes."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Unflatten(1, (3, 5)),
        nn.Conv1d(3, 9, 2, groups=3),
        nn.Flatten(),
        nn.Linear(36, 7),
        nn.Tanh(),
        nn.Linear(7, 7),
        nn.Tanh(),
        nn.Linear(7, 7),
        nn.Tanh(),
        nn.Linear(7, 1),
    ).to(dtype)
    manifolds.constrain_(model, names=["1.weight", "3.weight", "5.weight", "7.weight"], scale=scale)
    return model


def batch():
    return torch.randn(8, 15, generator=torch.Generator().manual_seed(1))


def train(model, optimizer, steps=STEPS, x=None):
    x = batch() if x is None else x
    for _ in range(steps):
        optimizer.zero_grad()
        (model(x.to(next(model.parameters()).dtype)) - 1).square().mean().backward()
        optimizer.step()


def gathered(model):
    return {
        name.removeprefix("module."): (p.full_tensor() if hasattr(p, "full_tensor") else p).detach().float().clone()
        for name, p in model.named_parameters()
    }


def alone(method, scale="fixed", dtype=torch.float32):
    model = net(scale, dtype)
    train(model, MAKERS[method](model.parameters()))
    return gathered(model)


def data_parallel(method):
    model = nn.parallel.DistributedDataParallel(net())
    rank, size = dist.get_rank(), dist.get_world_size()
    train(model, MAKERS[method](model.parameters()), x=batch().chunk(size)[rank])
    return gathered(model)


def fsdp(scale="fixed", dtype=torch.float32):
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    model = net(scale, dtype)
    for index in (3, 5, 7):
        fully_shard(model[index], mesh=mesh)
    fully_shard(model, mesh=mesh)
    return model


def sharded(method, scale, dtype=torch.float32):
    model = fsdp(scale, dtype)
    rank, size = dist.get_rank(), dist.get_world_size()
    optimizer = MAKERS[method](model.parameters())
    train(model, optimizer, x=batch().chunk(size)[rank])
    return gathered(model)


def resumed(method):
    """Saved by way of torch.distributed.checkpoint's gathered state in mid-run, and loaded into a new model."""
    from torch.distributed.checkpoint.state_dict import (
        StateDictOptions,
        get_optimizer_state_dict,
        set_optimizer_state_dict,
    )

    rank, size = dist.get_rank(), dist.get_world_size()
    mine = batch().chunk(size)[rank]
    options = StateDictOptions(full_state_dict=True)
    first = fsdp()
    optimizer = MAKERS[method](first.parameters())
    train(first, optimizer, 3, mine)
    weights = gathered(first)
    state = get_optimizer_state_dict(first, optimizer, options=options)
    second = fsdp()
    with torch.no_grad():
        for name, p in second.named_parameters():
            from torch.distributed.tensor import distribute_tensor

            p.copy_(distribute_tensor(weights[name], p.device_mesh, p.placements, src_data_rank=None))
    optimizer = MAKERS[method](second.parameters())
    set_optimizer_state_dict(second, optimizer, state, options=StateDictOptions(full_state_dict=True))
    train(second, optimizer, STEPS - 3, mine)
    return gathered(second)


def not_finite(rank):
    """A NaN in one process's shard stops both, and says where."""
    model = fsdp()
    optimizer = RiemannianSGD(model.named_parameters(), lr=0.1)
    model(batch()).square().mean().backward()
    before = gathered(model)
    if rank == 1:
        model[5].weight.grad._local_tensor[0, 0] = float("nan")
    try:
        optimizer.step()
    except ValueError as error:
        after = gathered(model)
        return str(error), all(torch.equal(before[k], after[k]) for k in before)
    return None


def jobs():
    found = {}
    for method in MAKERS:
        found[f"{method}, ddp"] = data_parallel(method)
        for scale in SCALES:
            found[f"{method}, fsdp2, {scale}"] = sharded(method, scale)
        found[f"{method}, bfloat16"] = sharded(method, "fixed", torch.bfloat16)
        found[f"{method}, resumed"] = resumed(method)
    found["not finite"] = not_finite(dist.get_rank())
    return found


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
