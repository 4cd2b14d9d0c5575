"""What is measured by one process and by two, and the program that two of them run.

``python -m tests.distributed.jobs STORE OUT``, in an environment as torchrun makes it, runs everything as one of
several processes and saves the results.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from typer.testing import CliRunner

from isometry import Inputs, measure
from isometry.cli._processes import as_one_of_many
from tests.measure.fisher_models import case
from tests.measure.test_groups import encoder, net

# Convolutions with groups, reused and tied weights, an embedding that is the head too, activations that are
# overwritten, raw parameters, recurrence, attention, samples that share a dimension with positions.
CASES = (
    "mlp",
    "cnn",
    "residual, in place",
    "reused and tied",
    "tied head",
    "raw parameters",
    "gru",
    "attention",
    "merged, positions first",
)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def mlp(width=7, classes=4):
    """Odd numbers everywhere: units and samples divide unequally."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, width), nn.Tanh(), nn.Linear(width, 5), nn.ReLU(), nn.Linear(5, classes)).double()


def batch(count=5):
    return torch.randn(count, 3, generator=seeded(1), dtype=torch.float64)


def labels(count=5):
    return torch.arange(count) % 4


def tokens():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(9, 3), nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    return model, torch.randint(0, 9, (5, 4), generator=seeded(2))


def every_case(name):
    model, x, _ = case(name)
    fim = measure.fisher(model, x)
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    return {
        "gram": fim.gram,
        "self-check": float(fim.residual < 1e-12),
        "layers": torch.cat([layer.eigenvalues for layer in fim.per_layer()]),
        "bound": float(fim.bound()),
        "ntk": measure.ntk(model, x).values,
        "per output": measure.ntk(model, x, form="per-output").values,
    }


def fisher_kinds():
    model, x = mlp(), batch()
    found = {}
    for name, options in {
        "empirical": {"kind": "empirical", "targets": labels()},
        "monte-carlo": {"kind": "monte-carlo", "generator": seeded()},
        "gaussian": {"likelihood": "gaussian"},
        "hidden": {"params": "hidden"},
    }.items():
        fim = measure.fisher(model, x, **options)
        vector = torch.linspace(-1, 1, fim.size, dtype=torch.float64)
        found |= {
            f"{name}, spectrum": fim.eigenvalues(),
            f"{name}, product": fim.matvec(vector),
            f"{name}, top": fim.top(2).eigenvalues,
            f"{name}, trace": measure.fisher(model, x, dense=False, **{**options, "generator": seeded()}).trace,
        }
    found["theorem"] = float(measure.fisher(model, x, params="hidden").bound("theorem"))
    return found


def masked_tokens():
    model, x = tokens()
    mask = torch.tensor([[1, 1, 1, 0], [1, 0, 0, 0], [1, 1, 1, 1], [0, 0, 0, 0], [0, 0, 0, 0]]).bool()
    fim = measure.fisher(model, x, mask=mask)  # the second process's share has no position that counts
    drawn = measure.fisher(model, x, kind="monte-carlo", generator=seeded())
    return {"spectrum": fim.eigenvalues(), "top": fim.top(2).eigenvalues, "drawn": drawn.eigenvalues()}


def between_batches():
    model = mlp()
    return {"kernel": measure.ntk(model, batch(3), batch(4), form="trace", outputs=[0, 2]).values}


def large_parameters():
    """Rows of a parameter without closed form that are taken some samples at a time."""
    from isometry.measure import _gram

    model, x, _ = case("gru")
    kept, _gram.CHUNK_BYTES = _gram.CHUNK_BYTES, 3000
    try:
        return {"gram": measure.fisher(model, x).gram, "small": measure.ntk(model, x[:3], form="per-output").values}
    finally:
        _gram.CHUNK_BYTES = kept


def one_sample():
    return {"gram": measure.fisher(mlp(), batch(1)).gram}


def whole_graph():
    model = mlp()
    fim = measure.fisher(model, Inputs((batch(),), whole=True))
    return {"spectrum": fim.eigenvalues()}


def many_processes_per_unit():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 1), nn.Tanh(), nn.LayerNorm(1), nn.Linear(1, 2)).double()
    return {"gram": measure.fisher(model, batch()).gram}


