"""What every operation does to its matrices first: check them, bring them to a working dtype, stand them upright."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from isometry.linalg._precision import check_matrix, working_dtype

__all__ = ["Work", "prepare"]


class Work(NamedTuple):
    """Matrices ready to be worked on.

    Attributes:
        tensors: In float32 or float64, of one shape, their constraint on columns.
        transposed: Whether they are the transposes of what was given.
        dtype: The dtype of results.
    """

    tensors: tuple[Tensor, ...]
    transposed: bool
    dtype: torch.dtype

    def back(self, matrix: Tensor) -> Tensor:
        """Turn a result back to what was given.

        Returns:
            The matrix in the caller's orientation and dtype.
        """
        return (matrix.mT if self.transposed else matrix).to(self.dtype)


def prepare(transposed: bool, **given: Tensor) -> Work:
    """Check matrices and bring them to their working form.

    Args:
        transposed: Whether to work on the transposes.
        **given: The matrices by the names of their arguments, shape ``(*batch, n, p)``; batches are broadcast.

    Returns:
        The matrices, in the order given.

    Raises:
        ValueError: If a matrix is empty or not finite, or their sizes differ.
    """
    first, *others = given.items()
    for name, matrix in given.items():
        check_matrix(name, matrix)
    dtype = first[1].dtype
    for name, matrix in others:
        if matrix.shape[-2:] != first[1].shape[-2:]:
            raise ValueError(
                f"{name} must have the shape of {first[0]}, a matrix of {_size(first[1])}, got one of {_size(matrix)}."
            )
        dtype = torch.promote_types(dtype, matrix.dtype)
    compute = working_dtype(dtype)
    tensors = [(matrix.mT if transposed else matrix).to(compute) for matrix in given.values()]
    if len({matrix.shape for matrix in tensors}) > 1:
        batch = torch.broadcast_shapes(*(matrix.shape for matrix in tensors))  # type: ignore[no-untyped-call]
        tensors = [matrix.expand(batch) for matrix in tensors]
    return Work(tuple(tensors), transposed, dtype)


def _size(matrix: Tensor) -> str:
    return " x ".join(map(str, matrix.shape[-2:]))
