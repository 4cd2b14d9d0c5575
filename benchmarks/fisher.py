"""The whole exact Fisher spectrum against peers' top eigenvalue alone: time, memory, growth, accuracy.

    python benchmarks/fisher.py [--quick]

Writes results/fisher.json. The peers (backpack, curvlinops, pyhessian, nngeometry) are imported if the interpreter has
them; one that is missing or fails is reported as such. Competitors take turns within one run. All nets are tanh
perceptrons near isometry (orthogonal weights for q* = 1/64), float32, N = 100 samples, C = 10 outputs.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import math
import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import _harness
import torch
from torch import Tensor, nn
from torch.func import functional_call, jacrev, vmap

from isometry import measure

SAMPLES, CLASSES, INPUTS = 100, 10, 64
SIZES = ((20, 200), (100, 200), (200, 400))  # depth, width
SIGMA_W, SIGMA_B, Q_STAR = 1.0151638, 0.002156695, 1 / 64  # critical for tanh
EIGSH_TOLERANCE = 1e-3  # generous: scipy's default is machine precision


def network(depth: int, width: int, classes: int = CLASSES) -> nn.Sequential:
    """A tanh perceptron near isometry."""
    torch.manual_seed(0)
    sizes = [INPUTS, *[width] * depth, classes]
    layers: list[nn.Module] = []
    for inside, outside in pairwise(sizes):
        layer = nn.Linear(inside, outside)
        nn.init.orthogonal_(layer.weight, gain=SIGMA_W)
        nn.init.normal_(layer.bias, std=SIGMA_B)
        layers += [layer, nn.Tanh()]
    return nn.Sequential(*layers[:-1])


def batch(width: int, samples: int = SAMPLES, classes: int = CLASSES) -> tuple[Tensor, Tensor]:
    """Inputs whose first pre-activations have second moment q*, and labels."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(samples, INPUTS, generator=generator)
    x = x / x.norm(dim=1, keepdim=True) * math.sqrt(max(INPUTS, width) * (Q_STAR - SIGMA_B**2)) / SIGMA_W
    return x, torch.randint(0, classes, (samples,), generator=generator)


# -- the peers: each returns its top eigenvalue (or all eigenvalues) and the matrix-vector products that it took --


def eigsh(size: int, product: Callable[[Tensor], Tensor]) -> tuple[float, int]:
    """The largest eigenvalue by scipy's Lanczos, which is what these peers' documentation recommends."""
    from scipy.sparse.linalg import LinearOperator
    from scipy.sparse.linalg import eigsh as scipy_eigsh

    count = 0

    def matvec(vector: Any) -> Any:
        nonlocal count
        count += 1
        return product(torch.from_numpy(vector.reshape(-1)).float()).double().numpy()

    operator = LinearOperator((size, size), matvec=matvec, dtype="float64")
    value = scipy_eigsh(operator, k=1, tol=EIGSH_TOLERANCE, return_eigenvectors=False, v0=torch.ones(size).numpy())
    return float(value[0]), count


def backpack(model: nn.Sequential, x: Tensor, y: Tensor) -> tuple[float, int]:
    """Generalized Gauss-Newton products on one retained graph."""
    ggn = importlib.import_module("backpack.hessianfree.ggnvp").ggn_vector_product_from_plist
    parameters = list(model.parameters())
    out = model(x)
    loss = nn.functional.cross_entropy(out, y)

    def product(vector: Tensor) -> Tensor:
        parts = [p.view_as(q) for p, q in zip(vector.split([q.numel() for q in parameters]), parameters, strict=True)]
        return torch.cat([g.detach().reshape(-1) for g in ggn(loss, out, parameters, parts)])

    return eigsh(sum(p.numel() for p in parameters), product)


