"""Tensors between processes, as bytes: whatever their dtype and device, and in unequal shares.

Everything here blocks until every process of the group has called it; ``Team`` sees to it that all of them do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

__all__ = ["Group", "add_up", "from_first", "gather_rows", "regroup", "texts"]

Group: TypeAlias = Any  # torch.distributed.ProcessGroup, which a torch built without it does not have


def texts(text: str, group: Group, size: int, room: int) -> list[str]:
    """Exchange one short text.

    Args:
        text: This process's.
        group: The processes.
        size: How many they are.
        room: Bytes that a text may take; what is longer is cut.

    Returns:
        The texts of all processes, in their order.
    """
    own = torch.zeros(room, dtype=torch.uint8)
    raw = torch.tensor(list(text.encode()[:room]), dtype=torch.uint8)
    own[: len(raw)] = raw
    found = _gathered(_carriable(own, group), group, size)
    return [bytes(part.tolist()).rstrip(b"\0").decode(errors="replace") for part in found]


def gather_rows(own: Tensor, shares: Sequence[int], group: Group) -> Tensor:
    """Put the rows of all processes one behind the other.

    Args:
        own: This process's, shape (its share, ...).
        shares: How many rows each process has.
        group: The processes.

    Returns:
        Shape (sum of the shares, ...), the same bits on every process.
    """
    most = max(shares)
    padded = own.new_zeros(most, *own.shape[1:])
    padded[: len(own)] = own.detach()
    parts = _gathered(_carriable(_bytes(padded), group), group, len(shares))
    rows = [
        part.to(own.device).view(own.dtype).view(padded.shape)[:share]
        for part, share in zip(parts, shares, strict=True)
    ]
    return torch.cat(rows)


def regroup(own: Tensor, shares: Sequence[int], rank: int, group: Group) -> Tensor:
    """Turn some of the samples with all units into all of the samples with some of the units.

    Args:
        own: Shape (V, this process's samples, ..., units).
        shares: How many samples each process has.
        rank: Which process this is.
        group: The processes.

    Returns:
        Shape (V, sum of the shares, ..., this process's units).
    """
    import torch.distributed as dist

    pieces = [piece.contiguous() for piece in own.detach().tensor_split(len(shares), -1)]
    shapes = [(own.shape[0], share, *own.shape[2:-1], pieces[rank].shape[-1]) for share in shares]
    sent = _carriable(torch.cat([_bytes(piece) for piece in pieces]), group)
    sizes = [torch.Size(shape).numel() * own.element_size() for shape in shapes]
    received = sent.new_empty(sum(sizes))
    dist.all_to_all_single(received, sent, sizes, [piece.numel() * own.element_size() for piece in pieces], group)
    back = torch.split(received.to(own.device), sizes)
    # A piece may begin at any byte: the copy is aligned for its dtype.
    whole = [part.clone().view(own.dtype).view(shape) for part, shape in zip(back, shapes, strict=True)]
    return torch.cat(whole, 1)


def add_up(own: Tensor, group: Group) -> Tensor:
    """Add up tensors of one shape, in place.

    Args:
        own: This process's summand.
        group: The processes.

    Returns:
        ``own``, now the sum, the same bits on every process.
    """
    import torch.distributed as dist

    carried = _carriable(own.detach().contiguous(), group)
    dist.all_reduce(carried, group=group)
    if carried.data_ptr() != own.data_ptr():
        own.copy_(carried)
    return own


def from_first(own: Tensor, group: Group) -> Tensor:
    """Take what the first process has.

    Args:
        own: A tensor of the same shape and dtype on every process.
        group: The processes.

    Returns:
        A copy of the first process's.
    """
    import torch.distributed as dist

    carried = _carriable(_bytes(own.detach()).clone(), group)
    dist.broadcast(carried, dist.get_global_rank(group, 0), group=group)
    return carried.to(own.device).view(own.dtype).view(own.shape)


def _gathered(own: Tensor, group: Group, size: int) -> list[Tensor]:
    import torch.distributed as dist

    parts = [torch.empty_like(own) for _ in range(size)]
    dist.all_gather(parts, own, group=group)
    return parts


def _bytes(tensor: Tensor) -> Tensor:
    return tensor.contiguous().view(-1).view(torch.uint8)


def _carriable(tensor: Tensor, group: Group) -> Tensor:
    """Bring a tensor where the group's backends can take it: GPUs' own memory for NCCL, the host's for all others.

    Returns:
        The tensor, or a copy.
    """
    import torch.distributed as dist

    config: Callable[[Group], str] = dist.get_backend_config
    fast = "cuda:nccl" in config(group)
    if (tensor.is_cuda and not fast) or (not tensor.is_cuda and "cpu:" not in config(group)):
        return tensor.cuda() if fast else tensor.cpu()
    return tensor
