"""Gradients of mini-batches by ordinary backward passes: the route for models in which samples mix.

With batch normalization in training mode a single sample has no gradient, a mini-batch has. Gradients are formed:
all of them for all pairs, two at a time for drawn pairs.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from isometry._base import Cost, check_budget, progress
from isometry.measure._confusion_batches import PAIR_BYTES, Draw
from isometry.measure._confusion_guards import only_require
from isometry.measure._confusion_loss import SampleLoss, loss_and_cotangents, nonfinite_samples
from isometry.measure._confusion_nodes import node_gradients
from isometry.measure._confusion_result import Comparison, Products
from isometry.measure._guards import differentiable, run_model
from isometry.tape import Inputs, untouched

__all__ = ["batch_gradient", "compare_by_passes"]

_CHUNK = 2**20  # entries of the gradients that are widened to float64 at a time, for each gradient
Gradient = dict[str, Tensor]


def compare_by_passes(
    model: nn.Module,
    x: Inputs,
    y: Tensor,
    loss: SampleLoss,
    parameters: dict[str, nn.Parameter],
    draw: Draw,
    *,
    per_layer: bool,
    budget: int | None,
) -> Comparison:
    """Form the gradients of mini-batches' mean losses and multiply them.

    Args:
        model: The model, in the modes that are measured.
        x: The batch, or one whole graph, whose nodes are then the samples.
        y: Targets.
        loss: Losses of samples.
        parameters: The chosen parameters by name.
        draw: The mini-batches and their pairs.
        per_layer: Whether the layers' shares are wanted.
        budget: Bytes that the formed gradients may take.

    Returns:
        The products.
    """
    size = sum(p.numel() for p in parameters.values())
    count = len(draw.batches)
    kept = sum(p.numel() * p.element_size() for p in parameters.values()) * (count if draw.complete else 2)
    needed = check_budget(
        kept + 8 * count * min(size, _CHUNK) + (16 * count**2 if draw.complete else 0) + PAIR_BYTES * len(draw.pairs),
        budget,
        what=f"keeping the gradients of {count if draw.complete else 2} mini-batches in {size} parameters",
        instead="Pass pairs= to keep two at a time, narrow params=,"
        if draw.complete
        else "Narrow params=, take a smaller model,",
    )
    group = _layer_of if per_layer else _whole
    losses: list[float] = []
    dtypes: list[torch.dtype] = []

    def gradient(k: int) -> Gradient:
        progress("Gradients of mini-batches", k, count)
        value, dtype, found = of_batch(draw.batches[k])
        losses.append(value)
        dtypes.append(dtype)
        return found

    with untouched(model), differentiable(model):
        only_require(model, parameters.values())
        of_batch = (
            node_gradients(model, x, y, loss, parameters, torch.unique(draw.batches))
            if x.whole
            else functools.partial(batch_gradient, model, x, y, loss, parameters)
        )
        products = (_all if draw.complete else _drawn)(gradient, draw, parameters, group)
    progress("Gradients of mini-batches", count, count)
    total = Products(sum(p.squares for p in products.values()), sum(p.inner for p in products.values()))  # type: ignore[arg-type]
    mean = float(total.squares.sum() + 2 * total.inner.sum()) / count**2 if draw.complete else math.nan
    return Comparison(
        total=total,
        layers=products if per_layer else {},
        mean_square=mean,
        loss=sum(losses) / len(losses),
        residual=math.nan,
        size=size,
        dtype=dtypes[0],
        cost=_passes(draw, x, needed),
    )


def _passes(draw: Draw, x: Inputs, needed: int) -> Cost:
    if x.whole:  # one forward pass for its size, one for all gradients, and a backward pass for each
        return Cost(forward_passes=2, backward_passes=len(draw.batches), bytes=needed)
    passes = math.ceil(draw.batches.numel() / len(x))  # in units of the whole batch
    return Cost(forward_passes=passes, backward_passes=passes, bytes=needed)


def batch_gradient(
    model: nn.Module, x: Inputs, y: Tensor, loss: SampleLoss, parameters: dict[str, nn.Parameter], batch: Tensor
) -> tuple[float, torch.dtype, Gradient]:
    """Differentiate the mean loss of one mini-batch.

    Args:
        model: The model.
        x: The samples.
        y: Their targets.
        loss: Losses of samples.
        parameters: In which parameters; they require gradients.
        batch: The numbers of the samples that are in the mini-batch.

    Returns:
        The loss, the output's dtype, and the gradient by parameter.

    Raises:
        ValueError: If the gradient is not finite.
    """
    index = batch.to(x.device)
    out = run_model(model, x[index])
    nonfinite_samples("the model's output is", out.detach())
    losses, back = loss_and_cotangents(loss, out, y[batch.to(y.device)])
    chosen = list(parameters.values())
    if out.requires_grad:
        grads = torch.autograd.grad(out, chosen, back / len(batch), allow_unused=True, materialize_grads=True)
    else:
        grads = tuple(torch.zeros_like(p) for p in chosen)
    if not all(bool(torch.isfinite(g).all()) for g in grads):
        raise ValueError(
            "the gradient of a mini-batch is not finite (NaN or infinity) although its outputs are: it overflows on "
            f"its way back in {out.dtype}. measure.signal says in which layers; model.double() may have the range."
        )
    return float(losses.mean()), out.dtype, dict(zip(parameters, grads, strict=True))


def _all(
    gradient: Callable[[int], Gradient],
    draw: Draw,
    parameters: dict[str, nn.Parameter],
    group: Callable[[str], str],
) -> dict[str, Products]:
    count = len(draw.batches)
    rows = {name: p.detach().new_empty(count, p.numel()) for name, p in parameters.items()}
    for k in range(count):
        for name, g in gradient(k).items():
            rows[name][k] = g.flatten()
    grams: dict[str, Tensor] = {}
    for name in parameters:
        block = rows.pop(name)
        into = grams.setdefault(group(name), torch.zeros(count, count, dtype=torch.float64, device=block.device))
        for part in torch.split(block, _CHUNK, 1):
            wide = part.double()
            into.addmm_(wide, wide.T)
    left, right = draw.pairs.unbind(1)
    return {
        key: Products(gram.diagonal().clone(), gram[left.to(gram.device), right.to(gram.device)])
        for key, gram in grams.items()
    }


def _drawn(
    gradient: Callable[[int], Gradient],
    draw: Draw,
    parameters: dict[str, nn.Parameter],
    group: Callable[[str], str],
) -> dict[str, Products]:
    keys = dict.fromkeys(group(name) for name in parameters)
    squares = {key: torch.zeros(len(draw.batches), dtype=torch.float64) for key in keys}
    inner = {key: torch.zeros(len(draw.pairs), dtype=torch.float64) for key in keys}
    for m, (i, j) in enumerate(draw.pairs.tolist()):
        left, right = gradient(i), gradient(j)
        for name in parameters:
            a, b = left[name].flatten(), right[name].flatten()
            squares[group(name)][i] += _dot(a, a)
            squares[group(name)][j] += _dot(b, b)
            inner[group(name)][m] += _dot(a, b)
    return {key: Products(squares[key], inner[key]) for key in keys}


def _dot(a: Tensor, b: Tensor) -> float:
    parts = zip(torch.split(a, _CHUNK), torch.split(b, _CHUNK), strict=True)
    return math.fsum(float(p.double() @ q.double()) for p, q in parts)


def _layer_of(name: str) -> str:
    return name.rpartition(".")[0].split(".parametrizations")[0].removeprefix("parametrizations")


def _whole(_name: str) -> str:
    return ""
