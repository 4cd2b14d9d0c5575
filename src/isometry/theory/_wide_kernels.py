"""The kernels of infinitely wide chains: of signals (NNGP) and of training (NTK), layer by layer.

For h^{l+1} = W^{l+1} phi(h^l) + b^{l+1} with W ~ sigma_w^2 / fan_in, b ~ sigma_b^2 and covariance K^l of the
pre-activations of two inputs,

    K^{l+1} = sigma_w^2 E phi(u) phi(u') + sigma_b^2,                    (u, u') ~ N(0, K^l),
    Theta^{l+1} = fan_in E phi(u) phi(u') + 1 + sigma_w^2 E phi'(u) phi'(u') Theta^l.

Theta is that of PyTorch's own parametrization, whose gradients are those of the weights themselves, so a layer's
weights contribute its fan-in. parametrization="ntk" is that of Jacot et al., where W = sigma_w omega / sqrt(fan_in) and
b = sigma_b beta are trained through omega and beta: a layer contributes sigma_w^2 E phi(u) phi(u') + sigma_b^2.

References:
    A. Jacot, F. Gabriel, C. Hongler. Neural Tangent Kernel: Convergence and Generalization in Neural Networks, 2018.
    https://arxiv.org/abs/1806.07572
    J. Lee, L. Xiao, S. Schoenholz, Y. Bahri, R. Novak, J. Sohl-Dickstein, J. Pennington. Wide neural networks of any
    depth evolve as linear models under gradient descent, 2019. https://arxiv.org/abs/1902.06720
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from isometry._base import Result, check_tensor
from isometry.theory._averages import GaussianAverages
from isometry.theory._quadrature import Array
from isometry.theory._resolve import ActivationLike, resolve_activation
from isometry.theory._values import check_sigmas

__all__ = ["WideKernels", "wide_kernels"]

Parametrization = Literal["standard", "ntk"]
_TERMS = 80  # of the Hermite series, for pairs of different variance


@dataclass(frozen=True, eq=False)
class WideKernels(Result):
    """The kernels of an infinitely wide chain at some inputs.

    Attributes:
        activation: Its name.
        depth: Hidden layers.
        nngp: Covariance of the outputs over the draw of the weights, shape (N, N), float64.
        ntk: The tangent kernel of any one output; different outputs have none in common. Shape (N, N), float64.
        q: Mean over the inputs of the pre-activations' second moment, per hidden layer.
        residual: The largest share of E phi^2 that the Hermite series leaves out; 0 where only closed forms and
            quadrature were used.
    """

    activation: str
    depth: int
    nngp: Tensor = field(repr=False)
    ntk: Tensor = field(repr=False)
    q: tuple[float, ...] = field(repr=False)
    residual: float = 0.0

    def __str__(self) -> str:
        top = float(torch.linalg.eigvalsh(self.ntk)[-1])
        return (
            f"wide {self.activation} chain of {self.depth} hidden layers at {len(self.ntk)} inputs: outputs of variance"
            f" {float(self.nngp.diagonal().mean()):.4g}, largest eigenvalue of the tangent kernel {top:.4g}"
        )


def wide_kernels(
    activation: ActivationLike,
    inputs: Tensor,
    *,
    widths: Sequence[int],
    sigma_w: float | Sequence[float],
    sigma_b: float | Sequence[float],
    bias: bool = True,
    parametrization: Parametrization = "standard",
) -> WideKernels:
    """Predict the kernels of a wide chain: linear layers with one elementwise activation between them.

    Args:
        activation: A name, a module or an elementwise callable.
        inputs: Shape (N, features).
        widths: Units of each hidden layer; they enter the standard tangent kernel as fan-ins.
        sigma_w: Standard deviation of the weights times sqrt(fan_in): one for all layers, or one for each and for the
            output layer.
        sigma_b: Standard deviation of the biases, likewise.
        bias: Whether the layers have biases that are trained.
        parametrization: "standard" is PyTorch's, where ``measure.ntk`` agrees with the prediction up to fluctuations of
            relative order depth / width; "ntk" is that of Jacot et al.

    Returns:
        The kernels.

    Raises:
        ValueError: If there are no hidden layers, or the scales do not fit them.

    Example:
        >>> found = wide_kernels("relu", torch.eye(2), widths=(8,), sigma_w=1.0, sigma_b=0.0, bias=False)
        >>> [round(v, 4) for v in found.nngp[0].tolist()]  # E relu(u)^2 = q/2; 1/(2 pi) of orthogonal inputs
        [0.25, 0.0796]
    """
    phi = resolve_activation(activation)
    x = check_tensor("inputs", inputs, ndim=2).detach().double().cpu().numpy()
    if not widths or any(isinstance(w, bool) or not isinstance(w, int) or w < 1 for w in widths):
        raise ValueError(f"widths must be positive whole numbers, at least one, got {list(widths)}.")
    depth = len(widths)
    ws, bs = _per_layer("sigma_w", sigma_w, depth), _per_layer("sigma_b", sigma_b, depth)
    for w, b in zip(ws, bs, strict=True):
        check_sigmas(w, b)
    averages = GaussianAverages(phi)
    second, fan_in = x @ x.T / x.shape[1], x.shape[1]  # E of products of what the layer reads
    kernel = tangent = np.zeros_like(second)
    slopes = np.zeros_like(second)
    levels, left_out = [], 0.0
    for layer, (w, b) in enumerate(zip(ws, bs, strict=True)):
        kernel = w * w * second + b * b
        if parametrization == "standard":
            own = fan_in * second + (1.0 if bias else 0.0)
        else:
            own = w * w * second + (b * b if bias else 0.0)
        tangent = own + w * w * slopes * tangent
        if layer < depth:
            levels.append(float(np.diagonal(kernel).mean()))
            second, slopes, missed = _through(averages, kernel)
            left_out = max(left_out, missed)
            fan_in = widths[layer]
    return WideKernels(
        activation=phi.name,
        depth=depth,
        nngp=torch.from_numpy(kernel),
        ntk=torch.from_numpy(tangent),
        q=tuple(levels),
        residual=left_out,
    )


def _per_layer(argument: str, value: float | Sequence[float], depth: int) -> list[float]:
    if isinstance(value, int | float):
        return [float(value)] * (depth + 1)
    values = [float(v) for v in value]
    if len(values) != depth + 1:
        raise ValueError(
            f"{argument} must be one number, or one for each of the {depth} hidden layers and the output layer, got "
            f"{len(values)}."
        )
    return values


def _through(averages: GaussianAverages, kernel: Array) -> tuple[Array, Array, float]:
    """Average phi phi' and their slopes over every pair of inputs.

    Args:
        averages: The activation's.
        kernel: Covariances, (N, N).

    Returns:
        E phi(u) phi(u'), E phi'(u) phi'(u'), both (N, N), and the share of E phi^2 that was left out.
    """
    q = np.maximum(np.diagonal(kernel), 1e-300)
    c = np.clip(kernel / np.sqrt(np.outer(q, q)), -1.0, 1.0)
    np.fill_diagonal(c, 1.0)
    phi = averages.activation
    forms = phi.closed
    if phi.homogeneous is not None and forms is not None and forms.covariance and forms.slope_covariance:
        one = np.ones_like(c)
        return np.sqrt(np.outer(q, q)) * forms.covariance(c, one), forms.slope_covariance(c, one), 0.0
    if np.ptp(q) <= 1e-9 * q.max():
        return (*_equal_variances(averages, c, float(q.mean())), 0.0)
    return _by_series(averages, c, q)


def _equal_variances(averages: GaussianAverages, c: Array, q: float) -> tuple[Array, Array]:
    """Average at one common variance, each distinct correlation once.

    Returns:
        Both averages, (N, N).
    """
    distinct, where = np.unique(np.round(c, 12), return_inverse=True)
    values = np.array([averages.covariance(float(v), q) for v in distinct])
    slopes = np.array([averages.slope_covariance(float(v), q) for v in distinct])
    return values[where].reshape(c.shape), slopes[where].reshape(c.shape)


def _by_series(averages: GaussianAverages, c: Array, q: Array) -> tuple[Array, Array, float]:
    """Average by Hermite series, where the variances of a pair differ; the diagonal is exact.

    E phi(u) phi(u') = SUM_k a_k(q) a_k(q') c^k; its derivative in the covariance c sqrt(q q') is that of the slopes.

    Returns:
        Both averages, (N, N), and the largest share of E phi^2 beyond the series.
    """
    levels, where = np.unique(q, return_inverse=True)
    coefficients = averages.hermite(_TERMS, levels)[:, where]  # (terms, N)
    values, slopes = np.zeros_like(c), np.zeros_like(c)
    power = np.ones_like(c)
    for k, row in enumerate(coefficients):
        both = np.outer(row, row)
        if k:
            slopes += k * both * power
            power = power * c
        values += both * power
    slopes /= np.sqrt(np.outer(q, q))
    exact = averages.second_moment(levels)[where]
    missed = float(np.max(1 - np.square(coefficients).sum(0) / np.maximum(exact, 1e-300)))
    np.fill_diagonal(values, exact)
    np.fill_diagonal(slopes, averages.slope_moment(1, levels)[where])
    return values, slopes, max(0.0, missed) if math.isfinite(missed) else math.inf
