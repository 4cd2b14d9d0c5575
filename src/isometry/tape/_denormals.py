"""Numbers too small to be normal: processors take up to a hundred times as long over them, and nothing is gained."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

__all__ = ["flushed_denormals"]


@contextmanager
def flushed_denormals(*, alone: bool = False) -> Iterator[None]:
    """Let this thread's arithmetic take denormal numbers for zero inside the block.

    A gradient that vanishes over a hundred layers passes through the denormal range (below 1.2e-38 in float32), where
    products of matrices are up to a hundred times slower on some processors. The setting belongs to the thread: threads
    that torch has already started for products keep theirs. What torch had before comes back after the block.

    Args:
        alone: Also run on this thread alone, for work that is known to meet denormals.

    Yields:
        Nothing.

    Example:
        >>> with flushed_denormals():
        ...     float(torch.tensor(1e-40) * 1.0)
        0.0
    """
    before, threads = _flushing(), torch.get_num_threads()
    torch.set_flush_denormal(True)
    if alone and threads > 1:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_flush_denormal(before)
        if alone and threads > 1:
            torch.set_num_threads(threads)


def _flushing() -> bool:
    smallest = torch.tensor(torch.finfo(torch.float32).tiny)
    return bool(smallest * 0.5 == 0)
