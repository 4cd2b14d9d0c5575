"""What stochastic gradient descent is guaranteed under a bound on gradient confusion.

F = (1/N) sum_i f_i with every f_i L-smooth, steps w <- w - a grad f_i(w) for a uniformly drawn i, and gradients that
satisfy <grad f_i, grad f_j> >= -eta for i != j along the whole path. Then <grad F, grad f_i> >= |grad f_i|^2 / N - eta,
so that E F(w+) <= F(w) - (a/N) (1 - N L a / 2) E|grad f_i|^2 + a eta, and both theorems follow.

Paper: K. A. Sankararaman, S. De, Z. Xu, W. R. Huang, T. Goldstein. "The Impact of Neural Network Overparameterization
on Gradient Confusion and Stochastic Gradient Descent." ICML 2020.

Departure: the first term of Theorem 3.2 is divided by the step size a, which the derivation above needs and the printed
statement lacks.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from isometry._base import Result, check_positive

__all__ = ["SgdBound", "sgd_bound"]


@dataclass(frozen=True)
class SgdBound(Result):
    """A bound on what stochastic gradient descent reaches.

    Attributes:
        value: transient + floor.
        transient: The part that falls with the number of steps.
        floor: The part that confusion alone sets: no number of steps goes below it.
        quantity: What is bounded: "suboptimality" is E F(w_T) - F*, "squared gradient" is min_k E|grad F(w_k)|^2.
        rate: rho: the factor per step (suboptimality), or the factor on both terms (squared gradient).
        lr_limit: Step sizes must be below this: 2 / (N L).
        eta: The confusion that was assumed along the path.
        lr: Step size.
        steps: T.
    """

    value: float
    transient: float
    floor: float
    quantity: Literal["suboptimality", "squared gradient"]
    rate: float
    lr_limit: float
    eta: float
    lr: float
    steps: int

    def __float__(self) -> float:
        return self.value

    def __str__(self) -> str:
        return (
            f"{self.quantity} after {self.steps} steps of {self.lr:g} (limit {self.lr_limit:.4g}): at most "
            f"{self.value:.4g} = {self.transient:.4g}, which falls with the steps, + {self.floor:.4g} of confusion "
            f"{self.eta:.4g}"
        )


def sgd_bound(
    eta: float, *, smoothness: float, samples: int, lr: float, steps: int, gap: float, pl: float | None = None
) -> SgdBound:
    """Bound what stochastic gradient descent reaches if gradient confusion stays below eta.

    Args:
        eta: Confusion bound along the whole path, >= 0; at one point, ``measure.gradient_confusion(...).eta``.
        smoothness: L: every f_i has an L-Lipschitz gradient.
        samples: N: how many f_i there are.
        lr: Constant step size a, below 2 / (N L).
        steps: T.
        gap: F(w_0) - F*, the suboptimality at the start.
        pl: mu of the Polyak-Lojasiewicz inequality (1/2)|grad f_i|^2 >= mu (f_i - f_i*) of every f_i, at most L; None
            assumes none and bounds the squared gradient instead (Theorem 3.2).

    Returns:
        The bound; ``float()`` gives its value.

    Raises:
        ValueError: If a number is out of range.

    Example:
        >>> bound = sgd_bound(0.01, smoothness=1.0, samples=10, lr=0.1, steps=1000, gap=5.0, pl=0.5)
        >>> round(bound.rate, 6), round(bound.floor, 6)  # 1 - (2 mu / N)(a - N L a^2 / 2), and a eta / (1 - rate)
        (0.995, 0.2)
    """
    eta, gap = check_positive("eta", eta, zero=True), check_positive("gap", gap, zero=True)
    smooth, lr = check_positive("smoothness", smoothness), check_positive("lr", lr)
    for name, count, least in (("samples", samples, 1), ("steps", steps, 1)):
        if isinstance(count, bool) or not isinstance(count, int) or count < least:
            raise ValueError(f"{name} must be a whole number >= {least}, got {count!r}.")
    limit = 2 / (samples * smooth)
    if lr >= limit:
        raise ValueError(
            f"lr={lr:g} is not below 2 / (samples * smoothness) = {limit:.6g}, as the theorems need; pass a smaller lr."
        )
    progress = 1 - lr / limit  # 1 - N L a / 2
    if pl is None:
        rate = samples / progress  # 2N / (2 - N L a), Theorem 3.2
        transient, floor = rate * gap / (lr * steps), rate * eta
        return SgdBound(transient + floor, transient, floor, "squared gradient", rate, limit, eta, lr, steps)
    strength = check_positive("pl", pl)
    if strength > smooth:
        raise ValueError(
            f"pl={pl:g} exceeds smoothness={smoothness:g}, which no function allows; mu is at most L, pass it so."
        )
    loss = 2 * strength * lr * progress / samples  # 1 - rho, Theorem 3.1
    transient, floor = gap * math.exp(steps * math.log1p(-loss)), lr * eta / loss
    return SgdBound(transient + floor, transient, floor, "suboptimality", 1 - loss, limit, eta, lr, steps)
