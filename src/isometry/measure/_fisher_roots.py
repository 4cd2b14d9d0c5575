"""Cotangents whose Jacobian pull-backs are the rows of a Fisher matrix's root.

The Fisher matrix is G = (1/M) sum_n J_n^T H_n J_n with H_n the Hessian of the negative log-likelihood in the outputs.
With H_n = B_n B_n^T, row (v, n) of its root is J_n^T B_n[:, v] / sqrt(M). Where a sample has several positions with
labels of their own (the tokens of a sequence, the nodes of a graph), H_n has a block per position, M counts positions
and v runs over positions and directions.

Paper: P. A. Sokol, I. M. Park. "Information Geometry of Orthogonal Initializations and Training." ICLR 2020.
"""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from torch import Tensor

from isometry._base import IGNORED, unknown_name

__all__ = [
    "Kind",
    "Likelihood",
    "check_choice",
    "check_output",
    "check_targets",
    "normalizer",
    "root_rows",
    "row_count",
    "softmax_root",
]

Likelihood = Literal["categorical", "gaussian"]
Kind = Literal["true", "empirical", "monte-carlo"]


def softmax_root(logits: Tensor) -> Tensor:
    """Factor the Hessian diag(p) - p p^T of the cross-entropy, without its zero eigenvalue.

    R = diag(sqrt p) - p sqrt(p)^T satisfies R R^T = diag(p) - p p^T and R sqrt(p) = 0. Multiplying R by an
    orthonormal basis of the complement of sqrt(p) (all but one column of a Householder reflection that takes sqrt(p)
    to a coordinate axis) drops that zero and nothing else. The axis is the most probable class, which keeps every
    entry free of cancellation even where the softmax is saturated.

    Args:
        logits: Shape (N, C), C > 1.

    Returns:
        B, shape (N, C, C - 1), float64, with B B^T = diag(p) - p p^T.

    Example:
        >>> logits = torch.tensor([[0.0, 1.0, -2.0]], dtype=torch.float64)
        >>> p = logits.softmax(1)
        >>> root = softmax_root(logits)
        >>> bool(torch.allclose(root[0] @ root[0].T, torch.diag(p[0]) - p.T @ p))
        True
    """
    wide = logits.double()
    classes = wide.shape[1]
    s = torch.exp(0.5 * torch.log_softmax(wide, 1))  # sqrt(p)
    top = wide.argmax(1, keepdim=True)
    s_top = s.gather(1, top)
    root: Tensor = torch.diag_embed(s) - (s**2).unsqueeze(2) * (s / (1 + s_top)).unsqueeze(1)
    at_top = top.unsqueeze(2).expand(-1, 1, classes)
    root.scatter_(1, at_top, (-s_top * s).unsqueeze(1))
    # The reflection's column of the top class is the dropped one; the last column takes its place.
    keep = torch.arange(classes - 1, device=wide.device).expand(len(wide), -1)
    keep = torch.where(keep == top, classes - 1, keep)
    kept: Tensor = root.gather(2, keep.unsqueeze(1).expand(-1, classes, -1))
    return kept


def row_count(likelihood: Likelihood, kind: Kind, shape: torch.Size, draws: int) -> int:
    """Count the rows of the root per sample.

    Args:
        likelihood: The likelihood.
        kind: Which Fisher matrix.
        shape: The output's shape: (N, *positions, C) for the categorical likelihood, (N, ...) for the Gaussian one.
        draws: Draws per sample of the Monte-Carlo kind.

    Returns:
        V.
    """
    if kind == "monte-carlo":
        return draws
    positions = shape[1:-1].numel()
    if kind == "empirical":
        return positions if likelihood == "categorical" else 1
    return positions * (shape[-1] - 1) if likelihood == "categorical" else shape[1:].numel()


def normalizer(out: Tensor, likelihood: Likelihood, mask: Tensor | None) -> int:
    """Count what the Fisher matrix is the mean over.

    Returns:
        M: the positions that count, for the categorical likelihood; the samples, for the Gaussian one.
    """
    if likelihood == "gaussian":
        return out.shape[0]
    return math.prod(out.shape[:-1]) if mask is None else int(mask.sum())


