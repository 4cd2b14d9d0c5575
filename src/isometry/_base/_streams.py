"""Randomness as an argument: one stream per name, derived from one seed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch

__all__ = ["base_seed", "generator_for", "preserved_rng", "stream"]


def base_seed(generator: torch.Generator | None) -> int:
    """Draw one 62-bit seed, from the generator if given, else from torch's global one.

    Returns:
        A non-negative integer from which any number of named streams can be derived.
    """
    device = generator.device if generator is not None else torch.device("cpu")
    return int(torch.randint(0, 2**62, (), generator=generator, device=device).item())


def stream(seed: int, name: str, device: torch.device | str = "cpu") -> torch.Generator:
    """Make the generator that belongs to a name under a seed.

    The draw of one parameter then depends neither on the others nor on their order, so sharding, freezing or
    reordering a model does not change it.

    Returns:
        A generator on ``device``, seeded from a hash of seed and name.
    """
    digest = hashlib.blake2b(f"{seed}\0{name}".encode(), digest_size=8).digest()
    return torch.Generator(device=device).manual_seed(int.from_bytes(digest, "little") >> 2)


def generator_for(seed: int | None, device: torch.device | str = "cpu") -> torch.Generator | None:
    """Make a generator from a seed, or None from None (torch's global generator).

    Returns:
        The generator, or None.
    """
    return None if seed is None else torch.Generator(device=device).manual_seed(seed)


@contextmanager
def preserved_rng() -> Iterator[None]:
    """Put torch's global random state (CPU and CUDA) back as it was when the block ends.

    Yields:
        Nothing.
    """
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices=devices):
        yield
