"""Jacobian rows of any parameter at all, sample by sample: the route for what has no closed form.

``torch.func`` takes the vector-Jacobian products of all directions and samples at once (``vmap`` over samples, and over
directions inside). Where a model has operations that ``vmap`` cannot take, samples and directions are looped over.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.func import vjp, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from isometry._base import Team
from isometry.measure._gram_sums import AnyGram, SampleGrams
from isometry.tape import Inputs, plain_operations

__all__ = ["general_contribution", "parameter_rows", "transformable"]

Values = dict[str, Tensor]


def general_contribution(
    model: nn.Module,
    x: Inputs,
    parameters: dict[str, nn.Parameter],
    cotangents: Tensor,
    into: Callable[[str], AnyGram],
    chunk_bytes: int,
    team: Team,
) -> None:
    """Add the contributions of parameters without a closed form, in blocks of samples that fit into memory.

    Each pass through the model forms the rows of as many parameters as fit into memory for all samples; only a
    parameter that is larger by itself is taken some samples at a time.

    Args:
        model: The model.
        x: The batch, or this process's share of it.
        parameters: By name.
        cotangents: Shape (V, samples of x, *output of one sample).
        into: Gives the sum that a parameter's contribution is added to, by its name.
        chunk_bytes: Memory for formed rows at a time.
        team: The processes that share the batch: a parameter's rows are exchanged for all samples' rows of some of its
            numbers.
    """
    directions, samples = cotangents.shape[:2]
    per_number = directions * (cotangents.element_size() + 8)  # bytes per sample
    everyone = into(next(iter(parameters))).samples
    most = team.shares(everyone)[0]  # all processes must form the same pieces, the one with the smallest share too

    for names in _packed({n: p.numel() for n, p in parameters.items()}, chunk_bytes // (per_number * most)):
        chosen = {name: parameters[name] for name in names}
        size = sum(p.numel() for p in chosen.values())
        block = max(1, min(most, chunk_bytes // (per_number * size)))

        def rows_of(start: int, chosen: dict[str, nn.Parameter] = chosen, block: int = block) -> Values:
            part = slice(start, min(start + block, samples))
            if start >= samples:
                rows = {name: p.detach().new_zeros(directions, 0, p.numel()) for name, p in chosen.items()}
            else:
                rows = parameter_rows(model, x[part], chosen, cotangents[:, part])
            taken = sum(len(range(share)[start : start + block]) for share in team.shares(everyone))
            return {name: team.regroup(own, taken, f"rows of {name}") for name, own in rows.items()}

        if block >= most:
            for name, rows in rows_of(0).items():
                into(name).add_rows(rows)
        else:
            parts = team.parts(everyone)
            numbers = [
                torch.cat([torch.arange(everyone)[part][start : start + block] for part in parts]).to(x.device)
                for start in range(0, most, block)
            ]
            _add_in_blocks(rows_of, into, numbers, block)


def _packed(sizes: dict[str, int], limit: int) -> list[list[str]]:
    """Pack parameters, in their order, into groups of at most so many numbers; a larger one is a group by itself.

    Returns:
        Groups of names.
    """
    groups: list[list[str]] = []
    room = 0
    for name, size in sizes.items():
        if not groups or size > room:
            groups.append([])
            room = limit
        groups[-1].append(name)
        room -= size
    return groups


def _add_in_blocks(
    rows_of: Callable[[int], Values], into: Callable[[str], AnyGram], numbers: list[Tensor], block: int
) -> None:
    for i, rows in enumerate(numbers):  # sample numbers
        left = rows_of(i * block)
        for name, part in left.items():
            into(name).add_between(part, rows, part, rows)
        if not all(isinstance(into(name), SampleGrams) for name in left):
            for j, columns in enumerate(numbers[:i]):  # formed again: time, not memory
                for name, part in rows_of(j * block).items():
                    into(name).add_between(left[name], rows, part, columns)


def parameter_rows(model: nn.Module, x: Inputs, parameters: dict[str, nn.Parameter], cotangents: Tensor) -> Values:
    """Form the Jacobian rows of some parameters.

    Args:
        model: The model.
        x: The batch.
        parameters: By name.
        cotangents: Shape (V, N, *output of one sample).

    Returns:
        Rows by name, each of shape (V, N, numbers in the parameter).
    """
    detached: Values = {name: p.detach() for name, p in parameters.items()}

    def rows_of_one(sample: list[Tensor], back: Tensor) -> Values:  # back: (V, *output)
        alone = x.with_rows([row.unsqueeze(0) for row in sample])

        def one(values: dict[str, Tensor]) -> Tensor:
            return alone.run_with(model, values).squeeze(0)

        pull = vjp(one, detached)[1]
        grads = vmap(pull)(back)[0]
        return {name: grads[name].reshape(len(back), -1) for name in detached}

    with transformable():
        try:
            if x.whole:
                return {name: rows.unsqueeze(1) for name, rows in rows_of_one([], cotangents[:, 0]).items()}
            return vmap(rows_of_one, in_dims=(0, 1), out_dims=1)(x.rows(), cotangents)
        except RuntimeError:
            return _looped(model, x, detached, cotangents)


@contextmanager
def transformable() -> Iterator[None]:
    """Prefer operations that torch.func can transform, and silence what torch says where it has to loop.

    Attention runs in its plain form (the fused one has no derivatives of second order or in forward mode, and no batch
    rule), and without checkpoints.

    Yields:
        Nothing.
    """
    with warnings.catch_warnings(), sdpa_kernel(SDPBackend.MATH), plain_operations():
        warnings.filterwarnings("ignore", message="There is a performance drop")
        warnings.filterwarnings("ignore", message="RNN module weights are not part of single contiguous chunk")
        yield


def _looped(model: nn.Module, x: Inputs, values: Values, cotangents: Tensor) -> Values:
    rows: dict[str, list[Tensor]] = {name: [] for name in values}
    for n in range(len(x)):
        leaves = {name: value.clone().requires_grad_() for name, value in values.items()}
        with torch.enable_grad():
            out = x[n : n + 1].clone().run_with(model, leaves).squeeze(0)
        for back in cotangents[:, n]:
            grads = torch.autograd.grad(
                out, list(leaves.values()), back, retain_graph=True, allow_unused=True, materialize_grads=True
            )
            for name, gradient in zip(leaves, grads, strict=True):
                rows[name].append(gradient.flatten())
    return {name: torch.stack(parts).view(len(x), len(cotangents), -1).transpose(0, 1) for name, parts in rows.items()}
