"""Full-batch gradient descent on a deep linear network, from the data's correlations alone.

Paper: A. M. Saxe, J. L. McClelland, S. Ganguli. "Exact solutions to the nonlinear dynamics of learning in deep linear
neural networks." ICLR 2014.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from isometry._base import Cost, Result, check_finite, check_positive, check_tensor, stopwatch
from isometry.theory.linear_dynamics._modes import Modes
from isometry.theory.linear_dynamics._networks import check_chain, mode_strengths

__all__ = ["Trajectory", "simulate"]


@dataclass(frozen=True, eq=False)
class Trajectory(Result):
    """What descent did.

    Attributes:
        steps: Numbers of the recorded steps, from 0, (K,).
        excess: Loss above that of the least-squares optimum, (K,).
        strengths: Strength of every mode, (K, k); None if no modes were given.
        weights: The weights at the end.
        reached: The step at which the excess came down to the wanted share; None if it did not, or none was wanted.
        diverged: Whether the loss became infinite; nothing is recorded from there on.
        lr: Step size.
        cost: Counted passes, and seconds.
    """

    steps: Tensor
    excess: Tensor = field(repr=False)
    strengths: Tensor | None = field(repr=False)
    weights: tuple[Tensor, ...] = field(repr=False)
    reached: int | None
    diverged: bool
    lr: float
    cost: Cost = field(default_factory=Cost)

    def __str__(self) -> str:
        if self.diverged:
            return f"descent with step size {self.lr:g} diverged after step {int(self.steps[-1])}"
        return (
            f"{int(self.steps[-1])} steps of {self.lr:g}: excess loss {float(self.excess[0]):.4g} -> "
            f"{float(self.excess[-1]):.4g}"
        )


def simulate(
    weights: Sequence[Tensor],
    input_correlation: Tensor,
    cross_correlation: Tensor,
    *,
    lr: float,
    steps: int,
    modes: Modes | None = None,
    every: int = 1,
    until: float | None = None,
) -> Trajectory:
    """Descend (1/2) SUM |y - W_L ... W_1 x|^2 by full-batch gradient steps, in float64.

    W_l <- W_l + lr (W_L ... W_(l+1))^T (S31 - W_L ... W_1 S11) (W_(l-1) ... W_1)^T. A small step size follows the
    gradient flow with tau = 1 / lr. Divide both correlations by the number of samples for mean losses.

    Args:
        weights: (out, in) each, from the input on; they are not changed.
        input_correlation: S11 = SUM x x^T, (inputs, inputs).
        cross_correlation: S31 = SUM y x^T, (outputs, inputs).
        lr: Step size.
        steps: The most steps.
        modes: Record the strengths of these modes.
        every: Record every so many steps; the first and the last are always recorded.
        until: Stop when the excess loss has come down to this share of what it was.

    Returns:
        The trajectory.

    Raises:
        TypeError: If an argument has a wrong type.
        ValueError: If shapes do not fit, or an option is out of range.

    Example:
        >>> path = simulate([torch.zeros(1, 1)], torch.eye(1), torch.full((1, 1), 2.0), lr=0.5, steps=2)
        >>> path.excess  # 2 - W halves with every step
        tensor([2.0000, 0.5000, 0.1250], dtype=torch.float64)
    """
    chain, (s11, s31) = check_chain(weights), _check_correlations(input_correlation, cross_correlation)
    if chain[0].shape[1] != s31.shape[1] or chain[-1].shape[0] != s31.shape[0]:
        raise ValueError(
            f"weights map {chain[0].shape[1]} inputs to {chain[-1].shape[0]} outputs, but cross_correlation has shape "
            f"{tuple(s31.shape)}, (outputs, inputs); make them fit."
        )
    rate = check_positive("lr", lr)
    for name, count in (("steps", steps), ("every", every)):
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise ValueError(f"{name} must be a positive whole number, got {count!r}.")
    share = None if until is None else check_positive("until", until)
    best = s31 @ torch.linalg.pinv(s11, hermitian=True)
    kept: list[tuple[int, float]] = []
    strengths: list[Tensor] = []
    reached, diverged, done = None, False, 0
    with stopwatch() as watch:
        for step in range(steps + 1):
            below = _products(chain)
            gap = below[-1] - best
            excess = 0.5 * float(((gap @ s11) * gap).sum())
            if not math.isfinite(excess):
                diverged = True
                break
            done = step
            if share is not None and reached is None and kept and excess <= share * kept[0][1]:
                reached = step
            last = step == steps or reached is not None
            if step % every == 0 or last:
                kept.append((step, excess))
                if modes is not None:
                    strengths.append(mode_strengths([below[-1]], modes))
            if last:
                break
            _descend(chain, below, s31 - below[-1] @ s11, rate)
    return Trajectory(
        steps=torch.tensor([step for step, _ in kept], dtype=torch.int64),
        excess=torch.tensor([value for _, value in kept], dtype=torch.float64),
        strengths=torch.stack(strengths) if strengths else None,
        weights=tuple(chain),
        reached=reached,
        diverged=diverged,
        lr=rate,
        cost=Cost(forward_passes=done + 1, backward_passes=done, seconds=watch.seconds),
    )


def _products(chain: list[Tensor]) -> list[Tensor]:
    found = [chain[0]]
    for weight in chain[1:]:
        found.append(weight @ found[-1])
    return found


def _descend(chain: list[Tensor], below: list[Tensor], error: Tensor, rate: float) -> None:
    back = error  # (W_L ... W_(l+1))^T (S31 - W S11)
    for index in range(len(chain) - 1, -1, -1):
        gradient = back @ below[index - 1].T if index else back
        back = chain[index].T @ back
        chain[index] = chain[index] + rate * gradient


def _check_correlations(input_correlation: Tensor, cross_correlation: Tensor) -> tuple[Tensor, Tensor]:
    s11 = check_finite("input_correlation", check_tensor("input_correlation", input_correlation, ndim=2))
    s31 = check_finite("cross_correlation", check_tensor("cross_correlation", cross_correlation, ndim=2))
    if s11.shape[0] != s11.shape[1] or s11.shape[0] != s31.shape[1]:
        raise ValueError(
            f"input_correlation has shape {tuple(s11.shape)} and cross_correlation {tuple(s31.shape)}; they must be "
            "(inputs, inputs) and (outputs, inputs)."
        )
    return s11.detach().cpu().double(), s31.detach().cpu().double()
