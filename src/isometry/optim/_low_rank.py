"""What low-rank optimizers share: the rank of each matrix, and rules that use a part of a matrix and keep the rest."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from isometry.linalg._precision import check_size
from isometry.optim._base import check_number
from isometry.optim._matrix import MatrixOptimizer, MatrixRule
from isometry.optim._rule import Options, Rule, State
from isometry.roles._verdicts import matrix_sizes

__all__ = ["LowRankOptimizer", "LowRankRule", "Rank", "check_rank", "resolved_rank"]

Rank = int | float


def check_rank(rank: object) -> None:
    """Insist on a whole number of at least one, or a fraction in (0, 1].

    Args:
        rank: What was given.

    Raises:
        ValueError: If it is a fraction out of that range.
    """
    if not isinstance(rank, float):
        check_size("rank", rank)  # type: ignore[arg-type]
        return
    check_number("rank", rank)
    if not 0 < rank <= 1:
        raise ValueError(
            f"rank as a fraction must be above 0 and at most 1, got {rank:g}; a number of columns is written as an int."
        )


def resolved_rank(rank: Rank, shape: Sequence[int], name: str = "the matrix") -> int:
    """Give the rank for matrices of a shape.

    Args:
        rank: A number of columns, or the fraction of the smaller dimension, rounded half up.
        shape: ``(out, in)``.
        name: What messages call the matrix.

    Returns:
        From 1 to the smaller dimension.

    Raises:
        ValueError: If it would be larger, or round to 0.
    """
    check_rank(rank)
    size = min(shape)
    found = math.floor(rank * size + 0.5) if isinstance(rank, float) else rank
    if not 1 <= found <= size:
        fraction = isinstance(rank, float)
        given = f"{rank:g} of {size} rounds to 0" if fraction else f"got {rank}"
        raise ValueError(
            f"rank must be from 1 to {size} for {name} of shape {tuple(shape)}, {given}; give "
            f"{'a whole number' if fraction else 'a fraction such as 0.25'}, or matrices as small as this a group of "
            "their own (with rule='adamw', if their rank is 1)."
        )
    return found


class LowRankOptimizer(MatrixOptimizer):
    """A ``MatrixOptimizer`` whose groups have a ``rank``; every matrix is told its own when it is added."""

    def _check_matrix_options(self, options: dict[str, Any]) -> None:
        check_rank(options["rank"])

    def _check_parameters(self, index: int) -> None:
        super()._check_parameters(index)
        group = self.param_groups[index]
        if group["rule"] == "matrix":
            for position, parameter in enumerate(group["params"]):
                if not parameter.numel():
                    continue
                shape = matrix_sizes(self._axes(index, position), tuple(parameter.shape))
                resolved_rank(group["rank"], shape[1:], self._name(index, position, shape=False))

    def _rule(self, parameter: Tensor, options: dict[str, Any]) -> tuple[Rule, Any]:
        rule, tie = super()._rule(parameter, options)
        if isinstance(rule, LowRankRule) and parameter.numel():
            shape = matrix_sizes(rule.axes, tuple(parameter.shape))
            held = self.state[parameter].get(rule.small[0]) if rule.small else None
            rank = resolved_rank(options["rank"], shape[1:])
            rule = replace(rule, rank=rank, shape=shape, held=rank if held is None else held.shape[-1])
        return rule, tie

    def _form(self, options: dict[str, Any]) -> tuple[Any, ...]:
        return *super()._form(options), options.get("rank")


@dataclass(frozen=True)
class LowRankRule(MatrixRule):
    """A rule whose update uses a part of low rank of what ``prepare`` gave.

    Attributes:
        rank: The rank of the part.
        shape: ``(count, out, in)`` of the matrices of one parameter.
        held: The rank of the states so far; another one than ``rank`` once the group's rank has been changed.
    """

    rank: int = 1
    shape: tuple[int, int, int] = (1, 1, 1)
    held: int = 1

    def move(self, matrices: Tensor, small: State, options: Options) -> tuple[Tensor, State]:
        update, _, new = self.move_part(matrices, small, options)
        return update, new

    @abstractmethod
    def move_part(self, matrices: Tensor, small: State, options: Options) -> tuple[Tensor, Tensor | None, State]:
        """See ``MatrixRule``."""
