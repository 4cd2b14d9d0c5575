"""How far the tangent kernel of a two-layer linear network turns while it learns, before a task is known.

f(x) = W2 W1 x with a single output has the tangent kernel x^T M x', M = W1^T W1 + |W2|^2 I. From small weights gradient
flow on white inputs ends at M = |beta| (b b^T + I), b the unit vector along the target weights beta. With b uniform on
the sphere, the expected cosine between the two is a property of the initial M alone.

Paper: Y. H. Liu, A. Baratin, J. Cornford, S. Mihalas, E. Shea-Brown, G. Lajoie. "How connectivity structure shapes rich
and lazy learning in neural circuits." ICLR 2024. arXiv:2310.08513. The closed form is our own; it makes the paper's
Theorem 1 quantitative.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from isometry._base import check_finite, check_tensor

__all__ = ["expected_alignment", "tangent_form"]


def expected_alignment(m0: Tensor) -> float:
    """Predict the tangent kernel's alignment before and after learning, averaged over tasks.

    E cos(M0, M1) = (1 + 1/d) / sqrt(d + 3) tr(M0) / |M0|_F, in the limit of small weights. What counts is
    tr(M0) / |M0|_F, largest for a multiple of the identity; a random W1 of rank r with equal singular values and
    W2 = 0 gives sqrt(r) for it.

    Args:
        m0: The form at the start, (d, d), symmetric and positive semidefinite: ``tangent_form(w1, w2)``.

    Returns:
        The expected cosine, from 0 to 1.

    Raises:
        TypeError: If it is not a tensor.
        ValueError: If it is not a symmetric matrix, or zero: a network without weights has no tangent kernel.

    Example:
        >>> round(expected_alignment(torch.eye(12)), 4)  # (d + 1) / sqrt(d (d + 3))
        0.969
    """
    form = check_finite("m0", check_tensor("m0", m0, ndim=2)).detach().double()
    if form.shape[0] != form.shape[1] or not torch.allclose(
        form, form.T, rtol=1e-6, atol=1e-12 * float(form.abs().max())
    ):
        raise ValueError(
            f"m0 must be a symmetric matrix, got shape {tuple(form.shape)}; build it with theory.tangent_form(w1, w2)."
        )
    size, d = float(form.norm()), len(form)
    if size == 0:
        raise ValueError("m0 is zero, so its direction is undefined; start from weights that are not all zero.")
    return (1 + 1 / d) / math.sqrt(d + 3) * float(form.trace()) / size


def tangent_form(w1: Tensor, w2: Tensor) -> Tensor:
    """Build M = W1^T W1 + |W2|^2 I, the tangent kernel of x -> W2 W1 x as a form on inputs.

    Args:
        w1: First layer, (hidden, inputs).
        w2: Second layer, (1, hidden).

    Returns:
        (inputs, inputs), float64.

    Raises:
        TypeError: If an argument is not a tensor.
        ValueError: If shapes do not fit.

    Example:
        >>> tangent_form(torch.tensor([[2.0, 0.0]]), torch.tensor([[1.0]]))
        tensor([[5., 0.],
                [0., 1.]], dtype=torch.float64)
    """
    first, second = check_tensor("w1", w1, ndim=2).detach().double(), check_tensor("w2", w2, ndim=2).detach().double()
    if second.shape != (1, len(first)):
        raise ValueError(
            f"w2 must have shape (1, {len(first)}) for w1 of shape {tuple(first.shape)}, one output, got "
            f"{tuple(second.shape)}; pick one row for each output."
        )
    return first.T @ first + second.square().sum() * torch.eye(first.shape[1], dtype=torch.float64, device=first.device)
