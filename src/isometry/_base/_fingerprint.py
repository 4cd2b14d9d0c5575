"""Checksums of tensors: whether two processes have the same ones, to the bit."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import torch
from torch import Tensor

__all__ = ["fingerprint"]

_PIECE = 2**17  # numbers that are summed up at a time
_WORDS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def fingerprint(tensors: Iterable[Tensor]) -> str:
    """Digest the bits of tensors, their order, shapes and dtypes.

    Args:
        tensors: On any device; their numbers stay there.

    Returns:
        Sixteen hexadecimal digits.

    Example:
        >>> one = torch.arange(4.0)
        >>> fingerprint([one]) == fingerprint([one.clone()]), fingerprint([one]) == fingerprint([one.flip(0)])
        (True, False)
    """
    digest = hashlib.blake2b(digest_size=8)
    for tensor in tensors:
        digest.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
        flat = tensor.detach().contiguous().view(-1)
        if flat.is_complex():
            flat = torch.view_as_real(flat.resolve_conj()).view(-1)
        flat = flat.view(_WORDS[flat.element_size()])
        places = (2 * torch.arange(min(_PIECE, len(flat)), device=flat.device) + 1).to(flat.dtype)
        # Odd factors lose no bit of a word; integers wrap around.
        sums = [(piece * places[: len(piece)]).sum(dtype=torch.int64) for piece in torch.split(flat, _PIECE)]
        digest.update(str(torch.stack(sums).tolist() if sums else []).encode())
    return digest.hexdigest()
