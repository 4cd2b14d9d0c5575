"""Steps of the optimizers for hidden matrices: time, error of the orthogonalization, bytes of state, against peers.

    python benchmarks/optimizers.py [--quick] [--device cuda]

Writes results/optimizers.json, or results/optimizers_cuda.json. Gradients are given, so a step is the optimizer's work
alone. All competitors move copies of the same parameters, in turns; ratios are to isometry's Muon. KellerJordan's Muon
is transcribed here from its formulas, since it is not on the package index.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence
from typing import Any

import _harness
import pytorch_optimizer
import torch
from torch import Tensor, nn

import isometry as iso

Shapes = Sequence[tuple[int, int]]
Case = Callable[[], Any]
GPT2_LAYER: Shapes = [(768, 768)] * 4 + [(3072, 768), (768, 3072)]  # query, key, value, output; up, down
SIZES: dict[str, Shapes] = {
    "20 of 400 x 400": [(400, 400)] * 20,
    "200 of 400 x 400": [(400, 400)] * 200,
    "GPT-2 small": [*GPT2_LAYER] * 12,
}
QUICK: dict[str, Shapes] = {"4 of 100 x 100": [(100, 100)] * 4}
SETTINGS = ("fast", "quick", "accurate", "muon", "dion")
LR = 1e-3
UNTIMED = ("pytorch_optimizer_muon_gram",)


class KellerJordanMuon(torch.optim.Optimizer):
    """One matrix after another: momentum, five steps of the published quintic in bfloat16, the scale of the shape."""

    def __init__(self, params: Any, lr: float = LR, momentum: float = 0.95) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self) -> None:
        """Take one step."""
        for group in self.param_groups:
            for p in group["params"]:
                buffer = self.state[p].setdefault("momentum_buffer", torch.zeros_like(p))
                buffer.lerp_(p.grad, 1 - group["momentum"])
                x = p.grad.lerp(buffer, group["momentum"]).bfloat16()
                x = x.mT if p.shape[0] > p.shape[1] else x
                x = x / (x.norm() + 1e-7)
                for _ in range(5):
                    gram = x @ x.mT
                    x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
                x = x.mT if p.shape[0] > p.shape[1] else x
                p.add_(x, alpha=-group["lr"] * max(1, p.shape[0] / p.shape[1]) ** 0.5)


def makers() -> dict[str, Callable[[list[nn.Parameter]], torch.optim.Optimizer]]:
    """Give, by name, what makes an optimizer of hidden matrices."""
    optim, theirs = iso.optim, pytorch_optimizer.Muon
    made: dict[str, Callable[[list[nn.Parameter]], torch.optim.Optimizer]] = {
        "isometry_muon": lambda p: optim.Muon(p, LR),
        **{
            f"isometry_muon_{setting}": lambda p, setting=setting: optim.Muon(p, LR, polar=setting)
            for setting in SETTINGS[1:]
        },
        "isometry_normuon": lambda p: optim.NorMuon(p, LR),
        "isometry_auon": lambda p: optim.AuON(p, LR),
        "isometry_hybrid_auon": lambda p: optim.HybridAuON(p, LR),
        "torch_muon": lambda p: torch.optim.Muon(p, LR, weight_decay=0.0),
        "keller_jordan_muon": KellerJordanMuon,
        "pytorch_optimizer_muon": lambda p: theirs([{"params": p, "use_muon": True}], LR),
        # A step takes 60 times as long as the plain one, 6 s on 20 matrices of 400 x 400: only its error is measured.
        "pytorch_optimizer_muon_gram": lambda p: theirs(
            [{"params": p, "use_muon": True}], LR, ns_method="gram_newton_schulz"
        ),
        "torch_adamw_foreach": lambda p: torch.optim.AdamW(p, LR, foreach=True),
        "torch_adamw_fused": lambda p: torch.optim.AdamW(p, LR, fused=True),
    }
    return made


def tensors(shapes: Shapes, device: str) -> tuple[list[Tensor], list[Tensor]]:
    """Draw parameters and gradients, which all competitors share."""
    source = torch.Generator().manual_seed(0)
    values = [torch.randn(*shape, generator=source) / math.sqrt(shape[1]) for shape in shapes]
    gradients = [torch.randn(*shape, generator=source) for shape in shapes]
    return [value.to(device) for value in values], [gradient.to(device) for gradient in gradients]


def parameters(values: list[Tensor], gradients: list[Tensor]) -> list[nn.Parameter]:
    made = [nn.Parameter(value) for value in values]
    for p, gradient in zip(made, gradients, strict=True):
        p.grad = gradient
    return made


def steps(name: str, shapes: Shapes, device: str, quick: bool) -> dict[str, Any]:
    """Time steps, and count what each optimizer keeps."""
    values, gradients = tensors(shapes, device)
    cases: dict[str, Case] = {}
    dropped: dict[str, str] = {}
    optimizers: dict[str, torch.optim.Optimizer] = {}
    for label, make in makers().items():
        if label in UNTIMED:
            continue
        try:
            optimizer = make(parameters(values, gradients))
            optimizer.step()
        except Exception as error:  # noqa: BLE001 - a peer that fails is a result
            dropped[label] = f"{type(error).__name__}: {str(error).splitlines()[0][:120]}"
            continue
        cases[label] = optimizer.step
        optimizers[label] = optimizer
    large = device == "cpu" and sum(m * n for m, n in shapes) > 5e7
    rounds = 3 if quick or large else (9 if len(shapes) <= 20 or device != "cpu" else 5)
    timing = _harness.interleave(cases, rounds=rounds)
    report: dict[str, Any] = timing.report("isometry_muon")
    for label, optimizer in optimizers.items():
        report[label]["state_bytes"] = state_bytes(optimizer)
    return {
        "size": name,
        "matrices": len(shapes),
        "parameters": sum(m * n for m, n in shapes),
        "competitors": report | {label: {"missing": why} for label, why in dropped.items()},
    }


def state_bytes(optimizer: torch.optim.Optimizer) -> int:
    """Count the bytes of an optimizer's state, each storage once."""
    storages = {
        t.untyped_storage().data_ptr(): t.untyped_storage().nbytes()
        for state in optimizer.state.values()
        for t in state.values()
        if isinstance(t, Tensor) and t.numel() > 1
    }
    return sum(storages.values())


