"""Recognize a chain: linear layers with one elementwise activation between them, and nothing else.

The check is on the data, not on the code: each layer's input must be the activation of the previous layer's output.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from isometry.tape import Call, Inputs, record

__all__ = ["Chain", "find_chain"]

_PASSING = (nn.Identity, nn.Flatten, nn.Dropout)


@dataclass(frozen=True, eq=False)
class Chain:
    """A chain of L hidden layers and an output layer.

    Attributes:
        names: The linear layers, the output layer last.
        inputs: x^0, shape (N, N^0).
        fan_ins: Their input widths.
        means: E phi(h) per hidden layer, for Gaussian h with the second moment that was measured there.
    """

    names: tuple[str, ...]
    inputs: Tensor
    fan_ins: tuple[int, ...]
    means: tuple[float, ...]


def find_chain(model: nn.Module, x: Inputs, activation: Callable[[Tensor], Tensor] | None = None) -> Chain:
    """Run a model and take it for a chain, if it is one.

    Args:
        model: The model.
        x: The batch.
        activation: The activation, for models that apply it outside of a module.

    Returns:
        The chain.

    Raises:
        _no_chain: A ValueError, if it is none; the message says where it departs.
    """
    with record(model, copy=True) as recording:
        out = x.clone().run(model)
    calls = [c for c in recording.calls if not isinstance(c.module, _PASSING)]
    linear = [c for c in calls if isinstance(c.module, nn.Linear)]
    if len(linear) < 2:
        raise _no_chain("it has fewer than two linear layers")
    if any(c.input.ndim != 2 for c in linear):
        raise _no_chain("its linear layers take more than one position per sample")
    reused = next((c.name for c in linear if c.index), None)
    if reused is not None:
        raise _no_chain(f"{reused!r} is called more than once")
    if not torch.equal(linear[-1].output, out):
        raise _no_chain(f"its output is not that of its last linear layer, {linear[-1].name!r}")
    if len(linear[0].input) != len(x):
        raise _no_chain(f"{linear[0].name!r} does not take one row per sample")
    means = []
    for before, after in pairwise(linear):
        between = [c for c in calls if before.order < c.order < after.order]
        phi = _activation(before, after, between, activation)
        means.append(_gaussian_mean(phi, float(before.output.double().square().mean())))
    return Chain(
        names=tuple(c.name for c in linear),
        inputs=linear[0].input,
        fan_ins=tuple(c.input.shape[1] for c in linear),
        means=tuple(means),
    )


def _activation(
    before: Call, after: Call, between: list[Call], activation: Callable[[Tensor], Tensor] | None
) -> Callable[[Tensor], Tensor]:
    where = f"between {before.name!r} and {after.name!r}"
    if activation is None:
        if not between:
            if before.output.shape == after.input.shape and torch.equal(before.output, after.input):
                return lambda h: h
            raise _no_chain(f"there is no activation module {where}; pass activation= if it is applied by a function")
        if len(between) > 1:
            raise _no_chain(f"there is more than an activation {where}: {', '.join(c.name for c in between)}")
        phi = between[0].module
        if next(phi.parameters(), None) is not None:
            raise _no_chain(f"{between[0].name!r} {where} has parameters")
        activation = phi
    if not _is_elementwise(activation, before.output, after.input):
        raise _no_chain(
            f"the input of {after.name!r} is not an elementwise activation of the output of {before.name!r}"
        )
    return activation


def _is_elementwise(phi: Callable[[Tensor], Tensor], h: Tensor, x: Tensor) -> bool:
    """Check that phi, applied to the flattened h in reverse order, gives x: what mixes entries does not survive that.

    Returns:
        Whether it does.
    """
    try:
        there = phi(h.flatten().flip(0)).flip(0).view_as(h)
    except (RuntimeError, IndexError, ValueError):
        return False  # it needs more dimensions than one, so it mixes entries
    return h.shape == x.shape and torch.allclose(there, x, rtol=1e-4, atol=1e-6)


def _gaussian_mean(phi: Callable[[Tensor], Tensor], q: float) -> float:
    """Average phi over a Gaussian of second moment q; a symmetric grid makes it exactly zero for an odd phi.

    Returns:
        E phi(sqrt(q) z).
    """
    half = (torch.arange(20000, dtype=torch.float64) + 0.5) * (12 / 20000)
    weights = torch.exp(-(half**2) / 2)
    both = phi(q**0.5 * half) + phi(-(q**0.5) * half)
    return float((weights * both).sum() / (2 * weights.sum()))


def _no_chain(why: str) -> ValueError:
    return ValueError(
        "the theorem is about chains of linear layers with elementwise activations, and model is none: "
        f'{why}. Ask for bound(form="rigorous"), which holds for every network.'
    )
