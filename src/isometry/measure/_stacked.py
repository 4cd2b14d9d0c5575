"""Ensembles of small networks as stacks of weights, (networks, out, in) a layer: what they must look like.

A stack is a sequence of such tensors, a tensor (layers, networks, n, n), or anything that yields them in order and
knows its length; one layer at a time is looked at, so a sequence that draws its layers as they are asked for costs the
memory of one.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import torch
from torch import Tensor

from isometry._base import check_finite, check_tensor

__all__ = ["StackedWeights", "check_input", "depth_of", "layers_of"]


class StackedWeights(Protocol):
    """Layers in order, each a tensor (networks, out, in)."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Tensor]: ...


def depth_of(weights: StackedWeights) -> int:
    """Count the layers.

    Returns:
        Their number.

    Raises:
        TypeError: If the stack does not know its length.
        ValueError: If it has none.
    """
    try:
        depth = len(weights)
    except TypeError as error:
        raise TypeError(
            f"weights must be a sequence of tensors (networks, out, in), got {type(weights).__name__}; pass a list, or "
            "an ensemble of isometry.training."
        ) from error
    if depth == 0:
        raise ValueError("weights holds no layers; pass at least one.")
    return depth


def check_input(x: object, *, nonzero: bool) -> Tensor:
    """Insist on one input vector.

    Args:
        x: The input.
        nonzero: Whether it must have a nonzero entry, because results are relative to its size.

    Returns:
        A float64 vector.

    Raises:
        ValueError: If it is no vector, not finite, or zero.
    """
    vector = check_finite("x", check_tensor("x", x)).detach().to(torch.float64)
    if vector.ndim != 1:
        raise ValueError(f"x must be one input, a vector, got shape {tuple(vector.shape)}; pass x[0], say.")
    if nonzero and not bool(vector.any()):
        raise ValueError("x is zero, so every pre-activation is zero and V / K^2 is undefined; pass another input.")
    return vector


def layers_of(weights: StackedWeights, x: Tensor, *, least_networks: int = 1) -> Iterator[Tensor]:
    """Walk through the layers and check each as it comes.

    Args:
        weights: The stack.
        x: The input, whose length the first layer must take.
        least_networks: How many networks there must be.

    Yields:
        float64 tensors (networks, n, n); the first may be (networks, n, n0).

    Raises:
        ValueError: If shapes do not fit each other, widths differ, or there are too few units or networks.
    """
    count = width = 0
    for index, layer in enumerate(weights):
        name = f"weights[{index}]"
        stack = check_finite(name, check_tensor(name, layer, ndim=3))
        networks, out, fan_in = stack.shape
        if index == 0:
            count, width = networks, out
            if fan_in != x.numel():
                raise ValueError(f"{name} takes {fan_in} inputs, but x has {x.numel()}; make them equal.")
            if width < 2:
                raise ValueError(
                    f"{name} has {width} unit, so there are no pairs of units; use networks of width 2 or more."
                )
            if count < least_networks:
                raise ValueError(
                    f"weights holds {count} network{'s' if count > 1 else ''}; averages over an ensemble and their "
                    f"errors need at least {least_networks}."
                )
        elif (networks, fan_in) != (count, width):
            raise ValueError(
                f"{name} has shape {tuple(stack.shape)}, but there are {count} networks whose layer before has "
                f"{width} units; make the stacks fit."
            )
        elif out != width:
            raise ValueError(
                f"{name} has {out} units where the layers before have {width}; statistics per unit need equal widths."
            )
        yield stack.detach().to(torch.float64)
