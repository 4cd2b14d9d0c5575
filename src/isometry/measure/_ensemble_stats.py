"""Fluctuations of pre-activations over an ensemble of networks at one input, with errors from the ensemble.

K = E z_i^2 and V = n (E z_i^2 z_j^2 - K^2), i != j. V is the difference of two numbers that agree to order 1/n, so all
is float64, pairs are averaged without the equal ones, and K^2 is estimated without bias: the mean of k_a k_b over
different networks a, b. Errors are the jackknife's, over networks.

References:
    H. Day, Y. Kahn, D. A. Roberts (2023), Feature Learning and Generalization in Deep Networks with Orthogonal Weights.
    https://arxiv.org/abs/2310.07765
    B. Efron (1982), The Jackknife, the Bootstrap and Other Resampling Plans.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

import torch
from torch import Tensor

from isometry._base import Cost, Result, progress, stopwatch
from isometry.measure._stacked import StackedWeights, check_input, depth_of, layers_of
from isometry.theory._derivatives import tensor_function
from isometry.theory._resolve import ActivationLike

__all__ = ["LEAST_NETWORKS", "PreactivationStats", "jackknife", "pair_mean", "preactivation_stats", "product_of_means"]

LEAST_NETWORKS = 3  # with one left out, two must remain for a mean over different networks

Moments: TypeAlias = Mapping[str, Tensor]
Statistic: TypeAlias = Callable[[Moments, int], Moments]


@dataclass(frozen=True)
class PreactivationStats(Result):
    """Kernel and four-point vertex of an ensemble; entry 0 belongs to the first pre-activation z^1.

    Attributes:
        kernel: K, the mean square of a pre-activation (layers,).
        kernel_stderr: Its standard error.
        vertex: V (layers,).
        vertex_stderr: Its standard error.
        fluctuation: V / K^2 (layers,).
        fluctuation_stderr: Its standard error; too small where the squares have heavy tails, as in Gaussian networks
            that are deeper than wide.
        networks: How many networks.
        width: Their width.
        activation: Name of the activation.
        dtype: float64, in which everything is computed.
        cost: Time taken; a forward pass is one through all networks.
    """

    kernel: Tensor
    kernel_stderr: Tensor
    vertex: Tensor
    vertex_stderr: Tensor
    fluctuation: Tensor
    fluctuation_stderr: Tensor
    networks: int
    width: int
    activation: str
    dtype: str = "float64"
    cost: Cost = field(default_factory=Cost)

    def __str__(self) -> str:
        rows = [f"{self.networks} {self.activation} networks of width {self.width}", "layer         K      V/K^2"]
        rows += [
            f"{layer:5d} {k:9.4g} {v:10.4g} +- {e:.2g}"
            for layer, (k, v, e) in enumerate(
                zip(self.kernel.tolist(), self.fluctuation.tolist(), self.fluctuation_stderr.tolist(), strict=True), 1
            )
        ]
        return "\n".join(rows)


def preactivation_stats(weights: StackedWeights, x: Tensor, activation: ActivationLike) -> PreactivationStats:
    """Measure kernel and four-point vertex of every layer over an ensemble of networks without biases.

    Args:
        weights: A tensor (networks, out, in) for each layer, as ``isometry.training.ensemble`` draws them.
        x: One input, a vector.
        activation: A name, a module of ``torch.nn`` or an elementwise callable.

    Returns:
        The layers' K, V and V / K^2, each with its standard error.

    Example:
        >>> pair = torch.eye(2).expand(5, 3, 2, 2).movedim(1, 0)  # five times the same linear network of three layers
        >>> preactivation_stats(pair, torch.tensor([1.0, 2.0]), "linear").kernel
        tensor([2.5000, 2.5000, 2.5000], dtype=torch.float64)
    """
    vector = check_input(x, nonzero=True)
    depth = depth_of(weights)
    function, known = tensor_function(activation)
    columns: dict[str, list[Tensor]] = {}
    with stopwatch() as watch, torch.no_grad():
        z, networks, width = vector, 0, 0
        for index, w in enumerate(layers_of(weights, vector, least_networks=LEAST_NETWORKS)):
            networks, width = w.shape[:2]
            entered = vector.to(w.device).expand(networks, -1) if index == 0 else function(z)
            z = (w @ entered.unsqueeze(-1)).squeeze(-1)
            for name, pair in jackknife(signal_moments(z), _vertex(width)).items():
                columns.setdefault(name, []).append(torch.stack(pair).cpu())
            progress("Ensemble of networks", index + 1, depth)
    value = {name: torch.stack(rows, dim=1) for name, rows in columns.items()}  # (value and error, layers)
    return PreactivationStats(
        kernel=value["K"][0],
        kernel_stderr=value["K"][1],
        vertex=value["V"][0],
        vertex_stderr=value["V"][1],
        fluctuation=value["V/K^2"][0],
        fluctuation_stderr=value["V/K^2"][1],
        networks=networks,
        width=width,
        activation=known.name,
        cost=Cost(forward_passes=1, seconds=watch.seconds),
    )


def signal_moments(z: Tensor) -> dict[str, Tensor]:
    """Average a layer's pre-activations over units and pairs of units, network by network.

    Args:
        z: Pre-activations (networks, n).

    Returns:
        ``k``: mean of z_i^2, ``kk``: its square, ``zz``: mean of z_i^2 z_j^2 over pairs; each (networks,).
    """
    squares = z.square()
    k = squares.mean(-1)
    return {"k": k, "kk": k.square(), "zz": pair_mean(squares, squares)}


def pair_mean(a: Tensor, b: Tensor) -> Tensor:
    """Average a_i b_j over all ordered pairs i != j.

    Args:
        a: (networks, n).
        b: (networks, n).

    Returns:
        (networks,).
    """
    n = a.shape[-1]
    return (a.sum(-1) * b.sum(-1) - (a * b).sum(-1)) / (n * (n - 1))


def product_of_means(f: Tensor, g: Tensor, fg: Tensor, count: int) -> Tensor:
    """Estimate E f E g without bias: the mean of f_a g_b over different networks a, b.

    Args:
        f: The mean of f over ``count`` networks.
        g: The mean of g.
        fg: The mean of f g.
        count: How many networks.

    Returns:
        The estimate, of f's shape.
    """
    return (count * f * g - fg) / (count - 1)


def jackknife(samples: Moments, statistic: Statistic) -> dict[str, tuple[Tensor, Tensor]]:
    """Evaluate a function of means over networks, and its standard error by leaving out one network at a time.

    Args:
        samples: By name, one number a network, (networks,).
        statistic: Takes means by name, scalars or (replicas,), and the number of networks behind them; returns values.

    Returns:
        By name, the value and its standard error.
    """
    count = len(next(iter(samples.values())))
    means = {name: column.mean() for name, column in samples.items()}
    without = {name: (count * means[name] - column) / (count - 1) for name, column in samples.items()}
    values, replicas = statistic(means, count), statistic(without, count - 1)
    return {
        name: (values[name], replicas[name].std(correction=0) * math.sqrt(count - 1))  # sqrt((N-1)/N SUM (r - mean)^2)
        for name in values
    }


def _vertex(width: int) -> Statistic:
    def statistic(mean: Moments, count: int) -> dict[str, Tensor]:
        k = mean["k"]
        v = width * (mean["zz"] - product_of_means(k, k, mean["kk"], count))
        return {"K": k, "V": v, "V/K^2": v / k.square()}

    return statistic
