"""Whole matrices out of rows: every process gets some of the matrices whole, steps them, and gives the rows back.

The matrices of a batch are dealt out in turn. Two exchanges (all-to-all) move every number twice, where gathering each
matrix on all processes would move it as many times as there are processes, and each matrix is worked on once. Padding
makes up for rows, and matrices, that do not come out even.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from isometry.optim._sharded import is_sharded

__all__ = ["Shards", "shards_of"]


@dataclass(frozen=True)
class Shards:
    """How the parameters of a batch are spread, by rows, over the processes of a group.

    Attributes:
        group: The process group.
        rank: This process's number in it.
        world: How many processes it has.
        rows: The size of the parameters' first dimension.
        owners: For each parameter, the process that sees it whole.
    """

    group: Any
    rank: int
    world: int
    rows: int
    owners: tuple[int, ...]

    @property
    def _share(self) -> int:
        return -(-self.rows // self.world)

    @property
    def _order(self) -> list[int]:
        return sorted(range(len(self.owners)), key=self.owners.__getitem__)

    @property
    def _counts(self) -> list[int]:
        return [self.owners.count(rank) for rank in range(self.world)]

    @property
    def _owned(self) -> list[int]:
        return [i for i, owner in enumerate(self.owners) if owner == self.rank]

    def gather(self, parts: Tensor) -> Tensor:
        """Exchange rows of all parameters for some whole parameters.

        Args:
            parts: Shape ``(members, local rows, ...)``.

        Returns:
            Shape ``(owned, rows, ...)``.
        """
        counts, rest = self._counts, parts.shape[2:]
        mine = counts[self.rank]
        sent = _padded(parts, self._share)[self._order].contiguous()
        got = sent.new_empty(self.world * mine, self._share, *rest)
        self._exchange(got, sent, [mine] * self.world, counts)
        whole = got.view(self.world, mine, self._share, *rest).transpose(0, 1)
        return whole.reshape(mine, self.world * self._share, *rest)[:, : self.rows]

    def scatter(self, whole: Tensor) -> Tensor:
        """Undo ``gather``.

        Args:
            whole: Shape ``(owned, rows, ...)``.

        Returns:
            Shape ``(members, local rows, ...)``.
        """
        counts, rest = self._counts, whole.shape[2:]
        padded = _padded(whole, self.world * self._share)
        sent = padded.reshape(len(whole), self.world, self._share, *rest).transpose(0, 1).flatten(0, 1).contiguous()
        got = sent.new_empty(len(self.owners), self._share, *rest)
        self._exchange(got, sent, counts, [len(whole)] * self.world)
        begin = min(self.rank * self._share, self.rows)
        local = min(self._share, self.rows - begin)
        return got[_inverse(self._order), :local]

    def mine(self, stack: Tensor) -> Tensor:
        """Take the owned parameters' part of a stack that every process has whole.

        Args:
            stack: Leading dimension a multiple of the number of parameters.

        Returns:
            Their part.
        """
        parts = stack.reshape(len(self.owners), -1, *stack.shape[1:])
        return parts[self._owned].flatten(0, 1)

    def everyones(self, mine: Tensor, like: Tensor) -> Tensor:
        """Undo ``mine``: put together what the owners have.

        Args:
            mine: The owned parameters' part.
            like: A tensor of the whole's shape.

        Returns:
            The whole, on every process.
        """
        each = like.reshape(len(self.owners), -1, *like.shape[1:]).shape[1:]
        counts = self._counts
        most = max(counts)
        sent = _padded(mine.reshape(1, counts[self.rank], *each), most)[0].contiguous()
        got = sent.new_empty(self.world * most, *each)
        self._gather_all(got, sent)
        held = got.view(self.world, most, *each)
        parts = torch.cat([held[rank, :count] for rank, count in enumerate(counts)])
        return parts[_inverse(self._order)].reshape(like.shape)

    def maximum(self, values: Tensor) -> Tensor:
        """Take the largest value of all processes, in place.

        Args:
            values: Of the same shape on every process.

        Returns:
            The same tensor.
        """
        torch.distributed.all_reduce(values, torch.distributed.ReduceOp.MAX, group=self.group)
        return values

    def total(self, values: Tensor) -> Tensor:
        """Add the values of all processes up, in place.

        Args:
            values: Of the same shape on every process.

        Returns:
            The same tensor.
        """
        torch.distributed.all_reduce(values, group=self.group)
        return values

    # -- what is sent --------------------------------------------------------------------------------------------------

    def _exchange(self, got: Tensor, sent: Tensor, outs: list[int], ins: list[int]) -> None:
        torch.distributed.all_to_all_single(got, sent, outs, ins, group=self.group)

    def _gather_all(self, got: Tensor, sent: Tensor) -> None:
        torch.distributed.all_gather(list(got.chunk(self.world)), sent, group=self.group)


def shards_of(parameters: Sequence[Any], names: Sequence[str]) -> Shards | None:
    """Find out how parameters of one kind are spread over processes.

    Args:
        parameters: Parameters of equal shape and placement.
        names: What messages call them.

    Returns:
        None where every process has them whole.

    Raises:
        ValueError: If they are spread in another way than by rows (the first dimension) over one dimension of the mesh.
    """
    first = parameters[0]
    if not is_sharded(first):
        return None
    from torch.distributed.tensor import Replicate, Shard

    spread = [d for d, placement in enumerate(first.placements) if not isinstance(placement, Replicate)]
    if not spread:
        return None
    placement = first.placements[spread[0]]
    if len(spread) > 1 or type(placement) is not Shard or placement.dim != 0:
        raise ValueError(
            f"{names[0]} is sharded as {tuple(first.placements)}, but whole matrices are put together from rows alone: "
            "shard its first dimension over one dimension of the mesh (as fully_shard does), or give it to a group "
            "with rule='adamw'."
        )
    mesh, dim = first.device_mesh, spread[0]
    world = int(mesh.size(dim))
    # Batches begin with different processes, so that small batches do not all fall to the first one.
    start = zlib.crc32(names[0].encode())
    owners = tuple((start + i) % world for i in range(len(parameters)))
    return Shards(mesh.get_group(dim), int(mesh.get_local_rank(dim)), world, int(first.shape[0]), owners)


def _padded(parts: Tensor, rows: int) -> Tensor:
    missing = rows - parts.shape[1]
    if not missing:
        return parts
    return torch.cat([parts, parts.new_zeros(len(parts), missing, *parts.shape[2:])], dim=1)


def _inverse(order: Sequence[int]) -> list[int]:
    inverse = [0] * len(order)
    for place, index in enumerate(order):
        inverse[index] = place
    return inverse