def curvlinops(model: nn.Sequential, x: Tensor, y: Tensor) -> tuple[float, int]:
    """The GGN linear operator."""
    peer = importlib.import_module("curvlinops")
    parameters = dict(model.named_parameters())
    try:
        operator = peer.GGNLinearOperator(model, nn.CrossEntropyLoss(), parameters, [(x, y)], check_deterministic=False)
    except (TypeError, ValueError, AttributeError):  # older releases take a list
        operator = peer.GGNLinearOperator(
            model, nn.CrossEntropyLoss(), list(parameters.values()), [(x, y)], check_deterministic=False
        )
    return eigsh(sum(p.numel() for p in parameters.values()), lambda v: operator @ v)


def pyhessian(model: nn.Sequential, x: Tensor, y: Tensor) -> tuple[float, int]:
    """Power iteration on the Hessian (not the Fisher matrix: the nearest that it offers), to 1e-3."""
    peer = importlib.import_module("pyhessian")
    values, _ = peer.hessian(model, nn.CrossEntropyLoss(), data=(x, y), cuda=False).eigenvalues(tol=EIGSH_TOLERANCE)
    for parameter in model.parameters():
        parameter.grad = None
    return float(values[0]), -1


def nngeometry(model: nn.Sequential, x: Tensor, y: Tensor) -> tuple[float, int]:
    """The whole spectrum of the Gram matrix of output Jacobians: the identity metric only, not the softmax's."""
    from torch.utils.data import DataLoader, TensorDataset

    gram = importlib.import_module("nngeometry.gram").GramMatrix
    loader = DataLoader(TensorDataset(x, y), batch_size=len(x))
    size = len(x) * CLASSES
    matrix = gram(model, loader).to_torch().reshape(size, size)
    return float(torch.linalg.eigvalsh(matrix)[-1]) / len(x), 0


def dense_jacobian(model: nn.Sequential, x: Tensor, _y: Tensor) -> tuple[float, int]:
    """All eigenvalues by torch.func's full per-sample Jacobian, times the closed-form root of the softmax's Hessian."""
    parameters = {n: p.detach() for n, p in model.named_parameters()}

    def output(values: dict[str, Tensor], sample: Tensor) -> Tensor:
        return functional_call(model, values, (sample.unsqueeze(0),)).squeeze(0)

    parts = vmap(jacrev(output), in_dims=(None, 0))(parameters, x)
    rows = torch.cat([parts.pop(n).flatten(2) for n in list(parts)], 2)  # (N, C, size)
    s = model(x).detach().softmax(1).sqrt()
    root = torch.diag_embed(s) - (s**2).unsqueeze(2) * s.unsqueeze(1)
    rows = torch.bmm(root.transpose(1, 2), rows).flatten(0, 1)
    return float(torch.linalg.eigvalsh(rows @ rows.T)[-1]) / len(x), 0


PEERS = {"backpack": backpack, "curvlinops": curvlinops, "pyhessian": pyhessian, "nngeometry": nngeometry}
OF_FISHER = ("backpack", "curvlinops", "torch.func")  # whose eigenvalue is the same number as ours
DENSE_LIMIT = 10 * 2**30  # bytes
PATIENCE = 25  # seconds beyond which a peer runs once only


# -- what is measured --


def usable(peers: dict[str, Any], model: nn.Sequential, x: Tensor, y: Tensor) -> tuple[dict[str, Any], dict[str, Any]]:
    """Try every peer once; those that cannot run are reported with their error.

    Returns:
        Peers that run, and what each of all of them found.
    """
    good, found = {}, {}
    for name, run in peers.items():
        try:
            started = time.perf_counter()
            value, products = run(model, x, y)
            found[name] = {
                "lambda_max": value,
                "products": products,
                "first_s": round(time.perf_counter() - started, 3),
            }
            good[name] = run
        except ImportError as error:
            found[name] = {"missing": f"not installed: {error}"}
        except Exception as error:  # noqa: BLE001 - a peer's failure is a finding
            found[name] = {"missing": f"failed: {type(error).__name__}: {str(error).splitlines()[0]}"}
        gc.collect()
    return good, found


