"""Exact singular values of hidden Jacobians against vmap(jacrev) + svdvals, and against the matrix-product rate.

    python benchmarks/jacobian.py [--quick]

Writes results/jacobian.json. Both sides give all singular values of the Jacobians of tanh nets' last hidden layer at 16
inputs, in float32. The competitors take turns within one run; ratios below 1 mean faster than the peer. The rate counts
the products of the Jacobians alone, 2 * inputs * narrower side * (sum of the layers' in * out), over *all* of our time:
forward pass, checks and decomposition included; the machine's rate is that of the same layer's product, interleaved.
"""

from __future__ import annotations

import argparse
import statistics
from itertools import pairwise
from typing import Any

import _harness
import torch
from torch import Tensor, nn
from torch.func import jacrev, vmap

from isometry import measure
from isometry.linalg import haar

INPUTS = 16


def network(inputs: int, depth: int, width: int) -> nn.Sequential:
    """A tanh perceptron with orthogonal weights; its output is its last hidden layer."""
    layers: list[nn.Module] = []
    generator = torch.Generator().manual_seed(0)
    for a, b in pairwise([inputs, *[width] * depth]):
        linear = nn.Linear(a, b)
        with torch.no_grad():
            linear.weight.copy_(haar(b, a, generator=generator))
            linear.bias.zero_()
        layers += [linear, nn.Tanh()]
    return nn.Sequential(*layers)


def batch(inputs: int) -> Tensor:
    """Inputs whose pre-activations have a second moment of 1/64."""
    return torch.randn(INPUTS, inputs, generator=torch.Generator().manual_seed(1)) / 8


def ours(model: nn.Module, x: Tensor) -> Tensor:
    return measure.jacobian(model, x).singular_values()


def peer(model: nn.Module, x: Tensor) -> Tensor:
    return torch.linalg.svdvals(vmap(jacrev(lambda v: model(v[None])[0]))(x))


def products(rows: int, width: int, depth: int) -> Any:
    weight, here, there = torch.randn(width, width), torch.randn(rows, width), torch.empty(rows, width)

    def run() -> None:
        for _ in range(depth):
            torch.mm(here, weight, out=there)

    return run


def floats(inputs: int, depth: int, width: int) -> float:
    return 2.0 * INPUTS * min(inputs, width) * (inputs * width + (depth - 1) * width**2)


def speed(inputs: int, depth: int, width: int, rounds: int) -> dict[str, Any]:
    model, x = network(inputs, depth, width), batch(inputs)
    rows = INPUTS * min(inputs, width)
    timing = _harness.interleave(
        {
            "jacrev_svdvals": lambda: peer(model, x),
            "isometry": lambda: ours(model, x),
            "matrix_products": products(rows, width, depth),
        },
        rounds=rounds,
    )
    counted = floats(inputs, depth, width)
    raw = 2.0 * rows * width**2 * depth
    shares = {
        clock: statistics.median(
            (counted / a) / (raw / b) for a, b in zip(runs["isometry"], runs["matrix_products"], strict=True)
        )
        for clock, runs in (("wall", timing.seconds), ("cpu", timing.cpu_seconds))
    }
    return {
        "inputs": inputs,
        "depth": depth,
        "width": width,
        "samples": INPUTS,
        "times_faster_than_peer": round(1 / timing.ratio("isometry", "jacrev_svdvals"), 2),
        "times_faster_than_peer_cpu": round(1 / timing.cpu_ratio("isometry", "jacrev_svdvals"), 2),
        "share_of_matrix_product_rate": round(shares["wall"], 3),
        "share_of_matrix_product_rate_cpu": round(shares["cpu"], 3),
        "times": timing.report("jacrev_svdvals"),
    }


def accuracy(inputs: int, depth: int, width: int) -> dict[str, Any]:
    """Relative errors of the singular values against the same net in float64, above 1e-5 of the largest."""
    model, x = network(inputs, depth, width), batch(inputs)
    in_double = measure.jacobian(model, x, dtype=torch.float64).singular_values()
    approximate, reference = {"isometry": ours(model, x), "jacrev_svdvals": peer(model, x).double()}, None
    reference = peer(model.double(), x.double())
    sure = reference > 1e-5 * reference[:, :1]

    def error(values: Tensor) -> float:
        return float(f"{(values[sure] / reference[sure] - 1).abs().max().item():.2g}")

    return {
        "inputs": inputs,
        "depth": depth,
        "width": width,
        "smallest_over_largest": float(f"{(reference[:, -1] / reference[:, 0]).min().item():.2g}"),
        "largest_relative_error": {name: error(values) for name, values in approximate.items()},
        "with_float64_products": error(in_double),
    }


def memory(inputs: int, depth: int, width: int) -> dict[str, Any]:
    model, x = network(inputs, depth, width), batch(inputs)
    return {
        "inputs": inputs,
        "depth": depth,
        "width": width,
        "peak_mib": {
            "isometry": round(_harness.peak_tensor_bytes(lambda: ours(model, x)) / 2**20, 1),
            "jacrev_svdvals": round(_harness.peak_tensor_bytes(lambda: peer(model, x)) / 2**20, 1),
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="smaller nets and fewer rounds")
    parser.add_argument("--threads", type=int, default=None, help="threads of torch; default: its own choice")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    cases = [(64, 100, 200), (200, 100, 200), (64, 200, 400), (400, 200, 400)]
    if options.quick:
        cases = [(64, 20, 100), (100, 20, 100)]
    body = {
        "speed": [speed(*case, rounds=21 if case[2] < 400 else 5) for case in cases],
        "accuracy": [accuracy(*case) for case in cases[:2]],
        "memory": [memory(*case) for case in cases[:2]],
        "machine_matrix_product_gflops": round(_harness.matmul_rate() / 1e9, 1),
    }
    for row in body["speed"]:
        times, share = row["times_faster_than_peer"], row["share_of_matrix_product_rate"]
        times_cpu, share_cpu = row["times_faster_than_peer_cpu"], row["share_of_matrix_product_rate_cpu"]
        print(
            f"{row['inputs']:>4} inputs, {row['depth']} x {row['width']}: {times}x as fast (by cpu {times_cpu}x), "
            f"{share:.0%} of the matrix-product rate ({share_cpu:.0%})"
        )
    for row in body["accuracy"]:
        print(f"{row['inputs']:>4} inputs: largest relative error {row['largest_relative_error']}")
    print(_harness.write("jacobian", body))


if __name__ == "__main__":
    main()
