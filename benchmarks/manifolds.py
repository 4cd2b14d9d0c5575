"""Training on the Stiefel manifold: time and orthogonality against geoopt, geotorch, torch's parametrization and none.

    python benchmarks/manifolds.py [--quick]

Writes results/manifolds.json. Every competitor does whole training steps (forward, backward, step) of the same linear
maps on the same data, in turns; ratios are to isometry. A competitor whose step would take longer than the limit is
named, and not run.
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Callable, Iterator
from typing import Any

import _harness
import geoopt
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import orthogonal

import isometry as iso

try:
    import geotorch
except ImportError:  # not on every index
    geotorch = None

BATCH = 100
LIMIT_S = 5.0  # of a step, extrapolated from one matrix
Case = Callable[[], Any]
SIZES = [(20, 400, 400), (200, 400, 400), (20, 1024, 64), (20, 64, 1024)]  # matrices, outputs, inputs


class Maps(nn.Module):
    """Independent linear maps that all read one batch; what a network does besides is left out."""

    def __init__(self, count: int, rows: int, columns: int, weights: Tensor) -> None:
        super().__init__()
        self.maps = nn.ModuleList(nn.Linear(columns, rows, bias=False) for _ in range(count))
        with torch.no_grad():
            for layer, weight in zip(self.maps, weights, strict=True):
                layer.weight.copy_(weight)

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        """Sum of the maps' mean squared errors."""
        return torch.stack([(layer(x) - y).square().mean() for layer in self.maps]).sum()


class GeooptMaps(nn.Module):
    """The same with geoopt's parameters, upright, since its Stiefel manifold has tall matrices only."""

    def __init__(self, weights: Tensor, canonical: bool) -> None:
        super().__init__()
        self.wide = weights.shape[-2] < weights.shape[-1]
        manifold = geoopt.Stiefel(canonical=canonical)
        self.weights = nn.ParameterList(
            geoopt.ManifoldParameter((w.mT if self.wide else w).clone(), manifold=manifold) for w in weights
        )

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        """Sum of the maps' mean squared errors."""
        return torch.stack([(x @ (w if self.wide else w.mT) - y).square().mean() for w in self.weights]).sum()


def competitors(method: str, weights: Tensor, lr: float) -> dict[str, Callable[[], tuple[nn.Module, Any]]]:
    """Give, by name, what makes a model and its optimizer."""
    count, rows, columns = weights.shape
    plain = torch.optim.SGD if method == "sgd" else torch.optim.Adam
    ours = iso.optim.RiemannianSGD if method == "sgd" else iso.optim.RiemannianAdam
    theirs = geoopt.optim.RiemannianSGD if method == "sgd" else geoopt.optim.RiemannianAdam

    def maps() -> Maps:
        return Maps(count, rows, columns, weights)

    def constrained(metric: str) -> tuple[nn.Module, Any]:
        model = maps()
        iso.manifolds.constrain_(model, iso.manifolds.Stiefel(metric), names="maps.*.weight", scale=1.0)
        return model, ours(model.parameters(), lr=lr)

    def parametrized(name: str) -> tuple[nn.Module, Any]:
        model = maps()
        for layer in model.maps:
            if name == "geotorch":
                geotorch.orthogonal(layer, "weight")
                layer.weight = layer.weight.detach().clone()
            else:
                orthogonal(layer, orthogonal_map=name)
        return model, plain(model.parameters(), lr=lr)

    def geoopts(canonical: bool) -> tuple[nn.Module, Any]:
        model = GeooptMaps(weights, canonical)
        return model, theirs(model.parameters(), lr=lr)

    def unconstrained() -> tuple[nn.Module, Any]:
        model = maps()
        return model, plain(model.parameters(), lr=lr)

    made: dict[str, Callable[[], tuple[nn.Module, Any]]] = {
        "isometry": lambda: constrained("embedded"),
        "isometry_canonical": lambda: constrained("canonical"),
        "geoopt": lambda: geoopts(canonical=False),
        "geoopt_canonical": lambda: geoopts(canonical=True),
        "torch_cayley": lambda: parametrized("cayley"),
        "torch_matrix_exp": lambda: parametrized("matrix_exp"),
        "torch_householder": lambda: parametrized("householder"),
        f"no_constraint_{method}": unconstrained,
    }
    if geotorch is not None:
        made["geotorch"] = lambda: parametrized("geotorch")
    return made


def stepper(model: Any, optimizer: Any, x: Tensor, y: Tensor) -> Case:
    def step() -> None:
        optimizer.zero_grad()
        model.loss(x, y).backward()
        optimizer.step()

    return step


def start(count: int, rows: int, columns: int) -> tuple[Tensor, Tensor, Tensor]:
    source = torch.Generator().manual_seed(0)
    weights = iso.linalg.haar(rows, columns, batch=(count,), generator=source)
    return weights, torch.randn(BATCH, columns, generator=source), torch.randn(BATCH, rows, generator=source)


