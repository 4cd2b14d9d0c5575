"""The modes of a data set: singular vectors of the correlation between inputs and targets.

Paper: A. M. Saxe, J. L. McClelland, S. Ganguli. "Exact solutions to the nonlinear dynamics of learning in deep linear
neural networks." ICLR 2014.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from isometry._base import Result, check_finite, check_tensor
from isometry.linalg import svd

__all__ = ["Consistency", "Modes", "decompose", "pretraining_consistency"]

_WHITE = 1e-6  # largest entry of SUM x x^T - I that counts as rounding
_RANK = 1e-10  # relative size below which a singular value or an input direction counts as absent


@dataclass(frozen=True, eq=False)
class Modes(Result):
    """Correlations of a data set, and the singular value decomposition SUM y x^T = U S V^T, float64.

    Attributes:
        s: Strengths, largest first, (k,); zeros are left out.
        u: Output directions, (outputs, k).
        v: Input directions, (inputs, k).
        input_correlation: SUM x x^T, (inputs, inputs).
        cross_correlation: SUM y x^T, (outputs, inputs).
        whitening: The matrix that the inputs were multiplied by, (inputs, inputs); None for inputs that were white.
    """

    s: Tensor
    u: Tensor = field(repr=False)
    v: Tensor = field(repr=False)
    input_correlation: Tensor = field(repr=False)
    cross_correlation: Tensor = field(repr=False)
    whitening: Tensor | None = field(repr=False)

    def __str__(self) -> str:
        whitened = "" if self.whitening is None else ", inputs whitened"
        return f"{len(self.s)} modes of strengths {float(self.s[0]):.4g} to {float(self.s[-1]):.4g}{whitened}"


@dataclass(frozen=True, eq=False)
class Consistency(Result):
    """Whether unsupervised pretraining leads to an initial condition in which the task's modes do not interact.

    Attributes:
        ratio: |off-diagonal|_F / |diagonal|_F of V^T (SUM x x^T) V; 0 if the inputs' principal axes are the task's.
        projected: That matrix, (k, k).
    """

    ratio: float
    projected: Tensor = field(repr=False)

    def __float__(self) -> float:
        return self.ratio

    def __str__(self) -> str:
        return f"off-diagonal over diagonal input correlation along {len(self.projected)} task modes: {self.ratio:.4g}"


def decompose(inputs: Tensor, targets: Tensor, *, whiten: bool = False) -> Modes:
    """Decompose the correlation between inputs and targets into modes.

    Args:
        inputs: (N, inputs), a sample a row. Sums over samples enter, not means; neither is centred here.
        targets: (N, outputs).
        whiten: Multiply the inputs by the inverse square root of SUM x x^T (by its pseudo-inverse, where directions are
            empty) first, so that the theory's assumption holds.

    Returns:
        The modes.

    Raises:
        TypeError: If an argument is not a tensor.
        ValueError: If shapes do not fit, values are not finite, the correlation vanishes, or the inputs are not white
            and ``whiten`` is not set.

    Example:
        >>> modes = decompose(torch.eye(3), torch.diag(torch.tensor([1.0, 3.0, 0.0])))
        >>> modes.s
        tensor([3., 1.], dtype=torch.float64)
    """
    x, y = _check_pairs(inputs, targets)
    whitening = None
    correlation = x.T @ x
    off_white = float((correlation - torch.eye(x.shape[1], dtype=x.dtype)).abs().max())
    if whiten:
        whitening = _inverse_root(correlation)
        x = x @ whitening
        correlation = x.T @ x
    elif off_white > _WHITE:
        raise ValueError(
            f"inputs are not white: SUM x x^T differs from the identity by up to {off_white:.3g}, and modes then mix; "
            "pass whiten=True, or inputs that are (one-hot rows are)."
        )
    cross = y.T @ x
    u, s, v = _factors(cross)
    return Modes(s, u, v, correlation, cross, whitening)


def pretraining_consistency(inputs: Tensor, targets: Tensor) -> Consistency:
    """Measure how far the inputs' principal axes are from the task's input directions.

    Pretraining as an autoencoder leaves layers along the eigenvectors Q of SUM x x^T. They are a decoupled initial
    condition for the task if V is Q, that is, if V^T (SUM x x^T) V is diagonal.

    Args:
        inputs: (N, inputs); not white, or there would be nothing to compare.
        targets: (N, outputs).

    Returns:
        The consistency; ``float()`` gives the ratio.

    Raises:
        TypeError: If an argument is not a tensor.
        ValueError: If shapes do not fit, values are not finite, or the correlation vanishes.

    Example:
        >>> x = torch.diag(torch.tensor([3.0, 2.0, 1.0]))
        >>> float(pretraining_consistency(x, x)) < 1e-12
        True
    """
    x, y = _check_pairs(inputs, targets)
    _, _, v = _factors(y.T @ x)
    projected = v.T @ (x.T @ x) @ v
    diagonal = projected.diagonal()
    off = projected - torch.diag(diagonal)
    return Consistency(float(off.norm() / diagonal.norm()), projected)


def _check_pairs(inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    x = check_finite("inputs", check_tensor("inputs", inputs, ndim=2)).detach().double().cpu()
    y = check_finite("targets", check_tensor("targets", targets, ndim=2)).detach().double().cpu()
    if len(x) != len(y):
        raise ValueError(f"inputs hold {len(x)} samples and targets {len(y)}; give one target row for each input row.")
    return x, y


def _factors(cross: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    found = svd(cross)
    kept = found.values > _RANK * found.values[0]
    if not bool(kept.any()) or not math.isfinite(float(found.values[0])):
        raise ValueError("targets are uncorrelated with inputs: SUM y x^T is 0 and has no modes; pass other targets.")
    return found.u[:, kept], found.values[kept], found.vh[kept].T


def _inverse_root(correlation: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(correlation)
    full = values > _RANK * values[-1]
    root: Tensor = (vectors[:, full] * values[full].rsqrt()) @ vectors[:, full].T
    return root