def speed(depth: int, width: int, quick: bool) -> dict[str, Any]:
    """Our whole spectrum, eight of our own products, and every peer, taking turns."""
    model = network(depth, width)
    x, y = batch(width)
    f, apart = measure.fisher(model, x), measure.fisher(model, x, dense=False)
    vector = torch.randn(f.size)
    peers: dict[str, Any] = dict(PEERS)
    needed = 3 * SAMPLES * CLASSES * f.size * 4
    if needed <= DENSE_LIMIT and not quick:
        peers["torch.func"] = dense_jacobian
    good, found = usable(peers, model, x, y)
    if "torch.func" not in peers:
        found["torch.func"] = {"missing": f"refused: the full Jacobian needs {needed / 2**30:.0f} GiB"}
    slow = [name for name in good if found[name]["first_s"] > PATIENCE]  # timed once, when they were tried
    cases = {
        "isometry": lambda: measure.fisher(model, x),
        "isometry_8_products": lambda: [apart.matvec(vector) for _ in range(8)],
        "isometry_8_products_on_one_graph": lambda: [f.matvec(vector, keep_graph=True) for _ in range(8)],
        **{name: (lambda run=run: run(model, x, y)) for name, run in good.items() if name not in slow},
    }
    timing = _harness.interleave(cases, rounds=1 if quick else 5, warmup=0 if quick else 1)
    for name, row in timing.report("isometry").items():
        found.setdefault(name, {}).update(row)
    for name in slow:
        found[name]["ratio_to_isometry"] = round(found[name]["first_s"] / timing.median("isometry"), 3)
    for name in OF_FISHER:
        if "lambda_max" in found.get(name, {}):
            found[name]["relative_difference"] = abs(found[name]["lambda_max"] / f.lambda_max - 1)
    found["isometry"] |= {"lambda_max": f.lambda_max, "eigenvalues": len(f.eigenvalues()), "residual": f.residual}
    return {"depth": depth, "width": width, "competitors": found, "memory": memory(depth, width)}


def activation_bytes(model: nn.Sequential, x: Tensor) -> int:
    """Bytes of all modules' outputs."""
    total = x.numel() * x.element_size()
    with torch.no_grad():
        for module in model:
            x = module(x)
            total += x.numel() * x.element_size()
    return total


def measured_alone(depth: int, width: int) -> None:
    """What the fresh process of ``peak_rss`` runs."""
    measure.fisher(network(depth, width), batch(width)[0])


def memory(depth: int, width: int) -> dict[str, Any]:
    """Peak bytes of the whole measurement, parameters included, over parameters plus activations."""
    model, (x, _) = network(depth, width), batch(width)
    parameters = sum(p.numel() * p.element_size() for p in model.parameters())
    base = parameters + activation_bytes(model, x)
    tensors = _harness.peak_tensor_bytes(lambda: measure.fisher(model, x)) + parameters
    resident = _harness.peak_rss(__file__, "measured_alone", depth, width)
    return {
        "parameters_and_activations": base,
        "tensors": tensors,
        "tensors_ratio": round(tensors / base, 2),
        "resident": resident,
        "resident_ratio": round(resident / base, 2),
        "foreseen_by_cost": measure.fisher(model, x).cost.bytes,
    }


