"""Orthogonal initialization against torch.nn.init.orthogonal_: time, orthogonality, memory.

    python benchmarks/orthogonal.py [--quick]

Writes results/orthogonal.json. The competitors take turns within one run; ratios below 1 mean faster than torch.
"""

from __future__ import annotations

import argparse
from typing import Any

import _harness
import torch

from isometry.init import orthogonal_
from isometry.linalg import haar, orthogonality_defect


def torch_loop(weights: list[torch.Tensor]) -> None:
    for weight in weights:
        torch.nn.init.orthogonal_(weight)


def our_loop(weights: list[torch.Tensor]) -> None:
    for weight in weights:
        orthogonal_(weight)


def our_batch(stack: torch.Tensor) -> None:
    orthogonal_(stack, batch_dims=1)


def torch_in_float64(width: int) -> torch.Tensor:
    """The straightforward way to the same orthogonality: factorize in float64 and round."""
    return torch.nn.init.orthogonal_(torch.empty(width, width, dtype=torch.float64)).float()


def networks(quick: bool) -> list[dict[str, Any]]:
    """Whole networks: torch's loop, our loop, and our single batched call."""
    rows = []
    for layers, width in [(200, 400), (200, 200), (200, 128), (200, 64), (200, 16)]:
        count = layers // 10 if quick else layers
        stack = torch.empty(count, width, width)  # the competitors overwrite the same memory
        weights = list(stack)
        timing = _harness.interleave(
            {
                "torch_loop": lambda w=weights: torch_loop(w),
                "isometry_loop": lambda w=weights: our_loop(w),
                "isometry_batch": lambda s=stack: our_batch(s),
            },
            rounds=3 if quick else 7,
        )
        rows.append({"layers": count, "width": width, **timing.report("torch_loop")})
    return rows


def single(width: int, quick: bool) -> dict[str, Any]:
    """One matrix: time and orthogonality of torch, of torch in float64, and ours."""
    torch.manual_seed(0)
    makers = {
        "torch": lambda: torch.nn.init.orthogonal_(torch.empty(width, width)),
        "torch_float64_rounded": lambda: torch_in_float64(width),
        "isometry": lambda: haar(width, width),
    }
    timing = _harness.interleave(makers, rounds=3 if quick else 15)
    defects = {name: orthogonality_defect(make()) for name, make in makers.items()}
    return {
        "width": width,
        "defect": "|Q^T Q - I|_F of the float32 matrix, evaluated in float64",
        "defects": {name: float(f"{value:.3g}") for name, value in defects.items()},
        "times_as_orthogonal_as_torch": round(defects["torch"] / defects["isometry"], 1),
        "times": timing.report("torch"),
    }


def memory(width: int, layers: int) -> dict[str, Any]:
    """Peak bytes of the tensors made besides the weights, over the bytes of the weights."""
    stack = torch.empty(layers, width, width)
    one, size = [stack[0]], 4 * width * width
    return {
        "width": width,
        "torch_one_layer": round(_harness.peak_tensor_bytes(lambda: torch_loop(one)) / size, 1),
        "isometry_one_layer": round(_harness.peak_tensor_bytes(lambda: our_loop(one)) / size, 1),
        f"isometry_batch_of_{layers}": round(_harness.peak_tensor_bytes(lambda: our_batch(stack)) / (layers * size), 1),
        "unit": "times the float32 weights that are filled",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a tenth of the layers, three rounds; writes nothing")
    quick = parser.parse_args().quick
    body = {
        "what": "orthogonal_ against torch.nn.init.orthogonal_, float32 weights, same process, taking turns",
        "networks": networks(quick),
        "single": [single(400, quick), single(1024, quick)],
        "memory": memory(400, 10),
    }
    for row in body["networks"]:
        print(
            f"{row['layers']} layers of {row['width']:4d}: torch loop {row['torch_loop']['median_s']:.3f} s, ours "
            f"x{row['isometry_loop']['ratio_to_torch_loop']:.2f} in a loop, "
            f"x{row['isometry_batch']['ratio_to_torch_loop']:.2f} in one call (processor time "
            f"x{row['isometry_loop']['cpu_ratio_to_torch_loop']:.2f}, "
            f"x{row['isometry_batch']['cpu_ratio_to_torch_loop']:.2f})"
        )
    for row in body["single"]:
        times = row["times"]
        print(
            f"{row['width']}: {row['defects']}; processor time x{times['isometry']['cpu_ratio_to_torch']:.2f} of "
            f"torch's, a float64 factorization x{times['torch_float64_rounded']['cpu_ratio_to_torch']:.2f}"
        )
    print("memory", body["memory"])
    if not quick:
        print("wrote", _harness.write("orthogonal", body))


if __name__ == "__main__":
    main()
