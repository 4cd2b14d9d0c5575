"""What a probe at its default settings adds to a training: an MLP on digits, and a small GPT on characters.

    python benchmarks/probe.py [--quick]

Writes results/probe.json. The training with the probe and the one without take turns. Three figures say the same in
three ways: the ratio of the wall-clock times, the ratio of the processor times, and the probe's own account, which is
what its cap of 5 % works with. The first measurement, before the first step, is always taken and is part of all three.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import _harness
import torch
from torch import nn

import isometry as iso
from isometry.training import Probe


def mlp() -> tuple[nn.Module, torch.Tensor, torch.Tensor, int]:
    """A perceptron of four layers of width 256 on digits, and its batch size."""
    data = iso.data.load("digits")
    model = iso.nn.reference_model("mlp:depth=4,width=256,activation=relu", in_shape=data.shape, classes=10)
    return model, data.inputs, data.targets, 128


def gpt() -> tuple[nn.Module, torch.Tensor, torch.Tensor, int]:
    """A GPT-2 of two layers of width 64 on 32 random tokens of 64, and its batch size."""
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=64, n_positions=32, n_embd=64, n_layer=2, n_head=4, bos_token_id=0, eos_token_id=0, use_cache=False
    )
    tokens = (torch.randint(64, (512, 1)) + 3 * torch.arange(33)) % 64
    return GPT2LMHeadModel(config), tokens[:, :-1], tokens[:, 1:], 32


def train(make: Callable[[], Any], steps: int, folder: Path | None) -> Probe | None:
    """Train for some steps with Adam, with a probe that writes into a folder, or without one."""
    torch.manual_seed(0)
    model, x, y, size = make()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    probe = None
    if folder is not None:
        probe = Probe(model, x[:64], y[:64], path=folder / "probe.jsonl").start(step=0)
    for _ in range(steps):
        index = torch.randint(len(x), (size,))
        returned = model(x[index])
        outputs = getattr(returned, "logits", returned)
        loss = nn.functional.cross_entropy(outputs.flatten(0, -2), y[index].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if probe is not None:
            probe.step(loss)
    if probe is not None:
        probe.close()
    return probe


def measured(name: str, make: Callable[[], Any], steps: int, rounds: int) -> dict[str, Any]:
    """Compare a training with and without the probe."""
    probes: list[Probe] = []
    with tempfile.TemporaryDirectory() as folder:

        def probed() -> None:
            probe = train(make, steps, Path(folder))
            assert probe is not None
            probes.append(probe)

        timing = _harness.interleave(
            {"plain": lambda: train(make, steps, None), "probed": probed}, rounds=rounds, warmup=0
        )
    last = probes[-1]
    first = sum(r["cost"] for r in last.history.records if r["step"] == 0)
    taken = {m: sum(r["measure"] == m for r in last.history.records) for m in ("signal", "fisher")}
    return {
        "name": name,
        "steps": steps,
        "parameters": last.history.header["size"],
        "schedule": "geometric",
        "cap": 0.05,
        "times": timing.report("plain"),
        "own_account": [round(probe.overhead, 4) for probe in probes],
        "first_measurement_s": round(first, 3),
        "measurements": taken,
        "skipped": {m: sum(gap.times for gap in gaps) for m, gaps in last.skipped.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a tenth of the steps, one round; writes nothing")
    quick = parser.parse_args().quick
    torch.set_num_threads(1)
    for make in (mlp, gpt):  # what is imported and warmed up once is no part of the comparison
        with tempfile.TemporaryDirectory() as folder:
            train(make, 3, Path(folder))
    rounds = 1 if quick else 3
    body = {
        "what": "training with a probe at its default settings against the same training without, taking turns",
        "cases": [
            measured("MLP, 4 layers of 256", mlp, 600 if quick else 6_000, rounds),
            measured("GPT-2, 2 layers of 64", gpt, 60 if quick else 600, rounds),
        ],
    }
    for case in body["cases"]:
        times = case["times"]["probed"]
        print(
            f"{case['name']}, {case['steps']} steps in {case['times']['plain']['median_s']:.1f} s: "
            f"x{times['ratio_to_plain']:.3f} with the probe (processor time x{times['cpu_ratio_to_plain']:.3f}), by "
            f"its own account {case['own_account']}; {case['measurements']}, skipped {case['skipped']}, first "
            f"measurement {case['first_measurement_s']} s"
        )
    if not quick:
        print("wrote", _harness.write("probe", body))


if __name__ == "__main__":
    main()