def root_rows(
    out: Tensor,
    *,
    likelihood: Likelihood,
    kind: Kind,
    targets: Tensor | None,
    draws: int,
    mask: Tensor | None,
    generator: torch.Generator | None,
    count: int | None = None,
) -> Tensor:
    """Make the cotangents for a model's output.

    Args:
        out: Shape (N, *positions, C) or, for the Gaussian likelihood, (N, ...).
        likelihood: "categorical" (softmax) or "gaussian" (unit variance).
        kind: Which Fisher matrix.
        targets: For the empirical one.
        draws: Labels per sample for the Monte-Carlo one: each draws a label for every position.
        mask: Which positions count, shape (N, *positions), or None for all.
        generator: For the Monte-Carlo one.
        count: What the matrix is the mean over, where that is more than these outputs; default: from ``normalizer``.

    Returns:
        Shape (V, *out.shape) in the output's dtype, scaled so that the rows' Gram is the Fisher matrix's dual.
    """
    if likelihood == "categorical":
        back = _categorical(out, kind, targets, draws, generator)
    else:
        back = _gaussian(out, kind, targets, draws, generator)
    if mask is not None:
        back *= mask.reshape(*mask.shape, *[1] * (out.ndim - mask.ndim)).to(back)
    return back.div_((normalizer(out, likelihood, mask) if count is None else count) ** 0.5)


def _categorical(
    out: Tensor, kind: Kind, targets: Tensor | None, draws: int, generator: torch.Generator | None
) -> Tensor:
    n, classes = out.shape[0], out.shape[-1]
    flat = out.detach().reshape(-1, classes).double()  # (N P, C)
    if kind == "monte-carlo":
        # Labels of different positions are independent: their scores' cross terms vanish in the mean. One row a draw.
        place = out.device if generator is None else generator.device
        p = flat.softmax(1)
        labels = torch.multinomial(p.to(place), draws, replacement=True, generator=generator).to(out.device)
        drawn: Tensor = (p / draws**0.5).to(out.dtype).expand(draws, -1, -1).clone()
        drawn.scatter_add_(2, labels.T.unsqueeze(2), drawn.new_full((draws, len(p), 1), -(draws**-0.5)))
        return drawn.reshape(draws, *out.shape)
    own = softmax_root(flat) if kind == "true" else _residual(flat, targets).unsqueeze(2)
    return _one_position_each(own.to(out.dtype).reshape(n, -1, classes, own.shape[2])).reshape(-1, *out.shape)


def _one_position_each(own: Tensor) -> Tensor:
    """Give each position directions of its own, which are zero at the others.

    Args:
        own: Shape (N, P, C, V per position).

    Returns:
        Shape (P V, N, P, C), direction v of position p at row p V + v.
    """
    n, positions, classes, each = own.shape
    if positions == 1:
        return own.movedim(3, 0).contiguous()
    rows = own.new_zeros(positions, each, n, positions, classes)
    for p in range(positions):
        rows[p, :, :, p] = own[:, p].movedim(2, 0)
    return rows.flatten(0, 1)


def _gaussian(out: Tensor, kind: Kind, targets: Tensor | None, draws: int, generator: torch.Generator | None) -> Tensor:
    n, outputs = out.shape[0], out.shape[1:].numel()
    if kind == "true":
        eye = torch.eye(outputs, dtype=out.dtype, device=out.device)
        return eye.unsqueeze(1).expand(-1, n, -1).reshape(-1, *out.shape).clone()
    if kind == "monte-carlo":
        place = out.device if generator is None else generator.device
        noise: Tensor = torch.randn(draws, n, outputs, dtype=torch.float64, generator=generator, device=place)
        noise /= draws**0.5
        return noise.to(out).reshape(-1, *out.shape)
    if targets is None:  # pragma: no cover - checked before the model ran
        raise AssertionError
    wide = out.detach().double()
    return (wide - targets.to(wide).reshape(out.shape)).to(out.dtype).unsqueeze(0)


