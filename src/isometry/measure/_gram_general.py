"""Jacobian rows of any parameter at all, sample by sample: the route for what has no closed form.

``torch.func`` takes the vector-Jacobian products of all directions and samples at once (``vmap`` over samples, and over
directions inside). Where a model has operations that ``vmap`` cannot take, samples and directions are looped over.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.func import functional_call, vjp, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from isometry.measure._gram_sums import FullGram, SampleGrams

__all__ = ["general_contribution", "parameter_rows", "transformable"]


def general_contribution(
    model: nn.Module,
    x: Tensor,
    parameters: dict[str, nn.Parameter],
    cotangents: Tensor,
    into: FullGram | SampleGrams,
    chunk_bytes: int,
) -> None:
    """Add the contribution of parameters without a closed form, in blocks of samples that fit into memory.

    Args:
        model: The model.
        x: The batch.
        parameters: By name; their rows are concatenated.
        cotangents: Shape (V, N, *output of one sample).
        into: The sum to add to.
        chunk_bytes: Memory for formed rows at a time.
    """
    directions, samples = cotangents.shape[:2]
    size = sum(p.numel() for p in parameters.values())
    per_sample = directions * size * (cotangents.element_size() + 8)
    block = max(1, min(samples, chunk_bytes // per_sample))

    def rows_of(part: slice) -> Tensor:
        return parameter_rows(model, x[part], parameters, cotangents[:, part])

    if block >= samples:
        into.add_rows(rows_of(slice(0, samples)))
        return
    slices = [slice(start, min(start + block, samples)) for start in range(0, samples, block)]
    for i, rows in enumerate(slices):
        left = rows_of(rows)
        into.add_between(left, rows, left, rows)
        if isinstance(into, FullGram):
            for columns in slices[:i]:  # formed again: time, not memory
                into.add_between(left, rows, rows_of(columns), columns)


def parameter_rows(model: nn.Module, x: Tensor, parameters: dict[str, nn.Parameter], cotangents: Tensor) -> Tensor:
    """Form the Jacobian rows of some parameters.

    Args:
        model: The model.
        x: The batch.
        parameters: By name.
        cotangents: Shape (V, N, *output of one sample).

    Returns:
        Shape (V, N, numbers in the parameters).
    """
    detached = {name: p.detach() for name, p in parameters.items()}

    def rows_of_one(sample: Tensor, back: Tensor) -> Tensor:  # back: (V, *output)
        def one(values: dict[str, Tensor]) -> Tensor:
            out: Tensor = functional_call(model, values, (sample.unsqueeze(0),))
            return out.squeeze(0)

        pull = vjp(one, detached)[1]
        grads = vmap(pull)(back)[0]
        return torch.cat([grads[name].reshape(len(back), -1) for name in detached], 1)

    with transformable():
        try:
            return vmap(rows_of_one, in_dims=(0, 1), out_dims=1)(x, cotangents)
        except RuntimeError:
            return _looped(model, x, detached, cotangents)


@contextmanager
def transformable() -> Iterator[None]:
    """Prefer operations that torch.func can transform, and silence what torch says where it has to loop.

    Attention runs in its plain form (the fused one has no derivatives of second order or in forward mode, and no batch
    rule).

    Yields:
        Nothing.
    """
    with warnings.catch_warnings(), sdpa_kernel(SDPBackend.MATH):
        warnings.filterwarnings("ignore", message="There is a performance drop")
        warnings.filterwarnings("ignore", message="RNN module weights are not part of single contiguous chunk")
        yield


def _looped(model: nn.Module, x: Tensor, values: dict[str, Tensor], cotangents: Tensor) -> Tensor:
    rows = []
    for n in range(x.shape[0]):
        leaves = {name: value.clone().requires_grad_() for name, value in values.items()}
        with torch.enable_grad():
            out = functional_call(model, leaves, (x[n : n + 1].clone(),)).squeeze(0)
        directions = []
        for back in cotangents[:, n]:
            grads = torch.autograd.grad(
                out, list(leaves.values()), back, retain_graph=True, allow_unused=True, materialize_grads=True
            )
            directions.append(torch.cat([g.flatten() for g in grads]))
        rows.append(torch.stack(directions))
    return torch.stack(rows, 1)
