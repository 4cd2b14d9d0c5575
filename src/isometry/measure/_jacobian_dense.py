"""Dense Jacobians of a linearized path: by the chain where there is one, else by batched sweeps of autograd."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from isometry.measure._jacobian_chain import Chain
from isometry.measure._jacobian_path import NotTwiceDifferentiableError, Path

__all__ = ["chain_blocks", "dense_blocks", "sweep_bytes"]

_SWEEP_BYTES = 128 * 2**20  # of one sweep's cotangents at the widest activation
_ALIVE = 4  # copies of those that autograd holds at a time


def sweep_bytes(shape: tuple[int, int], widest: int, inputs: int, itemsize: int) -> int:
    """Foresee the working memory of the sweeps that form dense Jacobians.

    Args:
        shape: (out, in).
        widest: Elements of the widest activation, per input.
        inputs: Inputs that are swept together.
        itemsize: Bytes of an element.

    Returns:
        Bytes, besides the Jacobians themselves.
    """
    one = inputs * widest * itemsize
    return _ALIVE * max(one, min(_SWEEP_BYTES, min(shape) * one))


def dense_blocks(path: Path, dtype: torch.dtype) -> Iterator[tuple[str, Tensor, int]]:
    """Form the Jacobians of a path, block of inputs by block of inputs.

    Args:
        path: The opened path.
        dtype: The dtype of the result; a chain is multiplied in it.

    Yields:
        The route that was taken, Jacobians of shape ``(block, out, in)``, and the exponent of the power of two that
        they are to be multiplied with.
    """
    if path.chain is not None:
        yield from chain_blocks(path.chain.to(dtype), len(path.leaf))
        return
    out, inp = math.prod(path.out_shape), math.prod(path.in_shape)
    if inp < out:
        try:
            yield "graph, forward", _swept(path, path.push, inp).transpose(1, 2).to(dtype), 0
        except NotTwiceDifferentiableError:
            pass  # in reverse, then, as the route says: more sweeps, the same numbers
        else:
            return
    yield "graph, reverse", _swept(path, path.pull, out).to(dtype), 0


def chain_blocks(chain: Chain, inputs: int) -> Iterator[tuple[str, Tensor, int]]:
    """Form the Jacobians of a chain.

    Args:
        chain: The chain.
        inputs: Number of inputs.

    Yields:
        The route, Jacobians of shape ``(block, out, in)``, and their power of two.
    """
    route = "chain, forward" if chain.in_units < chain.out_units else "chain, reverse"
    for block, exponent in chain.matrices(inputs):
        yield route, block, exponent


def _swept(path: Path, send: Callable[[Tensor], Tensor], directions: int) -> Tensor:
    """Send the basis through the graph, as many directions at a time as fit the working memory.

    Returns:
        Shape ``(N, directions, units on the other side)``.
    """
    inputs = len(path.leaf)
    at_once = max(1, min(directions, _SWEEP_BYTES // (inputs * path.widest * path.leaf.element_size())))
    parts = []
    for begin in range(0, directions, at_once):
        end = min(begin + at_once, directions)
        basis = torch.zeros(end - begin, directions, dtype=path.leaf.dtype, device=path.leaf.device)
        basis[:, begin:end].fill_diagonal_(1)
        parts.append(send(basis.expand(inputs, -1, -1)))
    return torch.cat(parts, dim=1)
