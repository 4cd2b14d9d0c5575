"""Hierarchical data: items at the leaves of a binary tree, features that flip sign along its edges.

Leaves whose common ancestor lies k levels up correlate by (1 - 2 flip)^(2 k). The matrix of these correlations has the
tree's Haar wavelets as eigenvectors: a constant, then for every inner node the difference between its two sides.

Paper: A. M. Saxe, J. L. McClelland, S. Ganguli. "Exact solutions to the nonlinear dynamics of learning in deep linear
neural networks." ICLR 2014.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from isometry._base import Result, check_positive

__all__ = ["Hierarchy", "hierarchical_data", "hierarchical_spectrum"]


@dataclass(frozen=True, eq=False)
class Hierarchy(Result):
    """Items of a tree with their features, and the modes that many features tend to.

    Attributes:
        s: Strengths in the mean over the features' chance, sqrt(features eigenvalue), largest first, (2^levels,).
        level: What each separates: 0 is what all items share, 1 the two halves of the tree, and so on, (2^levels,).
        inputs: One-hot rows, (items, items), float64.
        targets: Features, +1 or -1, (items, features), float64.
    """

    s: Tensor
    level: Tensor = field(repr=False)
    inputs: Tensor = field(repr=False)
    targets: Tensor = field(repr=False)

    def __str__(self) -> str:
        items, features = self.targets.shape
        return f"{items} items of {features} features, strengths {float(self.s[0]):.4g} to {float(self.s[-1]):.4g}"


def hierarchical_spectrum(levels: int, features: int, *, flip: float) -> tuple[Tensor, Tensor]:
    """Give the strengths of a tree's modes, in the mean over the features' chance.

    Args:
        levels: Branchings B between root and leaves.
        features: Number of independent features M.
        flip: Probability that a feature changes sign along an edge, above 0 and below 1/2.

    Returns:
        Strengths (2^B,) in B + 1 groups of 1, 1, 2, 4, ... equal ones, largest first, and the level of each.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> s, level = hierarchical_spectrum(2, 100, flip=0.25)  # correlations 1, 1/4, 1/16
        >>> s.tolist(), level.tolist()
        ([11.726..., 10.606..., 8.660..., 8.660...], [0, 1, 2, 2])
    """
    depth, count, q = *_check_tree(levels, features), (1 - 2 * _check_flip(flip)) ** 2
    near = [2 ** (k - 1) * q**k for k in range(1, depth + 1)]  # what the cousins k levels up add
    values, groups = [1 + sum(near)], [0]
    for level in range(1, depth + 1):
        height = depth - level + 1  # the two sides meet this many levels above the leaves
        value = 1 + sum(near[: height - 1]) - near[height - 1]
        values += [value] * 2 ** (level - 1)
        groups += [level] * 2 ** (level - 1)
    return (count * torch.tensor(values, dtype=torch.float64)).sqrt(), torch.tensor(groups)


def hierarchical_data(
    levels: int, features: int, *, flip: float = 0.1, generator: torch.Generator | None = None
) -> Hierarchy:
    """Draw features of 2^levels items from a binary branching process.

    Every feature starts at the root as +1 or -1 with equal chances, and flips along each edge with probability
    ``flip``. Inputs are one-hot, hence white.

    Args:
        levels: Branchings between root and leaves; the paper has 5.
        features: Number of independent features; the paper has 1000.
        flip: Probability of a flip along an edge, above 0 and below 1/2.
        generator: Source of randomness; torch's global one by default.

    Returns:
        The data with the exact mean spectrum.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> tree = hierarchical_data(3, 50, generator=torch.Generator().manual_seed(0))
        >>> tree.targets.shape, tree.level.tolist()
        (torch.Size([8, 50]), [0, 1, 2, 2, 3, 3, 3, 3])
    """
    s, level = hierarchical_spectrum(levels, features, flip=flip)
    signs = torch.randint(0, 2, (1, features), generator=generator).double() * 2 - 1
    for _ in range(levels):
        signs = signs.repeat_interleave(2, dim=0)
        flips = torch.rand(signs.shape, dtype=torch.float64, generator=generator) < flip
        signs = torch.where(flips, -signs, signs)
    return Hierarchy(s, level, torch.eye(2**levels, dtype=torch.float64), signs)


def _check_tree(levels: int, features: int) -> tuple[int, int]:
    for name, count in (("levels", levels), ("features", features)):
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise ValueError(f"{name} must be a positive whole number, got {count!r}.")
    if levels > 14:
        raise ValueError(f"levels={levels} would make {2**levels} items with a square one-hot matrix; pass 14 at most.")
    return levels, features


def _check_flip(flip: float) -> float:
    value = check_positive("flip", flip)
    if not value < 0.5 or math.isclose(value, 0.5):
        raise ValueError(f"flip must be below 1/2, where features carry nothing about the tree, got {flip:g}.")
    return value
