"""Curvature of the loss in the parameters: eigenvalues, their density, trace and diagonal, from products alone.

References:
    B. A. Pearlmutter, Fast exact multiplication by the Hessian, Neural Computation 6(1), 1994.
    N. N. Schraudolph, Fast curvature matrix-vector products for second-order gradient descent, Neural Computation
    14(7), 2002.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, get_args

import torch
from torch import Tensor, nn

from isometry._base import Cost, stopwatch, together, unknown_name
from isometry.measure._curvature_losses import Loss
from isometry.measure._curvature_products import CurvatureKind, CurvatureProducts
from isometry.measure._curvature_result import Curvature
from isometry.measure._curvature_setup import make_curvature_setup
from isometry.measure._guards import outside_inference
from isometry.tape import Inputs

__all__ = ["curvature"]


@outside_inference
def curvature(
    model: nn.Module,
    x: Tensor | Inputs | Mapping[str, Any] | Sequence[Any],
    y: Any,
    *,
    loss: Loss = "cross-entropy",
    kind: CurvatureKind = "hessian",
    params: str | Iterable[str] = "all",
    budget: int | None = None,
) -> Curvature:
    """Prepare the Hessian or the Gauss-Newton matrix of a loss in the parameters, at a batch.

    The Hessian is that of L(theta) = loss(model(x), y). The Gauss-Newton matrix is J^T H_L J, with J the Jacobian of
    the outputs in the parameters and H_L the exact Hessian of the loss in the outputs: what is left of the Hessian when
    the model is replaced by its linearization. For a convex loss it has no negative eigenvalues. For cross-entropy it
    is the true Fisher matrix of ``measure.fisher``; for "mse" it is 2 / (outputs per sample) times the Gaussian one.

    A product differentiates the recorded gradient once more. Samples are taken in chunks: as many as keep the graph,
    whose size a trial with two samples tells, within 512 MiB and the budget. If the whole batch is one chunk its graph
    serves all products of a method; otherwise each product runs the model anew, chunk by chunk, once for a named loss
    and twice for a function, which may tie the samples together.

    The model is measured in the modes that it is in, with its parameters as they are, whether they require a gradient
    or not (narrow the choice by ``params``). Batch normalization in training mode is part of the function: its batch's
    statistics are differentiated, and the batch stays whole. Active dropout and other randomness are refused.

    One whole graph (``Inputs(..., whole=True)``) is run in one piece, and the loss is the mean over its nodes that
    count: those of its mask, with a label.

    Args:
        model: Maps x to one tensor with a row per sample.
        x: The batch, samples first: a tensor, a tuple of positional or a dict of keyword arguments, or ``Inputs``.
        y: Targets. For "cross-entropy" integer labels (N, ...) for outputs (N, ..., classes), -100 where there is none
            (and where a mask of the inputs says so); for "mse" values of the outputs' shape; a function gets them as
            they are. Of one whole graph (nodes,) labels, or (nodes, K) values.
        loss: "cross-entropy", the mean over all labels that count; "mse", the mean of all squared differences; or a
            function of (outputs, y) that returns one number (of one whole graph the outputs are (1, nodes, K)).
        kind: "hessian" or "gauss-newton".
        params: "all"; "hidden" (all but the output layer's); or one or several name patterns, as in ``fnmatch``.
        budget: Bytes that dense matrices, bases and the smallest graph may take; default: the package's.

    Returns:
        The matrix as an object: ``top``, ``bottom``, ``trace``, ``diagonal``, ``spectral_density``, ``matvec``,
        ``dense``. Its methods run the model again, and refuse if its parameters have changed.

    Raises:
        TypeError: If an argument has a wrong type, or model or loss return something else than one tensor.
        unknown_name: A ValueError with near matches, for an unknown kind or loss.
        ValueError: If the model is random or not differentiable, values are not finite, or targets do not fit.
        RuntimeError: If the products are visibly not those of a symmetric matrix.
        MemoryBudgetError: If the graph of one sample, or of a batch that cannot be divided, is over the budget.

    Example:
        >>> model = nn.Sequential(nn.Linear(2, 1, bias=False))
        >>> x = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
        >>> curvature(model, x, torch.zeros(2, 1), loss="mse").dense()  # (2 / N) X^T X
        tensor([[1., 0.],
                [0., 4.]])
    """
    if kind not in get_args(CurvatureKind):
        raise unknown_name("kind", kind, get_args(CurvatureKind))
    patterns = params if isinstance(params, str) else tuple(params)
    with stopwatch() as watch, together(f"measure.curvature ({kind}) in {patterns}"):
        setup = make_curvature_setup(model, x, y, loss=loss, params=patterns, budget=budget)
        products = CurvatureProducts(setup, kind)
        value, gradient_norm, unused = products.gradient()
        if not math.isfinite(gradient_norm):
            raise ValueError(
                f"the loss's gradient overflows on this batch (the outputs are finite): it has no curvature in "
                f"{setup.out.dtype}. measure.signal says which layers explode; model.double() may have the range."
            )
        asymmetry = products.asymmetry()
    # Rounding alone gives about the dtype's epsilon times some power of the depth.
    if asymmetry > torch.finfo(setup.out.dtype).eps ** 0.25:
        raise RuntimeError(
            f"the second derivatives contradict each other: u^T H v and v^T H u differ by {asymmetry:.1e} of their "
            "size. The model or the loss has an operation with a wrong derivative, a custom backward pass for example, "
            "or the dtype is too coarse: check them, or measure model.double()."
        )
    return Curvature(
        kind=kind,
        loss=setup.criterion.name,
        params=patterns if isinstance(patterns, str) else ", ".join(patterns),
        samples=setup.samples,
        size=setup.size,
        value=value,
        gradient_norm=gradient_norm,
        chunk=setup.chunk,
        mixing=setup.mixing,
        unused=unused,
        asymmetry=asymmetry,
        dtype=setup.out.dtype,
        budget=budget,
        cost=Cost(
            forward_passes=2 + products.passes,
            backward_passes=1 + products.passes,
            matvecs=2,
            bytes=setup.graph_bytes,
            seconds=watch.seconds,
        ),
        _setup=setup,
        _products=products,
    )
