"""Weights of deep linear networks: initial conditions in which modes do not interact, and checks on weights.

Paper: A. M. Saxe, J. L. McClelland, S. Ganguli. "Exact solutions to the nonlinear dynamics of learning in deep linear
neural networks." ICLR 2014.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from isometry._base import check_finite, check_tensor
from isometry.linalg import haar
from isometry.theory.linear_dynamics._modes import Modes

__all__ = ["balancedness", "check_chain", "decoupled_weights", "mode_strengths", "product"]


def decoupled_weights(
    modes: Modes,
    hidden: Sequence[int],
    u0: float | Sequence[float] | Tensor,
    *,
    generator: torch.Generator | None = None,
) -> list[Tensor]:
    """Make weights W_l = R_(l+1) D_l R_l^T whose product has the given strength along every mode, equally shared.

    R_1 = V and R_(L+1) = U are the task's directions, the other R_l are random with orthonormal columns.

    Args:
        modes: The task's modes.
        hidden: Widths of the hidden layers; empty for one layer. Modes beyond the narrowest are left at 0.
        u0: Strength of every mode at the start, one number or one for each, > 0.
        generator: Source of randomness; torch's global one by default.

    Returns:
        The weights, (out, in) each, float64, from the input on.

    Raises:
        ValueError: If a width or a strength is out of range.

    Example:
        >>> modes = Modes(torch.ones(2), torch.eye(2).double(), torch.eye(2).double(), torch.eye(2), torch.eye(2), None)
        >>> first, second = decoupled_weights(modes, [5], 0.25, generator=torch.Generator().manual_seed(0))
        >>> torch.allclose(second @ first, 0.25 * torch.eye(2).double())
        True
    """
    if any(isinstance(w, bool) or not isinstance(w, int) or w < 1 for w in hidden):
        raise ValueError(f"hidden must hold positive whole numbers, a width for each hidden layer, got {list(hidden)}.")
    count = len(modes.s)
    strengths = torch.as_tensor(u0, dtype=torch.float64).cpu().expand(count) if not isinstance(u0, Tensor) else u0
    if strengths.shape != (count,) or not bool((strengths > 0).all()) or not bool(torch.isfinite(strengths).all()):
        raise ValueError(f"u0 must be one finite number > 0, or one for each of the {count} modes, got {u0}.")
    kept = min([count, *hidden])
    depth = len(hidden) + 1
    factor = strengths[:kept].double().pow(1 / depth)
    frames = [modes.v[:, :kept]]
    frames += [haar(width, kept, dtype=torch.float64, device="cpu", generator=generator) for width in hidden]
    frames.append(modes.u[:, :kept])
    return [after * factor @ before.T for before, after in pairwise(frames)]


def balancedness(weights: Sequence[Tensor]) -> float:
    """Measure how far layers are from sharing their modes: max over l of |W_(l+1)^T W_(l+1) - W_l W_l^T|, entrywise.

    Gradient flow conserves each of these matrices; they vanish for balanced weights, for which the curves hold.

    Args:
        weights: (out, in) each, from the input on.

    Returns:
        The largest absolute entry; 0 for a single layer.

    Raises:
        ValueError: If the weights do not fit each other.

    Example:
        >>> balancedness([torch.eye(2), 2 * torch.eye(2)])
        3.0
    """
    chain = check_chain(weights)
    gaps = [float((after.T @ after - before @ before.T).abs().max()) for before, after in pairwise(chain)]
    return max(gaps, default=0.0)


def mode_strengths(weights: Sequence[Tensor], modes: Modes) -> Tensor:
    """Project the product of the weights on the modes: u_a = u_a^T W_L ... W_1 v_a.

    Args:
        weights: (out, in) each, from the input on.
        modes: The task's modes.

    Returns:
        (k,), float64.

    Raises:
        ValueError: If the weights do not fit each other or the modes.
    """
    whole = product(check_chain(weights))
    if whole.shape != (len(modes.u), len(modes.v)):
        raise ValueError(
            f"weights map {whole.shape[1]} inputs to {whole.shape[0]} outputs, modes are of {len(modes.v)} inputs and "
            f"{len(modes.u)} outputs; pass those of the same data."
        )
    return ((modes.u.T @ whole) * modes.v.T).sum(1)


def check_chain(weights: Sequence[Tensor]) -> list[Tensor]:
    """Insist on matrices that can be multiplied.

    Returns:
        Copies in float64.

    Raises:
        ValueError: If there are none, or neighbours do not fit.
    """
    chain = [check_finite(f"weights[{i}]", check_tensor(f"weights[{i}]", w, ndim=2)) for i, w in enumerate(weights)]
    if not chain:
        raise ValueError("weights holds no layers; pass at least one.")
    for index, (before, after) in enumerate(pairwise(chain)):
        if after.shape[1] != before.shape[0]:
            raise ValueError(
                f"weights[{index + 1}] takes {after.shape[1]} inputs but weights[{index}] gives {before.shape[0]}; "
                "pass (out, in) matrices from the input on."
            )
    return [w.detach().to("cpu", torch.float64, copy=True) for w in chain]


def product(chain: Sequence[Tensor]) -> Tensor:
    """Multiply the weights.

    Returns:
        W_L ... W_1.
    """
    whole = chain[0]
    for weight in chain[1:]:
        whole = weight @ whole
    return whole