def _residual(flat: Tensor, targets: Tensor | None) -> Tensor:
    if targets is None:  # pragma: no cover - checked before the model ran
        raise AssertionError
    labels = targets.to(flat.device).flatten()
    known = labels != IGNORED
    hot: Tensor = torch.nn.functional.one_hot(labels.where(known, 0), flat.shape[1]).double()
    return (flat.softmax(1) - hot) * known.unsqueeze(1)


def check_output(out: Tensor, likelihood: Likelihood) -> Tensor:
    """Insist on outputs that the likelihood is defined for.

    Returns:
        The output.

    Raises:
        ValueError: If its shape does not fit, or it is not finite.
    """
    samples = out.shape[0]
    if out.numel() == 0:
        raise ValueError(f"model returned an empty output of shape {tuple(out.shape)}.")
    if likelihood == "categorical":
        if out.ndim < 2:
            raise ValueError(
                f"the categorical likelihood needs outputs of shape (N, classes) or (N, positions, classes), got "
                f'{tuple(out.shape)}; reshape the model\'s output, or use likelihood="gaussian".'
            )
        if out.shape[-1] == 1:
            raise ValueError(
                "the categorical likelihood needs at least two outputs: with one the softmax is constant and its "
                'Fisher matrix zero. Use likelihood="gaussian", or two logits (z, 0) for a binary label.'
            )
    bad = ~torch.isfinite(out).reshape(samples, -1).all(1)
    if bool(bad.any()):
        which = bad.nonzero().flatten().tolist()
        shown = ", ".join(map(str, which[:5])) + (", ..." if len(which) > 5 else "")
        raise ValueError(
            f"the model's output is not finite (NaN or infinity) for {len(which)} of {samples} samples ({shown}); "
            "the batch is finite, so the model itself overflows: measure.signal says where."
        )
    return out


def check_targets(targets: object, out: Tensor, likelihood: str, kind: str) -> Tensor | None:
    """Insist on targets that fit the outputs; only the empirical Fisher matrix needs any.

    Returns:
        The targets, or None.

    Raises:
        TypeError: If they are not a tensor of the right type.
        ValueError: If they are missing, of the wrong shape, out of range or not finite.
    """
    if targets is None:
        if kind == "empirical":
            raise ValueError('kind="empirical" needs targets; pass targets=, or use kind="true".')
        return None
    if not isinstance(targets, Tensor):
        raise TypeError(f"targets must be a torch.Tensor, got {type(targets).__name__}; convert it first.")
    n = out.shape[0]
    if likelihood == "gaussian":
        if targets.numel() != out.numel() or targets.shape[:1] != (n,):
            raise ValueError(f"targets must have the output's shape {tuple(out.shape)}, got {tuple(targets.shape)}.")
        if not bool(torch.isfinite(targets.double()).all()):
            raise ValueError("targets hold non-finite values (NaN or infinity); clean or drop them first.")
        return targets
    if targets.is_floating_point() or targets.is_complex() or targets.dtype == torch.bool:
        raise TypeError(f"targets must be integer class labels, got {targets.dtype}; convert them with .long().")
    wanted, outputs = tuple(out.shape[:-1]), out.shape[-1]
    if tuple(targets.shape) not in (wanted, wanted[1:] if n == 1 else wanted):  # of a whole graph, also without the 1
        each = "sample" if len(wanted) == 1 else "position"
        raise ValueError(f"targets must have shape {wanted}, got {tuple(targets.shape)}; pass one label per {each}.")
    known = targets[targets != IGNORED]
    if not known.numel():
        raise ValueError(f"targets are all {IGNORED}, the label that is left out; nothing remains to measure.")
    low, high = int(known.min()), int(known.max())
    if low < 0 or high >= outputs:
        raise ValueError(
            f"targets must be labels from 0 to {outputs - 1}, got labels from {low} to {high}; the model has {outputs} "
            "outputs."
        )
    return targets.long().reshape(wanted)


def check_choice(argument: str, value: object, allowed: object) -> None:
    """Insist on one of a Literal's words.

    Raises:
        unknown_name: A ValueError with near matches, otherwise.
    """
    names = get_args(allowed)
    if value not in names:
        raise unknown_name(argument, value, names)
