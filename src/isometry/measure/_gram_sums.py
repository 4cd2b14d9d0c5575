"""Sums of Gram matrices of Jacobian rows, in float64: the whole (V N) x (V N) matrix, or each sample's V x V block.

Rows are indexed by a direction v and a sample n. Both classes take the same three kinds of contribution: rows as they
are; rows that are outer products a (x) f of a cotangent and a feature; sums of such products over positions.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

__all__ = [
    "AnyGram",
    "DenseFeatures",
    "DirectionGrams",
    "Features",
    "FullGram",
    "GramSum",
    "SampleGrams",
    "TokenFeatures",
]

_BLOCK_BYTES = 32 * 1024**2  # of one temporary block of position pairs; larger ones were not faster
_ROWS = 128


class Features(Protocol):
    """Inputs by sample and position, known through their inner products."""

    positions: int

    def products(self, rows: slice, columns: slice) -> Tensor:
        """Inner products between positions of two sets of samples: shape (rows, P, columns, P), float64."""

    def own(self) -> Tensor:
        """Inner products between positions of the same sample: shape (N, P, P), float64."""


class DenseFeatures:
    """Features that are vectors.

    Args:
        x: Shape (N, P, in).
        plus: Added to every inner product: 1 accounts for the bias, whose feature is 1.
    """

    def __init__(self, x: Tensor, plus: float) -> None:
        self.x, self.plus = x.double(), plus
        self.positions = x.shape[1]

    def products(self, rows: slice, columns: slice) -> Tensor:
        """Inner products between two sets of samples.

        Returns:
            Shape (rows, P, columns, P).
        """
        left, right = self.x[rows], self.x[columns]
        product = left.flatten(0, 1) @ right.flatten(0, 1).T
        return product.add_(self.plus).view(len(left), self.positions, len(right), self.positions)

    def own(self) -> Tensor:
        """Inner products within each sample.

        Returns:
            Shape (N, P, P).
        """
        return torch.bmm(self.x, self.x.transpose(1, 2)).add_(self.plus)


class TokenFeatures:
    """Features that are one-hot: the inner product is whether the tokens are equal.

    Args:
        tokens: Shape (N, P); negative ones have no feature.
    """

    def __init__(self, tokens: Tensor) -> None:
        self.tokens = tokens
        self.positions = tokens.shape[1]

    def products(self, rows: slice, columns: slice) -> Tensor:
        """Inner products between two sets of samples.

        Returns:
            Shape (rows, P, columns, P).
        """
        left, right = self.tokens[rows], self.tokens[columns]
        same = (left[:, :, None, None] == right[None, None]) & (left >= 0)[:, :, None, None]
        return same.double()

    def own(self) -> Tensor:
        """Inner products within each sample.

        Returns:
            Shape (N, P, P).
        """
        left = self.tokens
        return ((left[:, :, None] == left[:, None, :]) & (left >= 0)[:, :, None]).double()


class GramSum(Protocol):
    """Where contributions of parameters are added up."""

    samples: int

    def add_rows(self, rows: Tensor) -> None:
        """Add the Gram matrix of rows of shape (V, N, size)."""

    def add_between(self, left: Tensor, rows: Tensor, right: Tensor, columns: Tensor) -> None:
        """Add products of the rows of two sets of samples, and their mirror image where these are not the same."""

    def add_outer(self, back: Tensor, features: Features) -> None:
        """Add that of sums over positions of outer products; ``back`` is (V, N, P, out)."""

    def pair_cost(self, positions: int, inside: int, outside: int) -> float:
        """Estimate the work of ``add_outer`` per unit of ``add_rows`` on formed rows; below 1 it is the cheaper."""


class FullGram:
    """The whole Gram matrix.

    Only the blocks on and below the diagonal are added to, until ``finish``.

    Args:
        directions: V.
        samples: N.
        device: Where it lives.
    """

    def __init__(self, directions: int, samples: int, device: torch.device) -> None:
        self.directions, self.samples = directions, samples
        size = directions * samples
        self.matrix = torch.zeros(size, size, dtype=torch.float64, device=device)
        # Blocks of about _ROWS rows: enough for the products' speed, and the less above the diagonal is wasted.
        self.step = min(max(1, _ROWS // samples), directions) * samples if directions > 1 else min(_ROWS, samples)
        self._buffer: Tensor | None = None
        self._wide: Tensor | None = None

    def restart(self) -> None:
        """Forget everything that was added."""
        self.matrix.zero_()

    def _blocks(self) -> list[tuple[int, int]]:
        size = len(self.matrix)
        return [(start, min(start + self.step, size)) for start in range(0, size, self.step)]

    def add_rows(self, rows: Tensor) -> None:
        """Add the Gram matrix of rows of shape (V, N, size)."""
        flat = self._widened(rows).view(len(self.matrix), -1)
        for start, stop in self._blocks():
            self.matrix[start:stop, :stop].addmm_(flat[start:stop], flat[:stop].T)

    def add_between(self, left: Tensor, rows: Tensor, right: Tensor, columns: Tensor) -> None:
        """Add products of the rows of two sets of samples, and their mirror image where these are not the same."""
        product = left.double().flatten(0, 1) @ right.double().flatten(0, 1).T
        product = product.view(*left.shape[:2], *right.shape[:2])  # (V, rows, V, columns)
        four = self._four()
        four[:, rows.unsqueeze(1), :, columns] += product.permute(1, 3, 0, 2)
        if rows is not columns:
            four[:, columns.unsqueeze(1), :, rows] += product.permute(3, 1, 2, 0)

    def add_outer(self, back: Tensor, features: Features) -> None:
        """Add the Gram matrix of sums over positions of outer products; ``back`` is (V, N, P, out)."""
        if back.shape[2] == 1:
            self._add_single(back[:, :, 0], features)
            return
        v, n, p, _ = back.shape
        block = max(1, int((_BLOCK_BYTES / 8) ** 0.5) // (v * p))
        wide, four = back.double(), self._four()
        for i in range(0, n, block):
            rows = slice(i, min(i + block, n))
            left = wide[:, rows].flatten(0, 2)
            for j in range(0, i + 1, block):
                columns = slice(j, min(j + block, n))
                product = (left @ wide[:, columns].flatten(0, 2).T).view(v, -1, p, v, columns.stop - j, p)
                product *= features.products(rows, columns)[None, :, :, None]
                summed = product.sum((2, 5))
                four[:, rows, :, columns] += summed
                if i != j:
                    four[:, columns, :, rows] += summed.permute(2, 3, 0, 1)

    def _add_single(self, back: Tensor, features: Features) -> None:
        # The dual of a layer: (activations' Gram + 1) times (cotangents' Gram), elementwise; section 4 of the sheet.
        n = self.samples
        everyone = slice(0, n)
        weights = features.products(everyone, everyone).reshape(n, n)
        flat = self._widened(back).view(len(self.matrix), -1)
        for start, stop in self._blocks():
            buffer = self._scratch(stop - start, stop)
            torch.mm(flat[start:stop], flat[:stop].T, out=buffer)
            if self.directions == 1:
                self.matrix[start:stop, :stop].addcmul_(buffer, weights[start:stop, :stop])
            else:
                shape = ((stop - start) // n, n, stop // n, n)
                v, w = start // n, stop // n
                self._four()[v:w, :, :w].addcmul_(buffer.view(shape), weights[None, :, None, :])

    def _scratch(self, rows: int, columns: int) -> Tensor:
        if self._buffer is None:
            self._buffer = self.matrix.new_empty(self.step * len(self.matrix))
        return self._buffer[: rows * columns].view(rows, columns)

    def _widened(self, rows: Tensor) -> Tensor:
        """Copy to float64, into memory that is kept: a fresh piece for every layer costs more than the copy.

        Returns:
            A float64 tensor of the same shape, good until the next call.
        """
        if self._wide is None or self._wide.numel() < rows.numel():
            self._wide = self.matrix.new_empty(rows.numel())
        return self._wide[: rows.numel()].view(rows.shape).copy_(rows)

    def _four(self) -> Tensor:
        return self.matrix.view(self.directions, self.samples, self.directions, self.samples)

    def pair_cost(self, positions: int, inside: int, outside: int) -> float:
        """Estimate the work of position pairs per unit of work on formed rows.

        Returns:
            A ratio of flops; an elementwise pass over the pairs counts as 16 multiplications each.
        """
        r = self.directions * self.samples
        pairs = r * r * positions**2 * (outside + 16) + self.samples**2 * positions**2 * inside
        formed = r * positions * inside * outside + r * r * inside * outside
        return pairs / formed

    def finish(self) -> Tensor:
        """Mirror the lower blocks to the upper ones.

        Returns:
            The symmetric matrix, (V N) x (V N).
        """
        self._buffer = self._wide = None
        for start, stop in self._blocks():
            self.matrix[:start, start:stop] = self.matrix[start:stop, :start].T
            square = self.matrix[start:stop, start:stop]
            square.copy_((square + square.T) / 2)
        return self.matrix


class SampleGrams:
    """Each sample's own block of the Gram matrix: shape (N, V, V).

    Args:
        directions: V.
        samples: N.
        device: Where it lives.
    """

    def __init__(self, directions: int, samples: int, device: torch.device) -> None:
        self.directions, self.samples = directions, samples
        self.blocks = torch.zeros(samples, directions, directions, dtype=torch.float64, device=device)

    def add_rows(self, rows: Tensor) -> None:
        """Add the Gram matrices of rows of shape (V, N, size)."""
        own = rows.double().transpose(0, 1)
        self.blocks.baddbmm_(own, own.transpose(1, 2))

    def add_between(self, left: Tensor, rows: Tensor, right: Tensor, columns: Tensor) -> None:
        """Add the products of the rows of one set of samples with themselves; between two sets there is none."""
        if rows is columns:
            self.blocks[rows] += torch.bmm(left.double().transpose(0, 1), right.double().permute(1, 2, 0))

    def add_outer(self, back: Tensor, features: Features) -> None:
        """Add those of sums over positions of outer products; ``back`` is (V, N, P, out)."""
        own = back.double().transpose(0, 1)  # (N, V, P, out)
        if back.shape[2] == 1:
            weights = features.own()  # (N, 1, 1)
            self.blocks += torch.bmm(own[:, :, 0], own[:, :, 0].transpose(1, 2)) * weights
            return
        mixed = torch.matmul(features.own().unsqueeze(1), own)  # (N, V, P, out)
        self.blocks.baddbmm_(own.flatten(2), mixed.flatten(2).transpose(1, 2))

    def pair_cost(self, positions: int, inside: int, outside: int) -> float:
        """Estimate the work of position pairs per unit of work on formed rows.

        Returns:
            A ratio of flops.
        """
        v = self.directions
        pairs = v * positions**2 * outside + v * v * positions * outside + positions**2 * inside
        formed = v * positions * inside * outside + v * v * inside * outside
        return pairs / formed


class DirectionGrams:
    """Each direction's own Gram matrix over the samples, without the products between directions: shape (V, N, N).

    Args:
        directions: V.
        samples: N.
        device: Where it lives.
    """

    def __init__(self, directions: int, samples: int, device: torch.device) -> None:
        self.directions, self.samples = directions, samples
        self.grams = torch.zeros(directions, samples, samples, dtype=torch.float64, device=device)

    def restart(self) -> None:
        """Forget everything that was added."""
        self.grams.zero_()

    def add_rows(self, rows: Tensor) -> None:
        """Add the Gram matrices of rows of shape (V, N, size)."""
        wide = rows.double()
        self.grams.baddbmm_(wide, wide.transpose(1, 2))

    def add_between(self, left: Tensor, rows: Tensor, right: Tensor, columns: Tensor) -> None:
        """Add products of the rows of two sets of samples, and their mirror image where these are not the same."""
        product = torch.bmm(left.double(), right.double().transpose(1, 2))
        self.grams[:, rows.unsqueeze(1), columns] += product
        if rows is not columns:
            self.grams[:, columns.unsqueeze(1), rows] += product.transpose(1, 2)

    def add_outer(self, back: Tensor, features: Features) -> None:
        """Add those of sums over positions of outer products; ``back`` is (V, N, P, out)."""
        everyone = slice(0, self.samples)
        if back.shape[2] == 1:
            own = back[:, :, 0].double()
            weights = features.products(everyone, everyone).reshape(self.samples, self.samples)
            self.grams.addcmul_(torch.bmm(own, own.transpose(1, 2)), weights)
            return
        positions = back.shape[2]
        block = max(1, int((_BLOCK_BYTES / 8) ** 0.5) // positions)
        for direction, own in enumerate(back.double()):
            for i in range(0, self.samples, block):
                rows = slice(i, min(i + block, self.samples))
                product = own[rows].flatten(0, 1) @ own.flatten(0, 1).T
                product = product.view(-1, positions, self.samples, positions)
                self.grams[direction, rows] += (product * features.products(rows, everyone)).sum((1, 3))

    def pair_cost(self, positions: int, inside: int, outside: int) -> float:
        """Estimate the work of position pairs per unit of work on formed rows.

        Returns:
            A ratio of flops; an elementwise pass over the pairs counts as 16 multiplications each.
        """
        v, n = self.directions, self.samples
        pairs = v * n * n * positions**2 * (outside + 16) + n * n * positions**2 * inside
        formed = v * n * positions * inside * outside + v * n * n * inside * outside
        return pairs / formed


AnyGram = GramSum  # these three, and what hands their slices on
