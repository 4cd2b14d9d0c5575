"""Rows of numbers kept in 8 or 4 bits each, between their minimum and maximum."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["pack_rows", "packed_width", "unpack_rows"]


def packed_width(columns: int, bits: int) -> int:
    """Give the bytes of a packed row.

    Returns:
        The number of bytes.
    """
    return -(-columns * bits // 8)


def pack_rows(rows: Tensor, *, bits: int) -> tuple[Tensor, Tensor]:
    """Round every row to 2^bits equidistant levels from its minimum to its maximum.

    Args:
        rows: Shape ``(*batch, columns)``, finite.
        bits: 8 or 4. Of two neighbouring 4-bit codes the first is in the lower half of the byte; an odd row is padded.

    Returns:
        The codes, uint8, shape ``(*batch, packed_width(columns, bits))``; minimum and distance of the levels, shape
        ``(*batch, 2)``. The error of an entry is at most half of the distance.

    Example:
        >>> codes, levels = pack_rows(torch.tensor([[0.0, 5.0, 15.0]]), bits=4)
        >>> codes.tolist(), unpack_rows(codes, levels, columns=3, bits=4)
        ([[80, 15]], tensor([[ 0.,  5., 15.]]))
    """
    if rows.shape[-1] == 0 or rows.numel() == 0:
        return rows.new_zeros(*rows.shape[:-1], packed_width(rows.shape[-1], bits), dtype=torch.uint8), rows.new_zeros(
            *rows.shape[:-1], 2
        )
    low, high = rows.aminmax(dim=-1, keepdim=True)
    most = 2**bits - 1
    step = high / most - low / most  # their difference may overflow
    # A constant row has the distance 0 and the codes 0, which unpack to the constant.
    codes = ((rows - low) / torch.where(step == 0, 1.0, step)).round_().clamp_(0, most).to(torch.uint8)
    if bits == 4:
        codes = torch.nn.functional.pad(codes, (0, codes.shape[-1] % 2))
        codes = codes[..., ::2] | (codes[..., 1::2] << 4)
    return codes, torch.cat([low, step], dim=-1)


def unpack_rows(codes: Tensor, levels: Tensor, *, columns: int, bits: int) -> Tensor:
    """Undo ``pack_rows``.

    Args:
        codes: The codes.
        levels: Minimum and distance of the levels of each row.
        columns: How many entries a row has.
        bits: 8 or 4.

    Returns:
        Shape ``(*batch, columns)``, in the dtype of ``levels``.
    """
    if bits == 4:
        codes = torch.stack([codes & 15, codes >> 4], dim=-1).flatten(-2)[..., :columns]
    return torch.addcmul(levels[..., :1], codes.to(levels.dtype), levels[..., 1:])
