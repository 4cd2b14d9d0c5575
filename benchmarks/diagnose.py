"""The whole diagnosis against depth: seconds by part, and resident memory, at width 400 and 100 inputs.

    python benchmarks/diagnose.py [--quick]

Writes results/diagnose.json. Each depth runs in a process of its own, so that peaks do not hide one another; growth is
the exponent of a power law fitted to the depths (1 is linear). The reference is one training step of the same net on
the same inputs, in the same process.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import time
from pathlib import Path

import _harness

DEPTHS = (50, 100, 200, 400)
WIDTH = 400


def one(depth: int, width: int) -> dict[str, object]:
    """Diagnose one net in this process."""
    import resource

    import torch

    import isometry as iso

    data = iso.data.load("digits")
    model = iso.nn.reference_model(
        f"mlp:depth={depth},width={width},activation=tanh", in_shape=data.shape, classes=data.classes
    )
    x, y = data.inputs[:100], data.targets[:100]
    step = math.inf
    for _ in range(5):
        started = time.perf_counter()
        torch.nn.functional.cross_entropy(model(x), y).backward()
        step = min(step, time.perf_counter() - started)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    started, worked = time.perf_counter(), time.process_time()
    diagnosis = iso.diagnose(model, data, samples=100)
    seconds, cpu = time.perf_counter() - started, time.process_time() - worked
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {
        "depth": depth,
        "width": width,
        "seconds": round(seconds, 2),
        "cpu_seconds": round(cpu, 2),
        "gradient_steps": round(seconds / step, 1),
        "parameter_bytes": sum(p.numel() * p.element_size() for p in model.parameters()),
        "peak_bytes_above_start": peak - before,
        "parts": {k: round(v, 2) for k, v in diagnosis.to_dict()["cost"]["seconds"].items()},
        "verdict": diagnosis.verdict,
    }


def exponent(depths: list[float], values: list[float]) -> float:
    """Slope of the logarithms by least squares."""
    xs, ys = [math.log(d) for d in depths], [math.log(v) for v in values]
    mx, my = sum(xs) / len(xs), sum(ys) / len(ys)
    slope = sum((a - mx) * (b - my) for a, b in zip(xs, ys, strict=True)) / sum((a - mx) ** 2 for a in xs)
    return round(slope, 2)


def main() -> None:
    """Run every depth and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="smaller nets")
    parser.add_argument("--one", nargs=2, type=int, metavar=("DEPTH", "WIDTH"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(one(*options.one)))
        return
    depths, width = ((10, 20, 40), 100) if options.quick else (DEPTHS, WIDTH)
    rows = []
    for depth in depths:
        command = [sys.executable, str(Path(__file__)), "--one", str(depth), str(width)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        rows.append(json.loads(done.stdout))
        row = rows[-1]
        print(
            f"{depth:>4} x {width}: {row['seconds']} s = {row['gradient_steps']} gradient steps, "
            f"{row['peak_bytes_above_start'] / 2**20:.0f} MiB above the model"
        )
    names = [float(row["depth"]) for row in rows]
    growth = {
        "cpu_seconds": exponent(names, [float(row["cpu_seconds"]) for row in rows]),
        "memory": exponent(names, [max(float(row["peak_bytes_above_start"]), 1.0) for row in rows]),
    }
    print("growth with depth, as a power:", growth)
    print(_harness.write("diagnose", {"inputs": 100, "rows": rows, "growth_exponent": growth}))


if __name__ == "__main__":
    main()
