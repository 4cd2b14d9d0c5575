"""Gradient confusion: what the inner products and cosines between gradients say.

Paper: K. A. Sankararaman, S. De, Z. Xu, W. R. Huang, T. Goldstein. "The Impact of Neural Network Overparameterization
on Gradient Confusion and Stochastic Gradient Descent." ICML 2020.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from isometry._base import Cost, Result

__all__ = [
    "Comparison",
    "GradientConfusion",
    "LayerConfusion",
    "Products",
    "Statistics",
    "Taken",
    "describe",
    "summarize",
]

Taken = Literal["gram", "passes"]
QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
BINS = 40  # of the histogram, over [-1, 1]


class Products(NamedTuple):
    """Inner products between gradients.

    Attributes:
        squares: Squared norms of the gradients, (K,), float64.
        inner: Inner products of the pairs, (M,), float64.
    """

    squares: Tensor
    inner: Tensor


class Comparison(NamedTuple):
    """What a route hands over: the products of the whole gradient, and of each layer's share.

    Attributes:
        total: Of the whole gradients.
        layers: Of the layers, if they were asked for.
        mean_square: Squared norm of the mean of the K gradients; NaN where it was not formed.
        loss: Mean loss over the mini-batches.
        residual: Of the route's check on itself; NaN where it has none.
        size: Numbers in the chosen parameters.
        dtype: In which the model ran.
        cost: Passes and bytes.
    """

    total: Products
    layers: dict[str, Products]
    mean_square: float
    loss: float
    residual: float
    size: int
    dtype: torch.dtype
    cost: Cost


class Statistics(NamedTuple):
    """What is reported of one set of products.

    Attributes:
        eta: max(0, -min of the inner products).
        min_cosine: Smallest cosine; NaN if there is none.
        mean: Mean cosine.
        std: Standard deviation of the cosines over the pairs.
        zero_gradients: How many of the gradients are zero.
        cosines: Of the pairs without a zero gradient.
        defined: Which pairs these are, (M,).
    """

    eta: float
    min_cosine: float
    mean: float
    std: float
    zero_gradients: int
    cosines: Tensor
    defined: Tensor


def summarize(products: Products, pairs: Tensor) -> Statistics:
    """Turn inner products into the confusion and the cosines; pairs with a zero gradient have no cosine.

    Returns:
        The statistics.
    """
    norms = products.squares.clamp_min(0).sqrt()
    left, right = pairs.to(norms.device).unbind(1)
    defined = (norms[left] > 0) & (norms[right] > 0)
    cosines = (products.inner / norms[left] / norms[right])[defined].clamp(-1, 1)
    some = cosines.numel() > 0
    return Statistics(
        eta=max(0.0, -float(products.inner.min())),  # the definition: <g_i, g_j> >= -eta for all i != j
        min_cosine=float(cosines.min()) if some else math.nan,
        mean=float(cosines.mean()) if some else math.nan,
        std=float(cosines.std(correction=0)) if some else math.nan,
        zero_gradients=int((norms == 0).sum()),
        cosines=cosines,
        defined=defined,
    )


@dataclass(frozen=True)
class LayerConfusion(Result):
    """The confusion between one layer's shares of the gradients.

    Attributes:
        name: The module that holds the parameters; "" for the model itself.
        eta: max(0, -min of the inner products) of the layer's shares.
        min_cosine: Their smallest cosine; NaN if none is defined.
        mean: Mean cosine.
        std: Standard deviation of the cosines over the pairs.
        zero_gradients: How many of the gradients are zero in this layer.
    """

    name: str
    eta: float
    min_cosine: float
    mean: float
    std: float
    zero_gradients: int


@dataclass(frozen=True, eq=False)
class GradientConfusion(Result):
    """How strongly the gradients of different samples, or mini-batches, oppose each other.

    The smallest inner product and the smallest cosine are extremes: they fall with the number of pairs. Compare results
    with equal ``pairs`` and ``batch_size`` only.

    Attributes:
        eta: The paper's confusion at these parameters: the smallest eta >= 0 with <g_i, g_j> >= -eta for all pairs
            compared; in squared units of the gradient.
        min_cosine: Smallest cosine, the quantity of the paper's figures; NaN if no cosine is defined.
        mean: Mean cosine.
        std: Standard deviation of the cosines over the pairs.
        quantiles: Quantiles of the cosines, by probability.
        histogram: Counts of the cosines in 40 equal bins over [-1, 1].
        worst: The pair of the smallest cosine: two samples, or two rows of ``batches``; empty if there is none.
        pairs: How many pairs were compared.
        complete: Whether these were all pairs of the gradients; else they were drawn.
        gradients: How many gradients there were (two a pair if pairs were drawn).
        zero_gradients: How many of them are exactly zero; their pairs have no cosine and are left out of everything
            but ``eta``.
        undefined: How many pairs that leaves out.
        samples: How many samples were given.
        left_out: Samples that no mini-batch had room for.
        batch_size: Samples per gradient; the loss of a mini-batch is the mean over its samples.
        loss: Which loss.
        mean_loss: Its mean over the mini-batches.
        mean_gradient_norm: Norm of the mean of all gradients; NaN where pairs were drawn.
        params: Which parameters.
        size: How many numbers they hold.
        route: "gram": from the Gram matrix of the samples' gradients, none of which was formed; "passes": from
            mini-batch gradients of ordinary backward passes.
        reason: Why this route was taken.
        training: Whether any module was in training mode.
        dtype: In which the model ran; sums are in float64.
        residual: Relative difference between the Gram matrix and an ordinary backward pass in one random combination of
            the samples; NaN on the other route, which has nothing to compare.
        layers: The same for each layer, if it was asked for.
        cost: What it took.
        cosines: All cosines, (pairs - undefined,), float64.
        batches: The samples of each gradient, (gradients, batch_size).
    """

    eta: float
    min_cosine: float
    mean: float
    std: float
    quantiles: dict[float, float]
    histogram: tuple[int, ...]
    worst: tuple[int, ...]
    pairs: int
    complete: bool
    gradients: int
    zero_gradients: int
    undefined: int
    samples: int
    left_out: int
    batch_size: int
    loss: str
    mean_loss: float
    mean_gradient_norm: float
    params: str
    size: int
    route: Taken
    reason: str
    training: bool
    dtype: torch.dtype
    residual: float
    layers: tuple[LayerConfusion, ...]
    cost: Cost
    cosines: Tensor = field(repr=False)
    batches: Tensor = field(repr=False)

    def __str__(self) -> str:
        kind = "single samples" if self.batch_size == 1 else f"mini-batches of {self.batch_size}"
        pairs = f"all {self.pairs} pairs" if self.complete else f"{self.pairs} drawn pairs"
        where = f" ({' and '.join(map(str, self.worst))})" if self.worst else ""
        lines = [
            f"gradient confusion between {self.gradients} {kind} ({self.loss}, {self.size} parameters: {self.params})",
            f"  smallest cosine  {self.min_cosine:.4g}{where} over {pairs}: it falls with their number",
            f"  cosines          mean {self.mean:.4g}, standard deviation {self.std:.4g}, "
            + ", ".join(f"{100 * p:g} % {v:.3g}" for p, v in self.quantiles.items() if p in (0.05, 0.5, 0.95)),
            f"  eta              {self.eta:.4g}, mean loss {self.mean_loss:.4g}",
        ]
        if self.zero_gradients:
            lines.append(f"  left out         {self.undefined} pairs with {self.zero_gradients} zero gradients")
        if self.left_out:
            lines.append(f"  not used         {self.left_out} of {self.samples} samples, which fill no mini-batch")
        lines.append(f"  route            {self.route} ({self.reason}); {self.cost.seconds:.2f} s")
        if self.layers:
            width = max(len(layer.name) for layer in self.layers)
            lines.append("  by layer         smallest cosine, mean, eta")
            lines += [f"    {v.name:<{width}}  {v.min_cosine:.4g}, {v.mean:.4g}, {v.eta:.4g}" for v in self.layers]
        return "\n".join(lines)


def describe(cosines: Tensor) -> tuple[dict[float, float], tuple[int, ...]]:
    """Give quantiles and histogram of the cosines.

    Returns:
        Quantiles by probability (NaN without cosines), and counts over [-1, 1].
    """
    values = cosines.cpu().numpy()
    found = np.quantile(values, QUANTILES) if values.size else np.full(len(QUANTILES), np.nan)
    counts = np.histogram(values, bins=BINS, range=(-1.0, 1.0))[0]
    return dict(zip(QUANTILES, map(float, found), strict=True)), tuple(map(int, counts))
