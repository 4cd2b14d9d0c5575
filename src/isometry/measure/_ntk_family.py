"""The tangent-kernel family of each network of an ensemble, layer by layer, at one input."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias, cast

import torch
from torch import Tensor

from isometry._base import Cost, Result, check_budget, check_positive, progress, stopwatch
from isometry.measure._ntk_recursion import Order, TangentState, advance, first_layer, state_bytes
from isometry.measure._stacked import StackedWeights, check_input, depth_of, layers_of
from isometry.theory import Activation
from isometry.theory._derivatives import derivatives, tensor_function
from isometry.theory._resolve import ActivationLike

__all__ = ["BiasRates", "NTKFamily", "TangentResult", "bias_rates", "kink_note", "ntk_family", "tangent_layers"]

BiasRates: TypeAlias = "Literal['auto', '1/l'] | float | Sequence[float]"

_CHUNK = 2**25  # bytes of temporaries that one chunk of networks may take; beyond it they leave the cache for nothing
_TEMPORARIES = 11  # states of a chunk that one step of the recursion holds at its peak, the new one included


@dataclass(frozen=True, kw_only=True)
class TangentResult(Result):
    """What every result on the tangent-kernel family says of itself.

    Attributes:
        order: 1, 2 or 3.
        activation: Name of the activation.
        lambda_w: Learning rate of the weights times their fan_in.
        lambda_b: Learning rate of the biases, layer by layer.
        note: What is left out; empty if nothing is.
        dtype: float64, in which everything is computed.
        cost: Bytes and time.
    """

    order: int
    activation: str
    lambda_w: float
    lambda_b: tuple[float, ...]
    note: str = ""
    dtype: str = "float64"
    cost: Cost = field(default_factory=Cost)


@dataclass(frozen=True, kw_only=True)
class NTKFamily(TangentResult):
    """The tangent kernel and its changes in every network; one entry a layer, entry 0 for the first.

    ``TangentResult`` has the rest: order, activation, learning rates, note, dtype and cost.

    Attributes:
        z: Pre-activations (networks, n).
        h: H_ab, the kernel (networks, n, n).
        dh: dH_abc, its first change (networks, n, n, n), the twice differentiated output first; empty below order 2.
        hi: HI_abcd, its second change of type I (networks, n, n, n, n); empty below order 3.
        hii: HII_abcd, that of type II (networks, n, n, n, n); empty below order 3.
    """

    z: tuple[Tensor, ...] = field(repr=False)
    h: tuple[Tensor, ...] = field(repr=False)
    dh: tuple[Tensor, ...] = field(repr=False)
    hi: tuple[Tensor, ...] = field(repr=False)
    hii: tuple[Tensor, ...] = field(repr=False)

    def __str__(self) -> str:
        networks, width = self.z[0].shape
        text = (
            f"NTK family of order {self.order}: {networks} {self.activation} networks, {len(self.z)} layers of {width}"
        )
        return f"{text} ({self.note})" if self.note else text


def ntk_family(
    weights: StackedWeights,
    x: Tensor,
    activation: ActivationLike,
    *,
    order: Order = 1,
    lambda_w: float = 1.0,
    lambda_b: BiasRates = "auto",
    budget: int | None = None,
) -> NTKFamily:
    """Compute the tangent kernel of every network and, by order, its first and second changes under learning.

    The networks have biases that are 0, and learn: lambda_w / fan_in is the learning rate of weights, lambda_b that of
    biases. H_ab = SUM lam d z_a d z_b; the higher tensors are defined in the module.

    Args:
        weights: A tensor (networks, out, in) for each layer, as ``isometry.training.ensemble`` draws them.
        x: One input, a vector.
        activation: A name, a module of ``torch.nn`` or an elementwise callable.
        order: 1 for H, 2 for dH as well, 3 for HI and HII as well (width^4 numbers each, for every network and layer).
        lambda_w: Learning rate of the weights times their fan_in.
        lambda_b: Learning rate of the biases: a number, one for each layer, "1/l" for 1/layer, or "auto": "1/l" for odd
            activations that bend (tanh), for which it keeps weights' and biases' shares of H in proportion, else 1.
        budget: Bytes allowed for the result; default: 4 GiB.

    Returns:
        The tensors of every layer.

    Example:
        >>> family = ntk_family(torch.eye(2).expand(2, 3, 2, 2), torch.ones(2), "linear", lambda_b=1.0)
        >>> family.h[1][0]  # each layer adds lambda_b + lambda_w |x|^2 / 2 = 2
        tensor([[4., 0.],
                [0., 4.]], dtype=torch.float64)
    """
    known = tensor_function(activation)[1]
    rates = bias_rates(lambda_b, known, depth_of(weights))
    layers: list[TangentState] = []
    with stopwatch() as watch:
        for needed, state in tangent_layers(
            weights, x, activation, order=order, lambda_w=lambda_w, rates=rates, budget=budget, keep=True
        ):
            layers.append(TangentState(*(None if t is None else t.clone() for t in state.tensors())))  # type: ignore[arg-type]
            foreseen = needed
    return NTKFamily(
        z=tuple(layer.z for layer in layers),
        h=tuple(layer.h for layer in layers),
        dh=tuple(layer.dh for layer in layers if layer.dh is not None),
        hi=tuple(layer.hi for layer in layers if layer.hi is not None),
        hii=tuple(layer.hii for layer in layers if layer.hii is not None),
        order=order,
        activation=known.name,
        lambda_w=float(lambda_w),
        lambda_b=rates,
        note=kink_note(known, order),
        cost=Cost(forward_passes=1, bytes=foreseen, seconds=watch.seconds),
    )


def tangent_layers(
    weights: StackedWeights,
    x: Tensor,
    activation: ActivationLike,
    *,
    order: int,
    lambda_w: float,
    rates: Sequence[float],
    budget: int | None,
    keep: bool = False,
    least_networks: int = 1,
) -> Iterator[tuple[int, TangentState]]:
    """Run the recursion, a chunk of networks at a time, in one state that is overwritten layer by layer.

    Args:
        weights: The stack.
        x: One input.
        activation: What lies between the layers.
        order: 1, 2 or 3.
        lambda_w: Learning rate of the weights times their fan_in.
        rates: Learning rates of the biases, layer by layer.
        budget: Bytes allowed.
        keep: Whether all layers will be kept: then the budget is for all of them.
        least_networks: How many networks there must be.

    Yields:
        The bytes foreseen, and the state after each layer, which the next step overwrites.

    Raises:
        ValueError: If the order is not 1, 2 or 3, or lambda_w is out of range.
    """
    if isinstance(order, bool) or order not in (1, 2, 3):
        raise ValueError(f"order must be 1 (H), 2 (dH) or 3 (HI and HII), got {order!r}.")
    rate = check_positive("lambda_w", lambda_w, zero=True)
    vector = check_input(x, nonzero=least_networks > 1)
    depth = depth_of(weights)
    function = tensor_function(activation)[0]
    state: TangentState | None = None
    needed = 0
    with torch.no_grad():
        for index, w in enumerate(layers_of(weights, vector, least_networks=least_networks)):
            networks, width = w.shape[:2]
            one = state_bytes(width, order)
            chunk = min(networks, max(1, _CHUNK // (_TEMPORARIES * one)))
            if state is None:
                states = networks * (depth + 1 if keep else 1) + _TEMPORARIES * chunk
                needed = check_budget(
                    one * states + 3 * w.numel() * 8,  # the layer's weights, and the check of the next one's
                    budget,
                    what=f"the NTK family of order {order} of {networks} networks of width {width}"
                    + (f", {depth} layers kept," if keep else ""),
                    instead=f"Use order={order - 1}, fewer networks or a smaller width,"
                    if order > 1
                    else "Use fewer networks or a smaller width,",
                )
                state = first_layer(w, vector.to(w.device), lambda_w=rate, lambda_b=rates[0], order=order)
            else:
                for first in range(0, networks, chunk):
                    part = state.rows(first, first + chunk)
                    s = derivatives(function, order, part.z)
                    new = advance(w[first : first + chunk], part, s, lambda_w=rate, lambda_b=rates[index])
                    state.overwrite_(first, new)
            progress("NTK family", index + 1, depth)
            yield needed, state


def bias_rates(lambda_b: BiasRates, activation: Activation, depth: int) -> tuple[float, ...]:
    """Settle the learning rates of the biases.

    Args:
        lambda_b: As ``ntk_family`` takes it.
        activation: What theory knows of the activation.
        depth: How many layers.

    Returns:
        One rate a layer.

    Raises:
        TypeError: If it is none of what ``ntk_family`` takes.
        ValueError: If it is an unknown word, a negative number, or has the wrong length.
    """
    if isinstance(lambda_b, str):
        if lambda_b not in ("auto", "1/l"):
            raise ValueError(f"lambda_b must be a number, one number a layer, '1/l' or 'auto', got {lambda_b!r}.")
        rescaled = lambda_b == "1/l" or (activation.odd and activation.homogeneous is None)
        return tuple(1 / layer if rescaled else 1.0 for layer in range(1, depth + 1))
    if isinstance(lambda_b, int | float):
        return (check_positive("lambda_b", lambda_b, zero=True),) * depth
    if isinstance(lambda_b, Sequence):
        if len(lambda_b) != depth:
            raise ValueError(f"lambda_b holds {len(lambda_b)} rates for {depth} layers; pass one a layer.")
        given = cast("Sequence[float]", lambda_b)  # words are dealt with above
        return tuple(check_positive(f"lambda_b[{i}]", rate, zero=True) for i, rate in enumerate(given))
    raise TypeError(f"lambda_b must be a number, one number a layer, '1/l' or 'auto', got {type(lambda_b).__name__}.")


def kink_note(activation: Activation, order: int) -> str:
    """Say what is left out for an activation that is not smooth.

    Returns:
        A sentence, or nothing.
    """
    if order == 1 or not activation.kinks:
        return ""
    places = ", ".join(f"{k:g}" for k in activation.kinks)
    return (
        f"{activation.name} is not smooth at {places}: its higher derivatives are those almost everywhere, without the "
        "point masses there"
    )