class OverwritesInPairs(nn.Module):
    """Overwrites an activation where its batch has two samples: the second process's sweep has to begin again."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.inp, self.a, self.out = nn.Linear(3, 5), nn.Linear(5, 5), nn.Linear(5, 3)
        self.double()

    def forward(self, x):
        h = self.inp(x)
        y = torch.tanh(self.a(h))
        h = h.add_(y) if len(x) == 2 else h + y
        return self.out(h)


def groups():
    """Slices of weights whose units and numbers are divided between the processes."""
    found = {}
    for build in (net, encoder):
        fim = measure.fisher(*build(), likelihood="gaussian")
        for spectra in (fim.per_group(by="head"), fim.per_group(by="block"), fim.per_group({"b": "*bias", "all": "*"})):
            found |= {f"{build.__name__} {spectra.by} {group.name}": group.eigenvalues for group in spectra}
    return found


def begun_again():
    return {"kernel": measure.ntk(OverwritesInPairs(), batch()).values}


def confusion():
    model, x, y = mlp(), batch(), labels()
    found = measure.gradient_confusion(model, x, y, per_layer=True)
    drawn = measure.gradient_confusion(model, x, y, batch_size=2, pairs=3, generator=seeded())
    passes = measure.gradient_confusion(model, x, y, batch_size=2, route="passes", generator=seeded())
    gram = measure.gradient_gram(model, x, y, per_layer=True)
    return {
        "numbers": [found.eta, found.min_cosine, found.mean, found.std, found.mean_loss, found.mean_gradient_norm],
        "cosines": found.cosines,
        "layers": [layer.eta for layer in found.layers],
        "drawn": drawn.cosines,
        "passes": passes.cosines,
        "gram": gram.gram,
        "parts": torch.stack(list(gram.layers.values())),
    }


def conv_net():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 3, 3, stride=2), nn.Tanh(), nn.Conv2d(3, 2, 2), nn.Tanh(), nn.Flatten(), nn.Linear(8, 3)
    )
    return model.double(), torch.randn(5, 1, 7, 7, generator=seeded(3), dtype=torch.float64), torch.arange(5) % 3


def by_function(out, y):
    """A loss that ties the samples together."""
    return (out.square().sum() + out.exp().sum().log() * y.sum()).sqrt()


def curvatures():
    model, x, y = conv_net()
    embedding, ids = tokens()
    normed = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 3)).double()
    with torch.no_grad():
        for p, value in zip(normed.parameters(), torch.randn(99, generator=seeded(4)), strict=False):
            p.fill_(float(value)).add_(torch.arange(p.numel(), dtype=p.dtype).view(p.shape).sin())
    found = {}
    for name, measured in {
        "hessian": measure.curvature(model, x, y),
        "gauss-newton": measure.curvature(model, x, y, kind="gauss-newton"),
        "a function": measure.curvature(model, x, y, loss=by_function),
        "a function, gauss-newton": measure.curvature(model, x, y, loss=by_function, kind="gauss-newton"),
        "tokens": measure.curvature(embedding, ids, ids % 3),
        "mse": measure.curvature(mlp(), batch(), batch()[:, [0, 1, 2, 0]], loss="mse"),
        "batch statistics": measure.curvature(normed, batch(), labels() % 3),
    }.items():
        found[f"{name}, matrix"] = measured.dense()
        found[f"{name}, numbers"] = [measured.value, measured.gradient_norm]
    hessian = measure.curvature(model, x, y)
    found["top"] = hessian.top(2, tolerance=1e-9).eigenvalues
    found["trace"] = hessian.trace(max_probes=8, generator=seeded()).value
    found["diagonal"] = hessian.diagonal(max_probes=8, generator=seeded()).values
    found["density"] = hessian.spectral_density(steps=5, probes=2, generator=seeded()).density
    return found


JOBS = {
    **{name: (lambda name=name: every_case(name)) for name in CASES},
    "kinds of Fisher matrices": fisher_kinds,
    "masked tokens": masked_tokens,
    "between batches": between_batches,
    "large parameters": large_parameters,
    "one sample": one_sample,
    "whole graph": whole_graph,
    "more processes than units": many_processes_per_unit,
    "begun again": begun_again,
    "groups": groups,
    "confusion": confusion,
    "curvatures": curvatures,
}


# -- what goes wrong ---------------------------------------------------------------------------------------------------


class Fails(nn.Module):
    """Raises on one process, in the forward pass over the share or on the way back."""

    def __init__(self, rank, where):
        super().__init__()
        self.inner, self.rank, self.where, self.calls = mlp(), rank, where, 0

    def forward(self, x):
        self.calls += 1
        if self.rank == 1 and self.where == "forward" and self.calls == 1:
            raise KeyError("bang")
        y = self.inner(x)
        if self.rank == 1 and self.where == "backward" and y.requires_grad and len(x) == 2:
            y.register_hook(self.explode)
        return y

    @staticmethod
    def explode(_gradient):
        raise ArithmeticError("bang on the way back")


def failing_forward(rank):
    with measure.data_parallel():
        measure.fisher(Fails(rank, "forward"), batch())


def failing_backward(rank):
    with measure.data_parallel():
        measure.fisher(Fails(rank, "backward"), batch())


def failing_between(rank):
    with measure.data_parallel():
        if rank == 1:
            raise LookupError("no data here")
        measure.fisher(mlp(), batch())


def failing_and_going_on(rank):
    """One process catches its error and goes on; the other does not."""
    with measure.data_parallel():
        with contextlib.suppress(KeyError, ValueError):
            measure.fisher(Fails(rank, "forward"), batch())
        measure.ntk(mlp(), batch())


def other_batch(rank):
    with measure.data_parallel():
        measure.fisher(mlp(), batch().roll(rank, 0))


def other_model(rank):
    model = mlp()
    with torch.no_grad():
        model[2].bias[0] += rank
    with measure.data_parallel():
        measure.ntk(model, batch())


def other_call(rank):
    with measure.data_parallel():
        if rank == 0:
            measure.fisher(mlp(), batch())
        else:
            measure.ntk(mlp(), batch())


def leaving_early(rank):
    with measure.data_parallel():
        if rank == 0:
            measure.fisher(mlp(), batch())


def nested(rank):
    with measure.data_parallel(), measure.data_parallel():
        pass


def same_error(rank):
    """An error that all have, caught by all, does not end the block."""
    with measure.data_parallel():
        with contextlib.suppress(ValueError):
            measure.fisher(mlp(), batch().fill_(float("nan")))
        return measure.fisher(mlp(), batch()).lambda_max


def own_random_numbers(rank):
    """Without a generator all processes draw what the first one draws, from different global states."""
    model, x, y = conv_net()
    torch.manual_seed(rank)
    with measure.data_parallel(dist.new_group([0, 1])):
        drawn = measure.fisher(model, x, kind="monte-carlo").lambda_max
        trace = measure.curvature(model, x, y).trace(max_probes=4).value
        split = measure.gradient_confusion(model, x, y, batch_size=2).min_cosine
    return [drawn, trace, split]


def kept_graph(rank):
    """A graph that was kept inside of the block is of a share, and is not used outside."""
    model, x, y = conv_net()
    with measure.data_parallel():
        hessian = measure.curvature(model, x, y)
        vector = torch.ones(hessian.size, dtype=torch.float64)
        inside = hessian.matvec(vector, keep_graph=True)
    return float((hessian.matvec(vector) - inside).norm() / inside.norm())


def outside(rank):
    """Nothing is exchanged outside a block, whatever was measured inside: process 1 asks nothing."""
    with measure.data_parallel():
        fim = measure.fisher(mlp(), batch())
        fim.matvec(torch.ones(fim.size, dtype=torch.float64), keep_graph=True)
    if rank == 0:
        measure.fisher(mlp(), batch())
        product = fim.matvec(torch.ones(fim.size, dtype=torch.float64))
        return {"top": fim.top(1).eigenvalues, "layers": len(fim.per_layer()), "product": product}
    return None


def other_model_on_the_command_line(rank):
    from isometry.cli import app

    file = Path(sys.argv[1]).with_name(f"net{rank}.py")
    file.write_text(f"import torch\ndef build():\n    torch.manual_seed({rank})\n    return torch.nn.Linear(7, 5)\n")
    done = CliRunner().invoke(app, ["diagnose", f"{file}:build", "--in-shape", "7", "--samples", "5"])
    return done.exit_code, done.output


def killed(rank):
    """The last one: a process that is gone without a word."""
    with measure.data_parallel():
        if rank == 1:
            os._exit(0)
        measure.fisher(mlp(), batch())


WRONG = {
    f.__name__: f
    for f in (
        failing_forward,
        failing_backward,
        failing_between,
        failing_and_going_on,
        other_batch,
        other_model,
        other_call,
        leaving_early,
        nested,
        same_error,
        own_random_numbers,
        kept_graph,
        outside,
        other_model_on_the_command_line,
        killed,
    )
}


def exit_code(rank):
    """What the program ends with if one process ends with 0 and the other with 3; makes and ends a group of its own."""
    try:
        as_one_of_many(lambda: sys.exit(3 * rank))
    except SystemExit as end:
        return end.code


def main(store, out):
    torch.set_num_threads(1)
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    results, wrong, seconds = {}, {"exit_code": exit_code(rank)}, {}
    dist.init_process_group(
        "gloo", init_method=f"file://{store}", rank=rank, world_size=size, timeout=datetime.timedelta(seconds=60)
    )
    with measure.data_parallel():
        for name, job in JOBS.items():
            results[name] = job()
    for name, job in WRONG.items():
        torch.save({"results": results, "wrong": wrong, "seconds": seconds}, out)
        started = time.perf_counter()
        try:
            wrong[name] = job(rank)
        except Exception as error:  # noqa: BLE001 - whatever it is, the test reads it
            wrong[name] = f"{type(error).__name__}: {error}"
        seconds[name] = time.perf_counter() - started
    torch.save({"results": results, "wrong": wrong, "seconds": seconds}, out)


if __name__ == "__main__":
    main(*sys.argv[1:])
