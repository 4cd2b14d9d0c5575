"""The Fisher spectrum of models that people have, against peers' top eigenvalue alone: a ResNet-18 and a small GPT.

    python benchmarks/models.py [--quick]

Writes results/models.json. The ResNet-18 takes 32 images of 64 x 64 in 10 classes, all 288 nonzero eigenvalues exactly;
the GPT has 6 layers of width 256, 8 sequences of 128 tokens out of 65, and 8 labels drawn per token. Peers are
curvlinops and backpack (products with the same Gauss-Newton matrix, scipy's eigsh), hessian-eigenthings and nngeometry
where they are installed and cover the model; what fails is reported with its message. Models are the transformers
library's own code with random weights.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import time
from collections.abc import Callable
from typing import Any

import _harness
import torch
from fisher import EIGSH_TOLERANCE, backpack, eigsh
from torch import Tensor, nn

from isometry import measure
from isometry.nn import named_inputs

_ENOUGH: dict[int, int] = {}  # how many products a peer needs for a model, found by trying


class UnconvergedError(Exception):
    """A peer's answer is not within its own tolerance."""


class Logits(nn.Module):
    """One tensor in, rows of logits out: what the peers ask for."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        """Flatten positions into the batch."""
        logits: Tensor = self.model(x).logits
        return logits.flatten(0, -2)


def resnet(quick: bool) -> tuple[nn.Module, Tensor, Tensor, dict[str, Any]]:
    """A ResNet-18 with a head of ten classes."""
    transformers = importlib.import_module("transformers")
    sizes, depths = ([8, 16], [1, 1]) if quick else ([64, 128, 256, 512], [2, 2, 2, 2])
    config = transformers.ResNetConfig(
        embedding_size=sizes[0], hidden_sizes=sizes, depths=depths, layer_type="basic", num_labels=10
    )
    torch.manual_seed(0)
    model = transformers.ResNetForImageClassification(config).eval()
    x = torch.randn(4 if quick else 32, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    return model, x, torch.arange(len(x)) % 10, {}


def gpt(quick: bool) -> tuple[nn.Module, Tensor, Tensor, dict[str, Any]]:
    """A GPT-2 of six layers and width 256 on 65 characters."""
    transformers = importlib.import_module("transformers")
    layers, width, length = (2, 32, 16) if quick else (6, 256, 128)
    config = transformers.GPT2Config(
        vocab_size=65, n_positions=length, n_embd=width, n_layer=layers, n_head=8, bos_token_id=0, eos_token_id=0,
        attn_implementation="eager",
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.GPT2LMHeadModel(config).eval()
    model.config.use_cache = False
    x = torch.randint(65, (8, length), generator=torch.Generator().manual_seed(1))
    return model, x, x.roll(-1, 1).flatten(), {"kind": "monte-carlo", "draws": 8}


def ours(model: nn.Module, x: Tensor, options: dict[str, Any]) -> measure.Fisher:
    """The whole spectrum, self-check included."""
    generator = torch.Generator().manual_seed(0) if options else None
    return measure.fisher(model, named_inputs(model, x), generator=generator, **options)


def curvlinops(model: Logits, x: Tensor, y: Tensor) -> tuple[float, int]:
    """Gauss-Newton products, eigsh for one eigenvalue."""
    peer = importlib.import_module("curvlinops")
    parameters = list(model.parameters())
    operator = peer.GGNLinearOperator(
        model, nn.CrossEntropyLoss(), parameters, [(x, y)], check_deterministic=False, num_data=len(y)
    )
    return eigsh(sum(p.numel() for p in parameters), lambda v: operator @ v)


def hessian_eigenthings(model: Logits, x: Tensor, y: Tensor) -> tuple[float, int]:
    """One eigenvalue of the Gauss-Newton matrix by its own Lanczos, with as many products as its own residual asks for.

    It takes the number of products beforehand, and by default two, whose eigenvalue is far off (it says so itself).
    With parameters that want gradients it keeps the graph of every product, gigabytes in all: they are frozen for it.
    """
    peer = importlib.import_module("hessian_eigenthings")
    loss = peer.supervised_loss_of_output(nn.CrossEntropyLoss())
    operator = peer.GGNOperator(model, [(x, y)], peer.supervised_forward, loss)
    products = _ENOUGH.get(id(model), 2)
    model.requires_grad_(False)
    try:
        found = peer.lanczos(operator, k=1, max_iter=products, tol=EIGSH_TOLERANCE, seed=0)
    finally:
        model.requires_grad_(True)
    if not bool(found.converged[0]) and products < 64:
        _ENOUGH[id(model)] = products + 1
        raise UnconvergedError
    return float(found.eigenvalues[0]), products


def nngeometry(model: Logits, x: Tensor, y: Tensor) -> tuple[float, int]:
    """The Gram matrix of output Jacobians, identity metric only."""
    from torch.utils.data import DataLoader, TensorDataset

    gram = importlib.import_module("nngeometry.gram").GramMatrix
    needed = len(y) * model(x[:1]).shape[-1] * sum(p.numel() for p in model.parameters()) * 4
    if needed > 8 * 2**30:
        raise MemoryError(f"the rows of all outputs need {needed / 2**30:.0f} GiB")
    matrix = gram(model, DataLoader(TensorDataset(x, y), batch_size=len(x))).to_torch().flatten(0, 1).flatten(1)
    return float(torch.linalg.eigvalsh(matrix)[-1]) / len(x), 0


PEERS: dict[str, Callable[[Logits, Tensor, Tensor], tuple[float, int]]] = {
    "curvlinops": curvlinops,
    "backpack": backpack,
    "hessian-eigenthings": hessian_eigenthings,
    "nngeometry": nngeometry,
}


def tried(run: Callable[[], tuple[float, int]]) -> dict[str, Any]:
    """One run of a peer, or why there is none; of runs that did not converge, only the first that does is timed."""
    result: dict[str, Any] | None = None
    while result is None:
        result = _tried_once(run)
        gc.collect()
    return result


def _tried_once(run: Callable[[], tuple[float, int]]) -> dict[str, Any] | None:
    started, worked = time.perf_counter(), time.process_time()
    try:
        value, products = run()
    except UnconvergedError:
        return None
    except ImportError as error:
        return {"missing": f"not installed: {error}"}
    except Exception as error:  # noqa: BLE001 - a peer's failure is a finding
        return {"missing": f"failed: {type(error).__name__}: {(str(error).splitlines() or [''])[0][:200]}"}
    seconds, cpu = time.perf_counter() - started, time.process_time() - worked
    return {"lambda_max": value, "products": products, "seconds": seconds, "cpu_seconds": cpu}


def compare(name: str, quick: bool) -> dict[str, Any]:
    """Time ours before and after each peer; the peers once, or thrice if they are quick."""
    model, x, y, options = {"resnet-18": resnet, "gpt": gpt}[name](quick)
    wrapped = Logits(model)
    ours(model, x, options)  # warm up

    def own() -> tuple[float, float]:
        gc.collect()
        started, worked = time.perf_counter(), time.process_time()
        ours(model, x, options)
        return time.perf_counter() - started, time.process_time() - worked

    found = ours(model, x, options)
    rows: dict[str, Any] = {}
    mine: list[tuple[float, float]] = [own()]
    for peer, run in PEERS.items():
        result = tried(lambda run=run: run(wrapped, x, y))
        if "missing" not in result:
            mine.append(own())
            near = [(a + b) / 2 for a, b in zip(mine[-2], mine[-1], strict=True)]
            result["ratio_to_isometry"] = round(result["seconds"] / near[0], 2)
            result["cpu_ratio_to_isometry"] = round(result["cpu_seconds"] / near[1], 2)
            result |= {"seconds": round(result["seconds"], 2), "cpu_seconds": round(result["cpu_seconds"], 2)}
        rows[peer] = result
    return {
        "model": name,
        "parameters": found.size,
        "samples": found.samples,
        "positions": found.positions,
        "eigenvalues": len(found.eigenvalues()),
        "lambda_max": found.lambda_max,
        "seconds": round(sorted(s for s, _ in mine)[len(mine) // 2], 2),
        "cpu_seconds": round(sorted(c for _, c in mine)[len(mine) // 2], 2),
        "general": list(found.general),
        "residual": found.residual,
        "peak_tensor_bytes": _harness.peak_tensor_bytes(lambda: ours(model, x, options)),
        "peers": rows,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small models; writes nothing")
    quick = parser.parse_args().quick
    models = [compare(name, quick) for name in ("resnet-18", "gpt")]
    for row in models:
        ours_said = f"{row['eigenvalues']} eigenvalues in {row['seconds']} s"
        print(f"{row['model']}: {ours_said} ({row['parameters']} parameters)")
        for peer, result in row["peers"].items():
            said = result.get("missing") or f"{result['seconds']} s = x{result['ratio_to_isometry']}"
            print(f"    {peer:22s} {said}")
    body = {
        "what": "all eigenvalues of the Fisher matrix (of the sampled one, for the GPT) against peers' largest alone",
        "notes": [
            f"curvlinops, backpack: scipy's eigsh for one eigenvalue of the exact matrix, tol={EIGSH_TOLERANCE}",
            "hessian-eigenthings: its own Lanczos on the same matrix, with the fewest products that its residual calls "
            f"converged (tol={EIGSH_TOLERANCE}); nngeometry: identity metric only",
            "attention in its plain form for all, since the peers cannot differentiate the fused one twice",
            "ratio_to_isometry above 1: slower than our whole spectrum",
        ],
        "models": models,
    }
    if not quick:
        print("wrote", _harness.write("models", body))


if __name__ == "__main__":
    main()
