"""Sums that take a parameter's contributions apart: slices of a weight's rows and columns go to sums of their own.

The gradient of a linear layer's weight is a sum of outer products of cotangents and inputs. A slice of its rows is had
from a slice of the cotangents, a slice of its columns from a slice of the inputs, so that no row is formed for it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from isometry._base import Team
from isometry.measure._gram import CHUNK_BYTES
from isometry.measure._gram_sums import DenseFeatures, Features, FullGram
from isometry.roles import ParameterSlice

__all__ = ["ManyGrams", "SlicedGrams"]


class ManyGrams:
    """Several sums that each take the whole of every contribution.

    Args:
        sums: The sums.
    """

    def __init__(self, sums: list[FullGram]) -> None:
        self.sums = sums
        self.samples = sums[0].samples

    def add_rows(self, rows: Tensor) -> None:
        """Add the Gram matrix of rows of shape (V, N, size)."""
        for one in self.sums:
            one.add_rows(rows)

    def add_between(self, left: Tensor, rows: Tensor, right: Tensor, columns: Tensor) -> None:
        """Add products of the rows of two sets of samples."""
        for one in self.sums:
            one.add_between(left, rows, right, columns)

    def add_outer(self, back: Tensor, features: Features) -> None:
        """Add the Gram matrix of sums over positions of outer products; ``back`` is (V, N, P, out)."""
        for one in self.sums:
            one.add_outer(back, features)

    def pair_cost(self, positions: int, inside: int, outside: int) -> float:
        """Estimate the work of position pairs per unit of work on formed rows.

        Returns:
            A ratio.
        """
        return self.sums[0].pair_cost(positions, inside, outside)


class SlicedGrams:
    """Sums of slices of one parameter of a linear layer.

    Args:
        slices: Each slice with the sum that its contributions go to.
        parameter: The parameter, whole.
        team: The processes that share the batch: each is handed some of the parameter's units, or numbers.
    """

    def __init__(self, slices: list[tuple[ParameterSlice, FullGram]], parameter: nn.Parameter, team: Team) -> None:
        self.slices, self.parameter, self.team = slices, parameter, team
        self.samples = slices[0][1].samples
        rows = next((s.dim for s, _ in slices if not s.inputs), None)
        columns = next((s.dim for s, _ in slices if s.inputs), None)
        self.out_dim = rows if rows is not None else 1 - (columns or 0)

    def add_rows(self, rows: Tensor) -> None:
        """Add the Gram matrices of slices of rows of shape (V, N, this process's numbers of the parameter)."""
        for one, into in self.slices:
            into.add_rows(rows.index_select(2, self._numbers(one, rows)))

    def add_between(self, left: Tensor, rows: Tensor, right: Tensor, columns: Tensor) -> None:
        """Add products of slices of the rows of two sets of samples."""
        for one, into in self.slices:
            numbers = self._numbers(one, left)
            into.add_between(left.index_select(2, numbers), rows, right.index_select(2, numbers), columns)

    def add_outer(self, back: Tensor, features: Features) -> None:
        """Add the Gram matrices of slices of sums over positions of outer products.

        Args:
            back: Cotangents at this process's units, shape (V, N, P, units).
            features: The inputs.

        Raises:
            TypeError: If the inputs are not vectors.
        """
        if not isinstance(features, DenseFeatures):  # pragma: no cover - only linear layers' weights are cut
            raise TypeError(f"slices of a weight need inputs that are vectors, got {type(features).__name__}.")
        mine = self.team.parts(self.parameter.shape[self.out_dim])[self.team.rank]
        known: Features | None = None  # the slices of rows have their inputs in common
        for one, into in self.slices:
            if one.inputs:
                part = DenseFeatures(features.x[..., one.start : one.stop], features.plus)
                _add_products(into, back, part, part)
                continue
            start, stop = max(one.start, mine.start) - mine.start, min(one.stop, mine.stop) - mine.start
            if start < stop:
                known = _known(features) if known is None else known
                _add_products(into, back[..., start:stop], features, known)

    def pair_cost(self, _positions: int, _inside: int, _outside: int) -> float:
        """Ask for outer products, always: rows that were formed could not be told apart.

        Returns:
            Zero.
        """
        return 0.0

    def _numbers(self, one: ParameterSlice, rows: Tensor) -> Tensor:
        """Find a slice's numbers among this process's.

        Returns:
            Their places in the last dimension of ``rows``.

        Raises:
            ValueError: If the rows are not of the parameter.
        """
        mine = self.team.parts(self.parameter.numel())[self.team.rank]
        if rows.shape[2] != mine.stop - mine.start:  # pragma: no cover - a change elsewhere would be told here
            raise ValueError(f"rows of {rows.shape[2]} numbers are not those of {one.name!r}.")
        numbers = torch.arange(self.parameter.numel(), device=rows.device).view(self.parameter.shape)
        if one.dim is not None:
            numbers = numbers.narrow(one.dim, one.start, one.stop - one.start)
        flat = numbers.flatten()
        places: Tensor = flat[(flat >= mine.start) & (flat < mine.stop)] - mine.start
        return places


class _KnownFeatures:
    """Features whose inner products have been computed once for many slices."""

    def __init__(self, features: DenseFeatures) -> None:
        everyone = slice(0, len(features.x))
        self.positions = features.positions
        self.all = features.products(everyone, everyone)

    def products(self, rows: slice, columns: slice) -> Tensor:
        """Inner products between positions of two sets of samples.

        Returns:
            Shape (rows, P, columns, P).
        """
        return self.all[rows][:, :, columns]

    def own(self) -> Tensor:
        """Inner products between positions of the same sample.

        Returns:
            Shape (N, P, P).
        """
        return self.all.diagonal(dim1=0, dim2=2).permute(2, 0, 1)


def _known(features: DenseFeatures) -> Features:
    return _KnownFeatures(features) if features.x.shape[:2].numel() ** 2 * 8 <= CHUNK_BYTES else features


def _add_products(into: FullGram, back: Tensor, features: DenseFeatures, products: Features) -> None:
    directions, samples, positions, outside = back.shape
    inside = features.x.shape[-1]
    if positions == 1 or into.pair_cost(positions, inside, outside) < 1:
        into.add_outer(back, products)
        return
    f = features.x.to(back.dtype)
    width = max(1, CHUNK_BYTES // (directions * samples * inside * (back.element_size() + 8)))
    for start in range(0, outside, width):
        rows = torch.einsum("vnpo,npi->vnoi", back[..., start : start + width], f)
        into.add_rows(rows.flatten(2))
