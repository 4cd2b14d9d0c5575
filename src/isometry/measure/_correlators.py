"""Correlators of the tangent-kernel family over an ensemble of networks: how far kernels fluctuate, and how they move.

With D H = H - E H, each is n times a mean over pairs of units i != j and over networks (unless it is a mean alone):

    Theta: tr H / n (a mean)      A: D H_ii D H_jj    B: D H_ij D H_ij    D: z_i^2 D H_jj    F: z_i z_j D H_ij
    P: z_i dH_ijj    Q: z_j dH_iij    R: HI_iijj    S: HII_iijj    T: HII_ijij    U: HII_ijji

The laws of weights considered here do not change if units are permuted or flipped, so E H is Theta times the identity,
and the mean over ordered pairs is as good as the one over i < j and less noisy. Products of two means are estimated
without bias, over different networks. Order-1/n theory makes the normalized ones functions of depth alone.

References:
    H. Day, Y. Kahn, D. A. Roberts (2023), Feature Learning and Generalization in Deep Networks with Orthogonal Weights
    (the correlators of its Fig. 3, as in the code released with it). https://arxiv.org/abs/2310.07765
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from isometry._base import Cost, stopwatch
from isometry.measure._ensemble_stats import (
    LEAST_NETWORKS,
    Moments,
    Statistic,
    jackknife,
    pair_mean,
    product_of_means,
    signal_moments,
)
from isometry.measure._ntk_family import BiasRates, TangentResult, bias_rates, kink_note, tangent_layers
from isometry.measure._ntk_recursion import Order, TangentState
from isometry.measure._stacked import StackedWeights, depth_of
from isometry.theory._derivatives import tensor_function
from isometry.theory._resolve import ActivationLike

__all__ = ["Correlators", "correlators"]


@dataclass(frozen=True, kw_only=True)
class Correlators(TangentResult):
    """Correlators by letter; each entry is (layers,), entry 0 for the first pre-activation.

    ``TangentResult`` has the rest: order, activation, learning rates, note, dtype and cost.

    Attributes:
        value: "K", "V", "Theta", "A", "B", "D", "F", from order 2 on "P", "Q", from order 3 on "R", "S", "T", "U".
        stderr: Their standard errors: the jackknife's, over networks.
        normalized: Dimensionless: V / K^2, A and B / Theta^2, D and F / (Theta K), P and Q / Theta^2, and R, S, T, U
            times K / Theta^3.
        normalized_stderr: Their standard errors.
        networks: How many networks.
        width: Their width.
    """

    value: Mapping[str, Tensor]
    stderr: Mapping[str, Tensor]
    normalized: Mapping[str, Tensor]
    normalized_stderr: Mapping[str, Tensor]
    networks: int
    width: int

    def __str__(self) -> str:
        depth = len(self.lambda_b)
        rows = [f"{self.networks} {self.activation} networks of width {self.width}, normalized, at layer {depth}"]
        rows += [
            f"{name}: {float(column[-1]):.4g} +- {float(self.normalized_stderr[name][-1]):.2g}"
            for name, column in self.normalized.items()
        ]
        return "\n".join([*rows, self.note] if self.note else rows)


def correlators(
    weights: StackedWeights,
    x: Tensor,
    activation: ActivationLike,
    *,
    order: Order = 1,
    lambda_w: float = 1.0,
    lambda_b: BiasRates = "auto",
    budget: int | None = None,
) -> Correlators:
    """Measure the correlators of the tangent-kernel family over an ensemble, layer by layer.

    No layer is kept: the memory is that of one, width^(order + 1) numbers a network or twice that at order 3.

    Args:
        weights: A tensor (networks, out, in) for each layer, as ``isometry.training.ensemble`` draws them.
        x: One input, a vector.
        activation: A name, a module of ``torch.nn`` or an elementwise callable.
        order: 1 for A, B, D, F; 2 for P, Q as well; 3 for R, S, T, U as well.
        lambda_w: Learning rate of the weights times their fan_in.
        lambda_b: Learning rate of the biases, as ``ntk_family`` takes it.
        budget: Bytes allowed; default: 4 GiB.

    Returns:
        The correlators with their standard errors.

    Example:
        >>> same = torch.eye(2).expand(2, 3, 2, 2)  # networks that do not differ have no fluctuations
        >>> found = correlators(same, torch.ones(2), "linear")
        >>> [round(float(found.value[letter][-1]), 12) for letter in ("Theta", "A", "B")]
        [4.0, 0.0, 0.0]
    """
    known = tensor_function(activation)[1]
    rates = bias_rates(lambda_b, known, depth_of(weights))
    columns: dict[str, list[Tensor]] = {}
    networks = width = foreseen = 0
    with stopwatch() as watch:
        for needed, state in tangent_layers(
            weights,
            x,
            activation,
            order=order,
            lambda_w=lambda_w,
            rates=rates,
            budget=budget,
            least_networks=LEAST_NETWORKS,
        ):
            foreseen, (networks, width) = needed, state.z.shape
            for name, pair in jackknife(_moments(state), _letters(width)).items():
                columns.setdefault(name, []).append(torch.stack(pair).cpu())
    value = {name: torch.stack(rows, dim=1) for name, rows in columns.items()}  # (value and error, layers)
    plain = [name for name in value if not name.startswith("~")]
    ratio = [name for name in value if name.startswith("~")]
    return Correlators(
        value={name: value[name][0] for name in plain},
        stderr={name: value[name][1] for name in plain},
        normalized={name[1:]: value[name][0] for name in ratio},
        normalized_stderr={name[1:]: value[name][1] for name in ratio},
        order=order,
        networks=networks,
        width=width,
        activation=known.name,
        lambda_w=float(lambda_w),
        lambda_b=rates,
        note=kink_note(known, order),
        cost=Cost(forward_passes=1, bytes=foreseen, seconds=watch.seconds),
    )


def _moments(state: TangentState) -> dict[str, Tensor]:
    """Average over units and pairs of units, network by network.

    Returns:
        By name, (networks,).
    """
    z, h = state.z, state.h
    n = z.shape[-1]
    pairs = n * (n - 1)
    diagonal = h.diagonal(dim1=-2, dim2=-1)
    moments = signal_moments(z)
    k, m = moments["k"], diagonal.mean(-1)
    moments |= {
        "m": m,
        "mm": m.square(),
        "km": k * m,
        "A": pair_mean(diagonal, diagonal),
        "B": (torch.linalg.vector_norm(h, dim=(-1, -2)).square() - diagonal.square().sum(-1)) / pairs,
        "D": pair_mean(z.square(), diagonal),
        "F": ((z * (h @ z.unsqueeze(-1)).squeeze(-1)).sum(-1) - (z.square() * diagonal).sum(-1)) / pairs,
    }
    if state.dh is not None:
        moments["P"] = _off_diagonal(torch.einsum("nijj->nij", state.dh) * z.unsqueeze(-1))  # z_i dH_ijj
        moments["Q"] = _off_diagonal(torch.einsum("niij->nij", state.dh) * z.unsqueeze(-2))  # z_j dH_iij
    for letter, tensor, pattern in (
        ("R", state.hi, "niijj->nij"),
        ("S", state.hii, "niijj->nij"),
        ("T", state.hii, "nijij->nij"),
        ("U", state.hii, "nijji->nij"),
    ):
        if tensor is not None:
            moments[letter] = _off_diagonal(torch.einsum(pattern, tensor))
    return moments


def _off_diagonal(matrix: Tensor) -> Tensor:
    n = matrix.shape[-1]
    return (matrix.sum((-1, -2)) - matrix.diagonal(dim1=-2, dim2=-1).sum(-1)) / (n * (n - 1))


def _letters(width: int) -> Statistic:
    """Make the correlators, and their dimensionless forms (names with ~), of a layer's moments.

    Returns:
        A function of means for the jackknife.
    """

    def statistic(mean: Moments, count: int) -> dict[str, Tensor]:
        k, theta = mean["k"], mean["m"]
        found = {
            "K": k,
            "Theta": theta,
            "V": width * (mean["zz"] - product_of_means(k, k, mean["kk"], count)),
            "A": width * (mean["A"] - product_of_means(theta, theta, mean["mm"], count)),
            "B": width * mean["B"],
            "D": width * (mean["D"] - product_of_means(k, theta, mean["km"], count)),
        }
        found |= {letter: width * mean[letter] for letter in "FPQRSTU" if letter in mean}
        scales = {"V": k**2, "D": theta * k, "F": theta * k} | dict.fromkeys("ABPQ", theta**2)
        scales |= dict.fromkeys("RSTU", theta**3 / k)
        return found | {f"~{name}": found[name] / scale for name, scale in scales.items() if name in found}

    return statistic
