"""Optimizers for hidden matrices on parameters that two processes share: FSDP2, other meshes, checkpoints.

``python -m tests.distributed.matrix_jobs STORE OUT``, in an environment as torchrun makes it.
"""

from __future__ import annotations

import datetime
import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn

from isometry.nn import reference_model
from isometry.optim import AuON, HybridAuON, Muon, NorMuon
from isometry.roles import Axes, route
from tests.distributed.optim_jobs import batch, gathered

STEPS = 6


class Nets:
    """Models of odd sizes, each with what it is trained on."""

    @staticmethod
    def mlp():
        """Unequal shards, more equal shapes than processes, a matrix of fewer rows than processes."""
        layers = [nn.Linear(15, 7), nn.Tanh()]
        for _ in range(5):
            layers += [nn.Linear(7, 7), nn.Tanh()]
        return nn.Sequential(*layers, nn.Linear(7, 1), nn.Tanh(), nn.Linear(1, 3)).double()

    @staticmethod
    def conv():
        """Kernels and groups, whose rows are the first dimension."""
        layers = [nn.Unflatten(1, (3, 5)), nn.Conv1d(3, 5, 2), nn.Tanh(), nn.Conv1d(5, 9, 2), nn.Tanh()]
        return nn.Sequential(*layers, nn.Conv1d(9, 6, 2, groups=3), nn.Flatten(), nn.Linear(12, 2)).double()

    @staticmethod
    def gpt():
        """Fused projections: the border between shards is in the middle of the keys."""
        return reference_model("gpt:depth=2,width=10,heads=2", in_shape=(7,), classes=11).double()


NETS = {name: getattr(Nets, name) for name in ("mlp", "conv", "gpt")}


def net(name):
    torch.manual_seed(0)
    return NETS[name.split(",")[0]]()


def inputs(name):
    if name.startswith("gpt"):
        return torch.randint(11, (8, 7), generator=torch.Generator().manual_seed(1))
    return batch().double()


# NorMuon has a state of the matrices' rows, which is whole on every process.
METHODS = {
    "mlp": Muon,
    "conv": Muon,
    "gpt": Muon,
    "mlp, normuon": NorMuon,
    "gpt, normuon": NorMuon,
    "gpt, auon": AuON,
    "conv, hybrid-auon": HybridAuON,
}


def optimizer(name, model):
    rules = {"0.weight": "matrix", "12.weight": "matrix"} if name.startswith("mlp") else None
    return METHODS[name](route(model, rules=rules), lr=0.03, weight_decay=0.1, adamw={"lr": 0.01})


def table(model):
    return [(row.name, row.rule, tuple(row.shape), str(row.axes)) for row in route(model).rows]


def train(model, made, x, steps=STEPS):
    for _ in range(steps):
        made.zero_grad()
        (model(x) - 1).square().mean().backward()
        made.step()


def alone(name):
    model = net(name)
    train(model, made := optimizer(name, model), inputs(name))
    return gathered(model), made.state_bytes()


def sharded_net(name, mesh=None):
    from torch.distributed.fsdp import fully_shard

    model = net(name)
    for layer in model.blocks if name.startswith("gpt") else [m for m in model if isinstance(m, nn.Linear | nn.Conv1d)]:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    return model


def share(name):
    return inputs(name).chunk(dist.get_world_size())[dist.get_rank()]


def fsdp(name):
    model = sharded_net(name)
    train(model, made := optimizer(name, model), share(name))
    placed = all(
        made.state[p][key].placements == p.placements and made.state[p][key].shape == p.shape
        for p in model.parameters()
        for key in made.state[p]
        if key in ("momentum_buffer", "exp_avg", "exp_avg_sq")
    )
    return gathered(model), made.state_bytes(), placed, table(model)


def replicated(name):
    """HSDP: both processes have everything, or one shard each of one replica."""
    from torch.distributed.device_mesh import init_device_mesh

    found = []
    for sizes in ((2, 1), (1, 2)):
        model = sharded_net(name, init_device_mesh("cpu", sizes, mesh_dim_names=("replicas", "shards")))
        train(model, optimizer(name, model), share(name))
        found.append(gathered(model))
    return found