def steps(method: str, count: int, rows: int, columns: int, quick: bool) -> dict[str, Any]:
    """Time whole training steps."""
    weights, x, y = start(count, rows, columns)
    cases: dict[str, Case] = {}
    dropped: dict[str, str] = {}
    alone = competitors(method, weights[:1], 1e-3)
    for name, make in competitors(method, weights, 1e-3).items():
        try:
            single = stepper(*alone[name](), x, y)
            began = time.perf_counter()
            single()
            took = count * (time.perf_counter() - began)
            if took > (1.0 if quick else LIMIT_S):  # its first step, which may be its slowest: try another
                began = time.perf_counter()
                single()
                took = count * (time.perf_counter() - began)
            if took > (1.0 if quick else LIMIT_S):
                dropped[name] = f"a step would take about {took:.0f} s, by that of one matrix"
                continue
            case = stepper(*make(), x, y)
            case()
        except Exception as error:  # noqa: BLE001 - a peer that fails is a result
            dropped[name] = f"{type(error).__name__}: {str(error).splitlines()[0][:120]}"
            continue
        cases[name] = case
    timing = _harness.interleave(cases, rounds=3 if quick else 5)
    return {
        "method": method,
        "matrices": count,
        "rows": rows,
        "columns": columns,
        "competitors": timing.report("isometry") | {name: {"missing": why} for name, why in dropped.items()},
    }


def defects(method: str, quick: bool, count: int = 4, width: int = 400) -> dict[str, Any]:
    """Measure orthogonality after a thousand steps."""
    weights, x, y = start(count, width, width)
    wanted = ("isometry", "isometry_canonical", "geoopt", "geoopt_canonical", "torch_cayley")
    number = 50 if quick else 1000
    found = {}
    for name, make in competitors(method, weights, 1e-3).items():
        if name not in wanted:
            continue
        model, optimizer = make()
        case = stepper(model, optimizer, x, y)
        began = time.perf_counter()
        for _ in range(number):
            case()
        took = time.perf_counter() - began
        ends = [w.detach().double() for w in _weights(model)]
        off = [(w.mT @ w - torch.eye(width, dtype=torch.float64)).abs().max().item() for w in ends]
        found[name] = {
            "largest_entry": float(f"{max(off):.2g}"),
            "frobenius": float(f"{max(iso.linalg.orthogonality_defect(w) for w in ends):.2g}"),
            "loss": round(model.loss(x, y).item(), 4),
            "seconds": round(took, 1),
        }
    return {"method": method, "matrices": count, "width": width, "steps": number, "competitors": found}


def _weights(model: Any) -> Iterator[Tensor]:
    if isinstance(model, GeooptMaps):
        yield from model.weights
    else:
        yield from (layer.weight for layer in model.maps)


def whole_run(quick: bool) -> dict[str, Any]:
    """Time steps of a deep tanh perceptron on digits, with and without the constraint."""
    depth, width = (20, 400) if quick else (200, 400)
    data = iso.data.load("digits")
    x, y = data.inputs[:1000], data.targets[:1000]

    def case(constrained: bool) -> Case:
        spec = f"mlp:depth={depth},width={width},activation=tanh"
        model = iso.nn.reference_model(spec, in_shape=data.shape, classes=10)
        iso.init.critical_(model, q_star=1 / 64, generator=torch.Generator().manual_seed(0))
        if constrained:
            iso.manifolds.constrain_(model, "stiefel")
            optimizer: Any = iso.optim.RiemannianAdam(model.parameters(), lr=1e-3)
        else:
            optimizer = torch.optim.Adam(model.parameters(), lr=1e-5)

        def step() -> None:
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()

        for _ in range(2 if quick else 5):  # the first steps of Adam are its longest
            step()
        return step

    timing = _harness.interleave({"adam": case(False), "stiefel": case(True)}, rounds=3 if quick else 7)
    return {"depth": depth, "width": width, "batch": 1000, "times": timing.report("adam")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few matrices, steps and rounds; writes nothing")
    quick = parser.parse_args().quick
    sizes = [(4, 400, 400), (4, 1024, 64), (4, 64, 1024)] if quick else SIZES
    body = {
        "what": (
            f"whole training steps of linear maps with orthonormal weights, float32, batch {BATCH}, learning rate 1e-3"
        ),
        "steps": [steps(method, *size, quick) for method, size in itertools.product(("sgd", "adam"), sizes)],
        "defects": [defects(method, quick) for method in ("sgd", "adam")],
        "whole_run": whole_run(quick),
    }
    for row in body["steps"]:
        print(f"{row['method']}, {row['matrices']} of {row['rows']} x {row['columns']}")
        for name, found in row["competitors"].items():
            said = found.get("missing") or (
                f"{1e3 * found['median_s']:.1f} ms, best {1e3 * found['best_s']:.1f}, "
                f"x{found['ratio_to_isometry']:.2f}, processor time x{found['cpu_ratio_to_isometry']:.2f}"
            )
            print(f"  {name}: {said}")
    for row in body["defects"]:
        print(row)
    print(body["whole_run"])
    if not quick:
        print("wrote", _harness.write("manifolds", body))


if __name__ == "__main__":
    main()