def momenta(quick: bool) -> dict[str, Tensor]:
    """Matrices to orthogonalize: Gaussian ones, and one whose singular values fall from 1 to 1e-3 geometrically."""
    source = torch.Generator().manual_seed(1)
    n = 100 if quick else 400
    u, v = (iso.linalg.haar(n, n, generator=source) for _ in range(2))
    return {
        f"Gaussian, {n} x {n}": torch.randn(n, n, generator=source),
        f"Gaussian, {3 * n} x {n}": torch.randn(3 * n, n, generator=source),
        f"Gaussian, {n} x {3 * n}": torch.randn(n, 3 * n, generator=source),
        f"singular values from 1 to 1e-3, {n} x {n}": (u * torch.logspace(0, -3, n)) @ v,
    }


def errors(device: str, quick: bool) -> list[dict[str, Any]]:
    """Measure, from a single step of size 1, how far the singular values of the update are from 1."""
    rows = []
    for kind, momentum in momenta(quick).items():
        found = {}
        for label, make in makers().items():
            if "muon" not in label or "normuon" in label:
                continue
            p = nn.Parameter(torch.zeros_like(momentum, device=device))
            p.grad = momentum.to(device, copy=True)
            try:
                make([p]).step()
            except Exception as error:  # noqa: BLE001 - a peer that fails is a result
                found[label] = {"missing": f"{type(error).__name__}: {error}"[:120]}
                continue
            factor = max(1, p.shape[0] / p.shape[1]) ** 0.5
            singular = torch.linalg.svdvals(p.detach().cpu().double()) / (LR * factor)
            found[label] = {
                "rms_error": float(f"{(singular - 1).square().mean().sqrt():.3g}"),
                "largest_error": float(f"{(singular - 1).abs().max():.3g}"),
                "smallest": float(f"{singular.min():.3g}"),
                "largest": float(f"{singular.max():.4g}"),
            }
        rows.append({"momentum": kind, "competitors": found})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a few small matrices; writes nothing")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"], help="where the parameters are")
    options = parser.parse_args()
    quick, device = options.quick, options.device
    body = {
        "what": "steps of optimizers on hidden matrices, gradients given, float32 parameters",
        "steps": [steps(name, shapes, device, quick) for name, shapes in (QUICK if quick else SIZES).items()],
        "errors": errors(device, quick),
    }
    for row in body["steps"]:
        print(f"{row['size']} ({row['parameters']:,} parameters)")
        for label, found in row["competitors"].items():
            said = found.get("missing") or (
                f"{1e3 * found['median_s']:.1f} ms, best {1e3 * found['best_s']:.1f}, "
                f"x{found['ratio_to_isometry_muon']:.2f}, state {found['state_bytes'] / 2**20:.1f} MiB"
            )
            print(f"  {label}: {said}")
    for row in body["errors"]:
        print(row["momentum"])
        for label, found in row["competitors"].items():
            print(f"  {label}: {found}")
    if not quick:
        print("wrote", _harness.write("optimizers" if device == "cpu" else f"optimizers_{device}", body))


if __name__ == "__main__":
    main()
