"""Gradient confusion: how strongly the gradients of different samples oppose each other.

Stochastic gradient descent is fast where a step for one sample does not undo that for another. The confusion bound at a
point is the smallest eta >= 0 with <grad f_i, grad f_j> >= -eta for all i != j.

Paper: K. A. Sankararaman, S. De, Z. Xu, W. R. Huang, T. Goldstein. "The Impact of Neural Network Overparameterization
on Gradient Confusion and Stochastic Gradient Descent." ICML 2020.

Departures: (1) single samples by default and all pairs of them, which gives the definition's eta exactly; the paper's
figures take 100 drawn pairs of mini-batches (``batch_size=128, pairs=100``). (2) No gradient is formed where samples do
not mix: everything comes from the Gram matrix of the samples' gradients.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from isometry._base import MemoryBudgetError, check_budget, stopwatch, together
from isometry.measure._confusion_batches import PAIR_BYTES, Draw, draw_batches
from isometry.measure._confusion_gram import compute_gram
from isometry.measure._confusion_guards import batch_statistics, check_single, check_still
from isometry.measure._confusion_loss import Loss, SampleLoss, masked_targets, resolve_loss
from isometry.measure._confusion_nodes import resolve_nodes
from isometry.measure._confusion_passes import compare_by_passes
from isometry.measure._confusion_result import (
    Comparison,
    GradientConfusion,
    LayerConfusion,
    Products,
    Taken,
    describe,
    summarize,
)
from isometry.measure._confusion_sweep import matrix_bytes, plan_gram
from isometry.measure._fisher_roots import check_choice
from isometry.measure._fisher_setup import choose_parameters
from isometry.measure._guards import check_model, open_inputs, outside_inference
from isometry.measure._share import insist_on_same
from isometry.tape import Inputs

__all__ = ["gradient_confusion"]

Route = Literal["auto", "gram", "passes"]


@outside_inference
def gradient_confusion(
    model: nn.Module,
    x: Tensor | Inputs | Mapping[str, Any] | Sequence[Any],
    y: Tensor,
    *,
    loss: Loss = None,
    batch_size: int = 1,
    pairs: int | None = None,
    params: str | Iterable[str] = "all",
    per_layer: bool = False,
    route: Route = "auto",
    budget: int | None = None,
    generator: torch.Generator | None = None,
) -> GradientConfusion:
    """Measure the gradient confusion of a model: inner products and cosines between gradients.

    Gradients are those of single samples, or of the mean losses of disjoint mini-batches. A loss that sums over the
    mini-batch instead would multiply ``eta`` by batch_size^2 and leave the cosines alone.

    Two routes lead to the same numbers. "gram" computes the Gram matrix of the samples' gradients without forming any
    and averages its blocks; it needs samples that do not mix, and memory for their number squared. "passes" forms the
    mini-batches' gradients by ordinary backward passes: batch normalization may then use the batch's statistics, as in
    training. "auto" takes the first where it can. The model is measured in the modes that it is in.

    The samples of one whole graph (``Inputs(..., whole=True)``) are its nodes that count, those of its mask with a
    label: the gradient of each is that of its own loss, through the one forward pass that all share ("passes").

    Args:
        model: Maps x to outputs, samples first.
        x: The batch, samples first: a tensor, a tuple of positional or a dict of keyword arguments, or ``Inputs``.
        y: Targets, samples first; of one whole graph (nodes,) or (nodes, K).
        loss: "cross-entropy" of class indices; "mse", the mean over a sample's outputs; a callable that gets the
            outputs and targets of one sample (as a batch of one) and returns one number; None takes the cross-entropy
            for integer targets and the mean squared error for real ones.
        batch_size: Samples per gradient. 1 is the definition's; the paper's figures take that of the training.
        pairs: None compares all pairs (of a split into disjoint mini-batches: the exact minimum for single samples); a
            number draws that many pairs of disjoint mini-batches, independently. The minimum falls with it.
        params: "all", "hidden" (all but the output layer's), or one or several name patterns, as in ``fnmatch``.
        per_layer: Also compare each layer's share of the gradients.
        route: "auto", "gram" or "passes".
        budget: Bytes that the Gram matrix or the formed gradients may take; default: the package's.
        generator: For the split into mini-batches and the drawn pairs; default: torch's global one, left as it was.

    Returns:
        The measurement, frozen. Of one whole graph ``worst`` and ``batches`` hold the numbers of nodes.

    Raises:
        TypeError: If an argument has a wrong type, or the model returns something else than one tensor.
        ValueError: If there are less than two gradients, or they are undefined (dropout in training mode, randomness,
            batch normalization in training mode for single samples), or targets, outputs, losses or gradients do not
            fit or are not finite.
        RuntimeError: If an ordinary backward pass contradicts the Gram matrix.
        MemoryBudgetError: If both routes are over the budget.

    Example:
        >>> line = nn.Linear(2, 1, bias=False).double()
        >>> x = torch.tensor([[1.0, 0.0], [3.0, 4.0]], dtype=torch.float64)
        >>> _ = nn.init.zeros_(line.weight)
        >>> confusion = gradient_confusion(line, x, torch.tensor([[1.0], [-1.0]], dtype=torch.float64))
        >>> round(confusion.min_cosine, 6), round(confusion.eta, 6)  # -cos(x_1, x_2), and 4 <x_1, x_2>
        (-0.6, 12.0)
    """
    module = check_model(model)
    batch = open_inputs(module, x)
    check_choice("route", route, Route)
    patterns = params if isinstance(params, str) else tuple(params)
    parameters = choose_parameters(module, patterns)
    mixing = batch_statistics(module)
    if batch.whole:
        _insist_on_passes(route)
        chosen, targets, numbers = resolve_nodes(module, batch, loss, y)
    else:
        chosen, targets = resolve_loss(loss, y, len(batch))
        targets, numbers = masked_targets(batch, targets, chosen), torch.arange(len(batch))
        if mixing and (batch_size == 1 or route == "gram"):
            check_single(module)
    check_still(module, batch)
    with stopwatch() as watch, together(f"measure.gradient_confusion of {chosen.name}, {patterns}") as team:
        insist_on_same(module, batch, targets)
        draw = draw_batches(len(numbers), batch_size, pairs, budget=budget, generator=generator)
        draw = replace(
            draw,
            batches=team.first(numbers[draw.batches], "the drawn mini-batches"),
            pairs=team.first(draw.pairs, "the drawn pairs"),
        )
        found = None
        taken: Taken = "passes"
        reason = "asked for"
        if batch.whole:
            reason = "the nodes of one graph share a forward pass"
        elif mixing:
            reason = f"{mixing[0].name!r} ({mixing[0].kind}) {mixing[0].why}"
        elif route != "passes":
            found, reason = _by_gram(module, batch, targets, chosen, patterns, draw, route, per_layer, budget)
        if found is None:
            found = compare_by_passes(
                module, batch, targets, chosen, parameters, draw, per_layer=per_layer, budget=budget
            )
        else:
            taken = "gram"
    return _result(found, draw, taken, reason, chosen, patterns, module, len(numbers), watch.seconds)


def _insist_on_passes(route: Route) -> None:
    if route == "gram":
        raise ValueError(
            'route="gram" needs samples that do not mix, and the nodes of one whole graph do; leave it at "auto".'
        )


def _by_gram(
    model: nn.Module,
    x: Inputs,
    y: Tensor,
    loss: SampleLoss,
    params: str | tuple[str, ...],
    draw: Draw,
    route: Route,
    per_layer: bool,
    budget: int | None,
) -> tuple[Comparison | None, str]:
    """Compare by the Gram matrix of the samples that belong to some mini-batch, if it fits into the budget.

    Returns:
        The products, or None; and why.

    Raises:
        MemoryBudgetError: If it does not fit and there is no other route.
    """
    used, place = torch.unique(draw.batches, return_inverse=True)
    extra = _bytes_of_pairs(draw, len(used))
    words = {
        "what": f"the Gram matrix of {len(used)} single samples' gradients",
        "instead": "Take fewer samples, draw some of all pairs by pairs=,",
    }
    try:
        check_budget(matrix_bytes(len(used)) + extra, budget, **words)  # before the model runs on all of them
        planned = plan_gram(model, x[used.to(x.device)], params)
        needed = check_budget(planned.foreseen(per_layer=per_layer) + extra, budget, **words)
    except MemoryBudgetError:
        if route == "gram" or draw.batches.shape[1] == 1:
            raise
        return None, f"the Gram matrix of {len(used)} samples is over the budget"
    gram = compute_gram(planned, loss, y[used.to(y.device)], params=params, per_layer=per_layer)
    count, size = draw.batches.shape
    mean = torch.zeros(count, len(used), dtype=torch.float64)
    mean.scatter_(1, place, 1 / size)  # row k averages the samples of mini-batch k
    mean = mean.to(gram.gram.device)
    whole = draw.complete and size == 1  # the samples' own matrix, in their order

    def products(samples: Tensor) -> tuple[Products, float]:
        batches = samples if whole else mean @ samples @ mean.T
        left, right = draw.pairs.to(batches.device).unbind(1)
        total = float(batches.sum()) / count**2 if draw.complete else math.nan
        return Products(batches.diagonal().clone(), batches[left, right]), total

    total, square = products(gram.gram)
    return Comparison(
        total=total,
        layers={name: products(part)[0] for name, part in gram.layers.items()},
        mean_square=square,
        loss=float((mean @ gram.losses).mean()),
        residual=gram.residual,
        size=gram.size,
        dtype=gram.dtype,
        cost=replace(gram.cost, bytes=needed),
    ), "samples do not mix"


def _bytes_of_pairs(draw: Draw, used: int) -> int:
    """Foresee what comes on top of the samples' matrix: mini-batches' matrices, pairs, cosines and their order.

    Returns:
        Bytes.
    """
    count, size = draw.batches.shape
    averages = 8 * count * (2 * used + count) if size > 1 or not draw.complete else 0
    return averages + PAIR_BYTES * len(draw.pairs)


def _result(
    found: Comparison,
    draw: Draw,
    taken: Taken,
    reason: str,
    loss: SampleLoss,
    params: str | tuple[str, ...],
    model: nn.Module,
    samples: int,
    seconds: float,
) -> GradientConfusion:
    total = summarize(found.total, draw.pairs)
    quantiles, histogram = describe(total.cosines)
    worst: tuple[int, ...] = ()
    if total.cosines.numel():
        rows = draw.pairs[total.defined.cpu()][int(total.cosines.argmin())]
        single = draw.batches.shape[1] == 1
        worst = tuple(int(v) for v in (draw.batches[rows, 0] if single else rows))
    layers = []
    for name, share in found.layers.items():
        s = summarize(share, draw.pairs)
        layers.append(LayerConfusion(name, s.eta, s.min_cosine, s.mean, s.std, s.zero_gradients))
    return GradientConfusion(
        eta=total.eta,
        min_cosine=total.min_cosine,
        mean=total.mean,
        std=total.std,
        quantiles=quantiles,
        histogram=histogram,
        worst=worst,
        pairs=len(draw.pairs),
        complete=draw.complete,
        gradients=len(draw.batches),
        zero_gradients=total.zero_gradients,
        undefined=len(draw.pairs) - total.cosines.numel(),
        samples=samples,
        left_out=draw.left_out,
        batch_size=draw.batches.shape[1],
        loss=loss.name,
        mean_loss=found.loss,
        mean_gradient_norm=math.sqrt(max(found.mean_square, 0.0)) if draw.complete else math.nan,
        params=params if isinstance(params, str) else ", ".join(params),
        size=found.size,
        route=taken,
        reason=reason,
        training=any(m.training for m in model.modules()),
        dtype=found.dtype,
        residual=found.residual,
        layers=tuple(layers),
        cost=replace(found.cost, seconds=seconds),
        cosines=total.cosines,
        batches=draw.batches,
    )
