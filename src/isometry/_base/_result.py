"""Frozen results that know what they cost and can be turned into plain data."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

__all__ = ["Cost", "Result", "stopwatch"]


@dataclass(frozen=True)
class Cost:
    """What a computation took, in counted work first and in seconds last.

    Attributes:
        forward_passes: Forward passes of the model over the whole batch.
        backward_passes: Backward passes over the whole batch (one per output for a batched sweep).
        matvecs: Products with an implicitly given matrix or its transpose.
        bytes: The dense memory that the routine foresaw, in bytes; 0 where it keeps nothing large.
        seconds: Wall-clock seconds.
    """

    forward_passes: int = 0
    backward_passes: int = 0
    matvecs: int = 0
    bytes: int = 0
    seconds: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.forward_passes + other.forward_passes,
            self.backward_passes + other.backward_passes,
            self.matvecs + other.matvecs,
            max(self.bytes, other.bytes),
            self.seconds + other.seconds,
        )


@dataclass
class _Stopwatch:
    """Seconds since a block began; final when the block has ended."""

    started: float = field(default_factory=time.perf_counter)
    seconds: float = 0.0


@contextmanager
def stopwatch() -> Iterator[_Stopwatch]:
    """Time a block of code.

    Yields:
        An object whose ``seconds`` is set when the block ends.
    """
    watch = _Stopwatch()
    try:
        yield watch
    finally:
        watch.seconds = time.perf_counter() - watch.started


class Result:
    """Base of the frozen results that public numerical routines return.

    Subclasses are frozen dataclasses. ``to_dict`` gives plain data for JSON: tensors and arrays become lists and
    non-finite numbers become ``None``, since JSON has no words for them.
    """

    def to_dict(self) -> dict[str, Any]:
        """Give the result's fields as plain data that ``json.dumps`` accepts.

        Returns:
            A dictionary of numbers, strings, lists and dictionaries.
        """
        return {f.name: _plain(getattr(self, f.name)) for f in dataclasses.fields(self) if f.repr}  # type: ignore[arg-type]


def _plain(value: Any) -> Any:
    if isinstance(value, Result):
        return value.to_dict()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, torch.Tensor | np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(v) for v in value]
    if value is None or isinstance(value, bool | int | str):
        return value
    return str(value)
