"""Constraints on models that two processes share: DDP, and FSDP2 before and after constraining.

``python -m tests.distributed.manifold_jobs STORE OUT``, in an environment as torchrun makes it, runs everything as one
of two processes and saves the results.
"""

from __future__ import annotations

import copy
import datetime
import os
import sys
import warnings

import torch
import torch.distributed as dist
from torch import nn

from isometry import manifolds


def net():
    """Odd sizes, so that shards are unequal; a fused projection and a grouped convolution beside plain layers."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Unflatten(1, (3, 5)),
        nn.Conv1d(3, 9, 2, groups=3),
        nn.Flatten(),
        nn.Linear(36, 7),
        nn.Tanh(),
        nn.Linear(7, 11),
        nn.Tanh(),
        nn.Linear(11, 3),
    )


def batch():
    return torch.randn(6, 15, generator=torch.Generator().manual_seed(1))


def report(model, prefix=""):
    """What one can see of a constrained model, the same whether it is sharded or not."""
    records = manifolds.constraints(model)
    found = {
        name.removeprefix(prefix): {
            "weight": record.weight(),
            "scale": float(record.scale()),
            "point": record.point(),
            "found": manifolds.constraint_of(record.parameter) is record,
            "in the model": any(p is record.parameter for p in model.parameters()),
        }
        for name, record in records.items()
    }
    return {"records": found, "ok": manifolds.check(model).ok}


def alone(**options):
    model = net()
    manifolds.constrain_(model, **options)
    return report(model)


def data_parallel(order):
    model = net()
    if order == "before":
        manifolds.constrain_(model)
    wrapped = nn.parallel.DistributedDataParallel(model)
    if order == "after":
        manifolds.constrain_(wrapped)
    wrapped(batch()).square().sum().backward()
    return report(wrapped, "module.")


def sharded(order, **options):
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    model = net()
    if order == "before":
        manifolds.constrain_(model, **options)
    for layer in (model[3], model[5], model):
        fully_shard(layer, mesh=mesh)
    if order == "after":
        manifolds.constrain_(model, **options)
    before = report(model)
    model(batch()).square().sum().backward()
    after = report(model)
    with torch.no_grad():
        for record in manifolds.constraints(model).values():
            assert hasattr(record.parameter, "full_tensor")
            record.parameter.mul_(1.01)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.optim.SGD(model.parameters(), lr=0.0).step()
    noticed = not manifolds.check(model).ok
    names = list(manifolds.constraints(model))
    manifolds.bake(model)
    baked = {name: model.get_parameter(name).full_tensor().detach() for name in names}
    return {
        "before": before,
        "after": after,
        "warnings": [str(w.message) for w in caught if issubclass(w.category, UserWarning)],
        "noticed": noticed,
        "baked": baked,
        "left": len(manifolds.constraints(model)),
    }


def state_dict():
    """A sharded model's gathered state goes into a plain model and is on the manifold there."""
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
    from torch.distributed.fsdp import fully_shard

    model = net()
    manifolds.constrain_(model)
    fully_shard(model)
    state = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, broadcast_from_rank0=False))
    if dist.get_rank() != 0:
        return None
    plain = net()
    manifolds.constrain_(plain)
    plain.load_state_dict(copy.deepcopy(state))
    return report(plain)


JOBS = {
    "ddp, constrained before": lambda: data_parallel("before"),
    "ddp, constrained after": lambda: data_parallel("after"),
    "fsdp2, constrained before": lambda: sharded("before"),
    "fsdp2, constrained after": lambda: sharded("after"),
    "fsdp2, learned scale": lambda: sharded("after", scale="learned"),
    "state dict": state_dict,
}


def main(store, out):
    torch.set_num_threads(1)
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    dist.init_process_group(
        "gloo", init_method=f"file://{store}", rank=rank, world_size=size, timeout=datetime.timedelta(seconds=60)
    )
    torch.save({name: job() for name, job in JOBS.items()}, out)
    dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
