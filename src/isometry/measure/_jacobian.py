"""Input-output Jacobians of a model, or of the part of it between two modules: whole spectra, extremes, products.

References:
    J. Pennington, S. S. Schoenholz, S. Ganguli. Resurrecting the sigmoid in deep learning through dynamical isometry,
    2017. https://arxiv.org/abs/1711.04735
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from isometry._base import allowed_bytes
from isometry.measure._guards import check_model, open_inputs, outside_inference
from isometry.measure._jacobian_chain import Chain
from isometry.measure._jacobian_operator import Jacobian, parameter_versions
from isometry.measure._jacobian_path import Path, opened, remedy
from isometry.tape import Inputs

__all__ = ["jacobian"]

_KEPT_BYTES = 256 * 2**20  # of a chain's slopes (and of weights in another dtype) that a Jacobian holds on to


@outside_inference
def jacobian(
    model: nn.Module,
    x: Tensor | Inputs | Mapping[str, Any] | Sequence[Any],
    start: str | None = None,
    stop: str | None = None,
    *,
    part: Callable[[Tensor], Tensor] | None = None,
    training: bool | None = None,
    dtype: torch.dtype | None = None,
    budget: int | None = None,
) -> Jacobian:
    """Prepare the Jacobians of a model, or of a part of it, at each input of a batch.

    The path runs from the *output* of ``start`` to the *output* of ``stop``. With ``h^l = W^l x^(l-1) + b^l`` and
    ``x^l = phi(h^l)``, a path between two linear layers is ``W^m D^(m-1) W^(m-1) ... W^(l+1) D^l``: the slopes at the
    start are in it, the weights of the start are not. Between two activations it is ``D^m W^m ... D^(l+1) W^(l+1)``.
    If the stop also depends on the input around the start, that other way is held fixed.

    Args:
        model: Any module.
        x: Inputs, the batch as the first dimension: a tensor, a tuple, a dict by argument name, or ``Inputs``. Samples
            must not influence each other. Of several inputs the first real-valued one is what a path from the model's
            input starts at; the others are held fixed.
        start: Qualified name of the module at whose output the path starts; None for the model's input.
        stop: Qualified name of the module at whose output it ends; None for the model's output.
        part: What of the stop's output the path ends at: a differentiable function of that tensor, the batch first
            (``lambda out: out[:, -1]``, the last position of a sequence); None for all of it.
        training: Measure in training mode, in evaluation mode, or (None) in the modes that the model is in. Batch
            normalization and dropout in training mode have no Jacobian per input and are refused.
        dtype: The dtype of the products, for chains of linear layers and elementwise functions; default: the model's,
            at least float32. float64 resolves singular values down to 1e-16 of the largest at double the cost.
        budget: Bytes that dense results may take; None for the package's default.

    Returns:
        An object with ``singular_values()``, ``spectrum()``, ``extremes()``, ``matrix()``, ``matvec()`` and
        ``rmatvec()``.

    Raises:
        TypeError: If the model is no module, a name no string, the input no tensor, the budget no number, or a module
            on the path's ends (or ``part``) returns no single real-valued tensor.
        ValueError: If the inputs are empty, not finite or do not fit the model; if a name is unknown (near matches
            are listed) or its module is not called exactly once; if the stop does not depend on the start; or if
            samples influence each other or chance influences them.

    Example:
        >>> model = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 2, bias=False))
        >>> path = jacobian(model, torch.zeros(1, 3), start="1")
        >>> bool(torch.allclose(path.matrix()[0], model[2].weight))
        True
    """
    check_model(model)
    allowed_bytes(budget)
    inputs = open_inputs(model, x)
    if start is None and inputs.leaf is None:
        raise ValueError(
            f"x has dtype {inputs.first.dtype}, so nothing can be differentiated with respect to it; name the module "
            "after whose output to start (start=), an embedding for example."
        )
    if start is not None and start == stop:
        raise ValueError(f"start and stop are both {start!r}; name two modules, or leave one of them out.")
    with opened(model, inputs, start, stop, part=part, training=training, wary=True) as path:
        if path.chain is None:  # a chain that agrees with autograd at random cotangents keeps its samples apart
            _insist_on_independence(path, model)
        products = _dtype(path, dtype)
        return Jacobian(
            start=start,
            stop=stop,
            inputs=len(inputs),
            in_shape=path.in_shape,
            out_shape=path.out_shape,
            is_chain=path.chain is not None,
            dtype=products,
            budget=budget,
            _model=model,
            _x=inputs.clone(),
            _part=part,
            _training=training,
            _widest=path.widest,
            _versions=parameter_versions(model),
            _chain=_worth_keeping(path.chain, products, model),
        )


def _worth_keeping(chain: Chain | None, dtype: torch.dtype, model: nn.Module) -> Chain | None:
    """Keep the factors of a chain for the methods, where they are small, so that the model need not run again.

    Returns:
        The chain in the products' dtype, or None.
    """
    if chain is None:
        return None
    cast = chain.to(dtype)
    return cast if cast.bytes(model) <= _KEPT_BYTES else None


def _dtype(path: Path, wanted: torch.dtype | None) -> torch.dtype:
    own = path.leaf.dtype
    if wanted is None:
        return torch.promote_types(own, torch.float32) if path.chain is not None else own
    if wanted not in (torch.float32, torch.float64):
        raise ValueError(f"dtype must be torch.float32 or torch.float64, got {wanted}.")
    if path.chain is None and wanted != own:
        raise ValueError(
            f"dtype {wanted} was asked for, but this path is no chain of linear layers and elementwise functions, so "
            f"its products are made in the model's {own}; convert the model and the inputs instead."
        )
    return wanted


def _insist_on_independence(path: Path, model: nn.Module) -> None:
    """See that a cotangent of the first input reaches no other.

    Raises:
        ValueError: If it does.
    """
    if len(path.leaf) < 2:
        return
    cotangent = torch.zeros_like(path.output)
    cotangent[0] = torch.randn(path.output.shape[1:], generator=torch.Generator().manual_seed(1)).to(cotangent)
    (image,) = torch.autograd.grad(path.output, path.leaf, cotangent, retain_graph=True)
    if bool((image[1:] != 0).any()) and bool(image.isfinite().all()):
        advice = remedy(model, "measure one input, or a path between layers that keep samples apart")
        raise ValueError(
            f"samples influence each other: the first one's output depends on the others' inputs, so there is no "
            f"Jacobian per input. {advice}"
        )
