"""The matrix exponential, and the principal logarithm of orthogonal matrices by symmetric decompositions alone.

References:
    N. J. Higham, Functions of Matrices: Theory and Computation, SIAM, 2008, sections 6.2, 8.1 and 11.2.
"""

from __future__ import annotations

import torch
from torch import Tensor

from isometry.linalg import eigh, svd

__all__ = ["matrix_exponential", "rotation_logarithm"]


def matrix_exponential(a: Tensor) -> Tensor:
    """Give exp(a), worked on in float64: in float32 torch stops its series an order of magnitude above rounding.

    Args:
        a: Shape ``(*batch, n, n)``.

    Returns:
        The exponential, in the dtype of ``a``.
    """
    result: Tensor = torch.linalg.matrix_exp(a.to(torch.float64))
    return result.to(a.dtype)


def rotation_logarithm(name: str, q: Tensor, dtype: torch.dtype) -> Tensor:
    """Give the skew-symmetric A of smallest norm with exp(A) = q.

    With q = exp(A), I + q = q^(1/2) 2 cosh(A/2), and cosh(A/2) is symmetric and positive definite as long as no angle
    reaches pi: the polar factor of I + q is the square root r of q. Its angles are at most pi/2, and there
    log r = skew(r) f(sym(r)), f(c) = arccos(c) / sqrt(1 - c^2), is well conditioned. So log q = 2 log r.

    Args:
        name: What the matrix is, for the message.
        q: Orthogonal, shape ``(*batch, n, n)``.
        dtype: The dtype of the points that q was made from: what their rounding leaves undecided is refused.

    Returns:
        A, in the dtype of ``q``; worked on in float64.

    Raises:
        ValueError: If q has an eigenvalue of -1 up to rounding: it is then a reflection, or one of two equal turns.
    """
    work = q.to(torch.float64)
    eye = torch.eye(q.shape[-1], dtype=torch.float64, device=q.device)
    found = svd(eye + work)
    # The smallest singular value is 2 cos(angle / 2), about pi - angle near the end.
    if bool((found.values[..., -1] < torch.finfo(dtype).eps ** 0.5).any()):
        if bool((torch.linalg.det(work) < 0).any()):
            raise ValueError(
                f"{name} has determinant -1: no path on the manifold joins the two points; flip the sign of one column."
            )
        raise ValueError(
            f"{name} turns a plane by an angle of pi: the two points lie on each other's cut locus, and the shortest "
            "geodesic between them is not unique; move one of them a little."
        )
    root = found.u @ found.vh
    decomposed = eigh((root + root.mT) / 2)
    cosine = decomposed.values.clamp(-1, 1)
    sine = ((1 - cosine) * (1 + cosine)).sqrt()
    # f is 1 + (1 - c) / 3 + O((1 - c)^2) at c = 1, where the quotient is 0 / 0.
    near = cosine > 1 - 1e-9
    factor = torch.where(near, 1 + (1 - cosine) / 3, torch.atan2(sine, cosine) / torch.where(near, 1.0, sine))
    symmetric = (decomposed.vectors * factor.unsqueeze(-2)) @ decomposed.vectors.mT
    result = (root - root.mT) @ symmetric  # twice the logarithm of the root
    return ((result - result.mT) / 2).to(q.dtype)