def resumed(name, folder):
    """Cut in mid-run: by the gathered state, and by shards in files that torch.distributed.checkpoint writes."""
    from torch.distributed import checkpoint
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict, set_state_dict

    whole = StateDictOptions(full_state_dict=True)
    first = sharded_net(name)
    train(first, made := optimizer(name, first), share(name), 3)
    found = []
    for options in (whole, None):
        weights, state = get_state_dict(first, made, options=options)
        second = sharded_net(name)
        again = optimizer(name, second)
        if options is None:
            checkpoint.save({"model": weights, "optimizer": state}, checkpoint_id=folder)
            weights, state = get_state_dict(second, again)
            checkpoint.load({"model": weights, "optimizer": state}, checkpoint_id=folder)
        set_state_dict(second, again, model_state_dict=weights, optim_state_dict=state, options=options)
        train(second, again, share(name), STEPS - 3)
        found.append(gathered(second))
    return found


def by_hand():
    """Gradients that are partial sums are added up; what is placed in another way is refused."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor

    mesh, rank = init_device_mesh("cpu", (2,)), dist.get_rank()
    draws = torch.Generator().manual_seed(3)
    value, parts = (torch.randn(*shape, 5, 4, generator=draws, dtype=torch.float64) for shape in ((), (2,)))
    plain = nn.Parameter(value.clone())
    plain.grad = parts.sum(0)
    Muon([plain], lr=0.1).step()
    found = {"alone": plain.detach()}
    for how, place in (("rows", Shard(0)), ("replicated", Replicate())):
        weight = nn.Parameter(distribute_tensor(value, mesh, [place]))
        weight.grad = DTensor.from_local(parts[rank], mesh, [Partial()])
        Muon([weight], lr=0.1).step()
        found[how] = weight.full_tensor().detach()
    columns = nn.Parameter(distribute_tensor(value, mesh, [Shard(1)]))
    columns.grad = distribute_tensor(parts[0], mesh, [Shard(1)])
    try:
        Muon([("w", columns)], lr=0.1).step()
    except ValueError as error:
        found["refusal"] = str(error)
    Muon([{"params": [nn.Parameter(value.clone())]}, {"params": [columns], "rule": "adamw"}], lr=0.1).step()
    found["columns by AdamW"] = bool((columns.full_tensor() != value).all())
    return found


def experts():
    """A stack of matrices, sharded along the stack."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Shard, distribute_tensor

    mesh = init_device_mesh("cpu", (2,))
    draws = torch.Generator().manual_seed(4)
    value, gradient = (torch.randn(3, 4, 5, generator=draws, dtype=torch.float64) for _ in range(2))
    found = []
    for spread in (lambda t: t.clone(), lambda t: distribute_tensor(t, mesh, [Shard(0)])):
        weight = nn.Parameter(spread(value))
        weight.grad = spread(gradient)
        axes = Axes(batch=(0,), out=(1,), in_=(2,)).to_dict()
        routes = [{"name": "e", "shape": [3, 4, 5], "role": "hidden", "rule": "matrix", "reason": "", "axes": axes}]
        Muon([{"params": [("e", weight)], "rule": "matrix", "routes": routes}], lr=0.1).step()
        found.append((weight.full_tensor() if hasattr(weight, "full_tensor") else weight).detach())
    return found


def jobs(folder):
    found = {name: fsdp(name) for name in METHODS}
    found |= {f"{name}, resumed": resumed(name, f"{folder}/{name}") for name in METHODS}
    return found | {"gpt, replicated": replicated("gpt"), "by hand": by_hand(), "experts": experts()}


def main(store, out):
    torch.set_num_threads(1)
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    dist.init_process_group(
        "gloo", init_method=f"file://{store}", rank=rank, world_size=size, timeout=datetime.timedelta(seconds=60)
    )
    torch.save(jobs(Path(out).parent), out)
    dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
