"""Liu et al. (2024): the rank of the initial weights against how lazily a network learns.

Claims 1 and 2 are about two-layer linear networks, white inputs of dimension 12 and targets beta^T x with |beta| = 1.
The others train rate networks on two-alternative forced choice and compare initial and final network on fixed trials. A
seed draws tasks, weights and trials.
"""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor, nn

import isometry as iso
from isometry.papers import Evidence, collect

ld = iso.theory.linear_dynamics
Measured = dict[str, float | list[float]]
D, HIDDEN, RANKS, SMALL, LARGE = 12, 40, (1, 3, 12), 1e-3, 1.0
TASKS = {"smoke": 4, "full": 10}  # of the linear networks, a seed
# Units, steps, ranks; mini-batches of 32 trials, 64 trials to compare on.
RATE_NETWORKS = {"smoke": (32, 100, (1, 4, 32)), "full": (100, 2500, (1, 10, 100))}
BATCH, PROBE, GAIN = 32, 64, 1.25


def run(scale: str, seeds: tuple[int, ...]) -> Evidence:
    """Measure all claims.

    Args:
        scale: "smoke" or "full".
        seeds: Seeds.

    Returns:
        The evidence.
    """
    units, steps, ranks = RATE_NETWORKS[scale]
    axes: dict[str, tuple[int, ...]] = {"linear/alignment": RANKS}
    for norm in ("frobenius", "spectral"):
        axes |= {f"{norm}/{what}": ranks for what in (*MEASURES, "loss")}

    def one_seed(seed: int) -> Measured:
        return _linear(TASKS[scale], seed) | _rate_networks(units, steps, ranks, seed)

    evidence = collect(scale, seeds, one_seed, axes=axes)
    # The miss of the mean over all tasks of all seeds; 0.005 is allowed for weights that are small, not infinitely so.
    misses = {}
    for size, sigma in (("", SMALL), ("large_", LARGE)):
        for rank in RANKS:
            values = torch.from_numpy(evidence.array(f"linear/{size}rank_{rank}")).flatten()
            stderr = float(values.std()) / math.sqrt(len(values)) + 1e-6
            w1 = torch.zeros(HIDDEN, D)
            w1.diagonal()[:rank] = sigma
            predicted = iso.theory.expected_alignment(iso.theory.tangent_form(w1, torch.zeros(1, HIDDEN)))
            misses[f"linear__{size}miss_at_rank_{rank}"] = (abs(float(values.mean()) - predicted) - 0.005) / stderr
    return evidence.with_pooled(**misses)


# Claims 1 and 2: alignments, a row of tasks for each rank and size of the weights; then aligned against random weights.
def _linear(tasks: int, seed: int) -> Measured:
    g = torch.Generator().manual_seed(seed)
    betas = nn.functional.normalize(torch.randn(tasks, D, dtype=torch.float64, generator=g), dim=1)
    found: Measured = {}
    for size, sigma in (("", SMALL), ("large_", LARGE)):
        for rank in RANKS:
            row = []
            for beta in betas:
                left, right = (
                    iso.init.orthogonal(shape, dtype=torch.float64, generator=g)
                    for shape in ((HIDDEN, rank), (rank, D))
                )
                w1 = sigma / math.sqrt(rank) * left @ right  # equal singular values, norm sigma
                row.append(_alignment(w1, torch.zeros(1, HIDDEN, dtype=torch.float64), beta))
            found[f"linear/{size}rank_{rank}"] = row
    small = [torch.tensor(found[f"linear/rank_{rank}"]) for rank in RANKS]
    found["linear/alignment"] = [float(values.mean()) for values in small]
    for name, aim in (("aligned", betas[0]), ("misaligned", betas[1])):  # the direction of another task
        pair = torch.empty(HIDDEN, D, dtype=torch.float64), torch.empty(1, HIDDEN, dtype=torch.float64)
        w1, w2 = iso.init.aligned_(*pair, aim, sigma=SMALL, generator=g)
        found[f"linear/{name}"] = _alignment(w1, w2, betas[0])
        found[f"linear/{name}_without_w2"] = _alignment(w1, 0 * w2, betas[0])
    return found


def _alignment(w1: Tensor, w2: Tensor, beta: Tensor) -> float:
    path = ld.simulate([w1, w2], torch.eye(D), beta.unsqueeze(0), lr=0.02, steps=1500, every=1500)
    before, after = iso.theory.tangent_form(w1, w2), iso.theory.tangent_form(*path.weights)
    return float((before * after).sum() / before.norm() / after.norm())


# Claims 3 to 6: networks of three ranks, at equal Frobenius norm and at equal spectral norm, and full rank once more.
def _rate_networks(units: int, steps: int, ranks: tuple[int, ...], seed: int) -> Measured:
    found: Measured = {}
    full = _trained(units, steps, ranks[-1], "frobenius", seed)  # the same under either norm
    for norm in ("frobenius", "spectral"):
        nets = [_trained(units, steps, rank, norm, seed) for rank in ranks[:-1]] + [full]
        found |= {f"{norm}/{what}": [net[what] for net in nets] for what in nets[0]} | _gaps(norm, nets[0], full)
        losses = [net["loss"] for net in nets]
        found[f"{norm}/loss_ratio"] = max(losses) / min(losses)
    return found | _gaps("redrawn", _trained(units, steps, ranks[-1], "frobenius", 1000 + seed), full)


def _gaps(name: str, one: dict[str, float], full: dict[str, float]) -> Measured:
    return {
        f"{name}/more_weight_change": one["weight_change"] - full["weight_change"],
        f"{name}/less_representation_alignment": full["representation_alignment"] - one["representation_alignment"],
        f"{name}/less_kernel_alignment": full["kernel_alignment"] - one["kernel_alignment"],
    }


MEASURES = ("weight_change", "representation_alignment", "kernel_alignment", "sign_similarity")


# Momentum descent as in the released code, all weights learning; mean loss of the last tenth, and laziness of W_h.
def _trained(units: int, steps: int, rank: int, norm: str, seed: int) -> dict[str, float]:
    g = torch.Generator().manual_seed(seed)
    net = iso.nn.RateNetwork(3, units, 3)
    for layer in (net.input, net.output):  # PyTorch's default: uniform within 1 / sqrt(fan_in)
        bound = 1 / math.sqrt(layer.in_features)
        nn.init.uniform_(layer.weight, -bound, bound, generator=g)
    iso.init.low_rank_(net.recurrent.weight, rank, preserve=norm, sigma=GAIN, generator=g)  # type: ignore[arg-type]
    before, losses = copy.deepcopy(net), []
    optimizer = torch.optim.SGD(net.parameters(), lr=0.003, momentum=0.9)
    for _ in range(steps):
        trials = iso.data.decision_trials("2af", BATCH, generator=g)
        loss = nn.functional.cross_entropy(net(trials.inputs).flatten(0, 1), trials.targets.flatten())
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(float(loss.detach()))
    probe = iso.data.decision_trials("2af", PROBE, generator=g).inputs
    change = iso.measure.laziness(before, net, probe, params="recurrent.*")
    last = losses[-steps // 10 :]
    return {what: float(getattr(change, what)) for what in MEASURES} | {"loss": sum(last) / len(last)}