def growth(quick: bool) -> dict[str, Any]:
    """Seconds and bytes against the number of samples and of classes, at 100 x 200, with log-log slopes."""
    depth, width = (10, 100) if quick else (100, 200)
    found: dict[str, Any] = {"depth": depth, "width": width}
    for what, values in (("samples", (25, 50, 100, 200, 400)), ("classes", (2, 5, 10, 20, 40))):
        cases, bytes_of = {}, {}
        for value in values[:2] if quick else values:
            samples, classes = (value, CLASSES) if what == "samples" else (SAMPLES, value)
            model, (x, _) = network(depth, width, classes), batch(width, samples, classes)
            cases[str(value)] = lambda model=model, x=x: measure.fisher(model, x)
            bytes_of[str(value)] = _harness.peak_tensor_bytes(cases[str(value)])
        timing = _harness.interleave(cases, rounds=1 if quick else 3)
        rows = {k: {"median_s": round(timing.median(k), 4), "bytes": bytes_of[k]} for k in cases}
        first, last = list(cases)[-2:]  # the slope where the quadratic part rules
        ratio = math.log(int(last) / int(first))
        found[what] = {
            "rows": rows,
            "slope_of_time": round(math.log(timing.ratio(last, first)) / ratio, 2),
            "slope_of_bytes": round(math.log(bytes_of[last] / bytes_of[first]) / ratio, 2),
        }
    return found


def accuracy(depth: int, width: int) -> dict[str, Any]:
    """A float32 model against the same in float64; and what float32 sums would have cost."""
    model, (x, _) = network(depth, width), batch(width)
    single, double = measure.fisher(model, x), measure.fisher(network(depth, width).double(), x.double())
    wanted = double.eigenvalues()
    error = ((single.eigenvalues() - wanted) / wanted).abs()
    noisy = torch.linalg.eigvalsh(single.gram.float()).flip(0).double()  # the dual merely rounded to float32
    rough = ((noisy - wanted) / wanted).abs()
    return {
        "depth": depth,
        "width": width,
        "condition_to_smallest": float(f"{double.condition().smallest:.3g}"),
        "relative_error_float64_sums": {"median": float(error.median()), "worst": float(error.max())},
        "relative_error_float32_dual": {"median": float(rough.median()), "worst": float(rough.max())},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small nets, one round; writes nothing")
    quick = parser.parse_args().quick
    sizes = ((10, 50),) if quick else SIZES
    body = {
        "what": "all nonzero eigenvalues of the Fisher matrix, float32 tanh nets, N=100, C=10, against peers' largest",
        "notes": [
            "isometry: a whole fresh call of measure.fisher, its self-check and the eigenvalues included",
            "isometry_8_products: eight Fisher-vector products; ..._on_one_graph: with one kept graph for all",
            f"backpack, curvlinops: scipy's eigsh for one eigenvalue, tol={EIGSH_TOLERANCE}",
            "pyhessian: one eigenvalue of the Hessian by power iteration; nngeometry: whole Gram, identity metric only",
            "ratio_to_isometry above 1: slower than our whole spectrum",
        ],
        "sizes": [speed(depth, width, quick) for depth, width in sizes],
        "growth": growth(quick),
        "accuracy": [accuracy(depth, width) for depth, width in sizes[:2]],
        "matmul_gflops": {
            "float32": round(_harness.matmul_rate() / 1e9, 1),
            "float64": round(_harness.matmul_rate(dtype=torch.float64) / 1e9, 1),
        },
    }
    for row in body["sizes"]:
        ours = row["competitors"]["isometry"]
        print(f"{row['depth']} x {row['width']}: {ours['eigenvalues']} eigenvalues in {ours['median_s']:.2f} s")
        for name, found in row["competitors"].items():
            if "missing" in found:
                print(f"    {name:33s} missing: {found['missing']}")
            elif "median_s" in found:
                ratio, work = found["ratio_to_isometry"], found["cpu_ratio_to_isometry"]
                print(f"    {name:33s} {found['median_s']:8.2f} s = x{ratio:.2f} (processor time x{work:.2f})")
            else:
                print(f"    {name:33s} {found['first_s']:8.2f} s = x{found['ratio_to_isometry']:.2f}, timed once")
        print(f"    memory {row['memory']}")
    print("growth", body["growth"])
    print("accuracy", body["accuracy"])
    if not quick:
        print("wrote", _harness.write("fisher", body))


if __name__ == "__main__":
    main()
