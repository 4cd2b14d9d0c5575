"""Generalized SignSGD: momentum over the root of a running mean of its squares, between SignSGD and Adam.

References:
    M. Crawshaw, M. Liu, F. Orabona, W. Zhang, Z. Zhuang, Robustness to unbounded smoothness of generalized SignSGD,
    NeurIPS 2022. arXiv:2208.11195, and its released code, github.com/zhenxun-zhuang/Generalized-SignSGD
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from isometry.manifolds._warn import warn_user
from isometry.optim._base import Optimizer, ParameterSource, check_betas, check_number, check_switch
from isometry.optim._rule import Elementwise, Options, Rule, State
from isometry.optim._update_size import UpdateSize

__all__ = ["GeneralizedSignSGD", "generalized_signsgd_update"]

_warned = False


def generalized_signsgd_update(
    gradient: Tensor,
    mean: Tensor,
    root: Tensor,
    *,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    step: int | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Make the update: m <- b1 m + (1 - b1) g; v <- b2 v + (1 - b2) m^2; m / (v^(1/2) + eps).

    The root r of v is what is kept: r <- ((b2^(1/2) r)^2 + ((1 - b2)^(1/2) m)^2)^(1/2) neither overflows nor underflows
    before m does, so |m| <= r / (1 - b2)^(1/2) always holds, and with it the bound of the update.

    Args:
        gradient: g, of any shape, in float32 or float64.
        mean: m, of the same shape; zeros before the first step.
        root: r, of the same shape; zeros before the first step.
        betas: Decay rates b1 and b2.
        eps: Added to the root; where the denominator is 0, so is the update.
        step: Which step it is, from 1, if m is to be divided by 1 - b1^t and v by 1 - b2^t.

    Returns:
        The update, every entry of which is at most (1 - b2)^(-1/2) in size if ``step`` is None; m; r.

    Example:
        >>> g = torch.tensor([3.0, -0.001, 0.0])
        >>> update, _, _ = generalized_signsgd_update(g, torch.zeros(3), torch.zeros(3), betas=(0.9, 0.0), eps=0.0)
        >>> update
        tensor([ 1., -1.,  0.])
    """
    mean = torch.add(betas[0] * mean, gradient, alpha=1 - betas[0])  # lerp's difference may overflow
    root = torch.hypot(betas[1] ** 0.5 * root, (1 - betas[1]) ** 0.5 * mean)
    corrected, factor = root, 1.0
    if step is not None:
        corrected, factor = root / (1 - betas[1] ** step) ** 0.5, 1 / (1 - betas[0] ** step)
    denominator = corrected + eps if eps else corrected.masked_fill(corrected == 0, 1.0)  # m is 0 there, too
    update = torch.div(mean, denominator)
    return (update if factor == 1 else update.mul_(factor)), mean, root


class GeneralizedSignSGD(Optimizer):
    """Momentum over the root of a running mean of its squares; no step is long, whatever the gradient.

    m <- b1 m + (1 - b1) g; v <- b2 v + (1 - b2) m^2; w <- w - lr m / (v^(1/2) + eps). With b2 = 0 these are the signs
    of the momentum (SignSGD with momentum), with b2 near 1 it is close to Adam, but for the square of the momentum in
    place of the gradient's. Since v >= (1 - b2) m^2, no weight moves by more than lr / (1 - b2)^(1/2) in a step: where
    smoothness grows with the gradient, as in recurrent nets and transformers, gradients need not be clipped.

    What follows, and is good to know before choosing the rates. The first step has exactly that size: 31.6 lr with the
    authors' b2 = 0.999, 3.2 lr with 0.9, lr with 0. Warm up, or take a smaller b2. ``bias_correction`` helps less than
    in Adam, since v has the square of the uncorrected m: the first step is lr / (1 - b1) long. The proof of convergence
    holds for b2^(1/2) < b1, so not for the authors' own (0.9, 0.999); a process is warned once of that. Momentum
    shrinks noise, so v is below Adam's and steps are longer: expect a best rate two to five times lower than Adam's.
    Every entry is treated alike: shapes and shards do not matter.

    Args:
        params: Parameters, pairs of names and parameters, or groups.
        lr: Learning rate.
        betas: Decay rates b1 and b2, in [0, 1); the default is the authors'.
        eps: Added to the root. With 0, weights whose momentum has always been 0 stay where they are.
        weight_decay: L2 penalty, added to the gradient, as in the released code.
        decoupled: Let weights shrink by lr weight_decay instead.
        bias_correction: Divide m by 1 - b1^t and v by 1 - b2^t; saved with the group.
        maximize: Go uphill.

    Raises:
        TypeError: If an option is of a wrong type.
        ValueError: If an option is out of its range.

    Example:
        >>> weight = torch.nn.Parameter(torch.zeros(2))
        >>> optimizer = GeneralizedSignSGD([weight], lr=0.1, betas=(0.9, 0.75))
        >>> weight.grad = torch.tensor([1000.0, -0.001])
        >>> optimizer.step()
        >>> bool(torch.allclose(weight.data, torch.tensor([-0.2, 0.2]), rtol=1e-3))  # 0.1 / (1 - 0.75)^(1/2)
        True
    """

    def __init__(
        self,
        params: ParameterSource,
        lr: float | Tensor = 1e-3,
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        decoupled: bool = False,
        bias_correction: bool = False,
        maximize: bool = False,
    ) -> None:
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "decoupled": decoupled,
            "bias_correction": bias_correction,
            "maximize": maximize,
        }
        super().__init__(params, defaults)

    def _check_options(self, options: dict[str, Any]) -> None:
        for name in ("lr", "eps", "weight_decay"):
            check_number(name, options[name])
        check_betas(options["betas"])
        for name in ("decoupled", "bias_correction", "maximize"):
            check_switch(name, options[name])
        _warn_outside_theory(*options["betas"])

    def _form(self, options: dict[str, Any]) -> tuple[Any, ...]:
        return (options["decoupled"], options["bias_correction"])

    def _rule(self, parameter: Tensor, options: dict[str, Any]) -> tuple[Rule, Any]:
        del parameter
        return GeneralizedSignRule(*self._form(options)), None


@dataclass(frozen=True)
class GeneralizedSignRule(Elementwise):
    """The step of generalized SignSGD."""

    decoupled: bool
    corrected: bool

    def names(self) -> tuple[str, ...]:
        return ("exp_avg", "exp_avg_rms")

    def begin(self, value: Tensor, members: int) -> State:
        del members
        return {name: torch.zeros_like(value) for name in self.names()}

    def update_size(self, shape: Sequence[int], options: Options) -> UpdateSize:
        del shape
        if self.corrected:
            return UpdateSize(rms=1 / (1 - options["betas"][0]), holds="at the first step, in every entry")
        bound = (1 - options["betas"][1]) ** -0.5
        return UpdateSize(rms=bound, holds="at most, in every entry; reached at the first step")

    def update(
        self, value: Tensor, gradient: Tensor, state: State, step: int, options: Options, context: State
    ) -> tuple[Tensor, State]:
        del context
        decay, lr = options["weight_decay"], options["lr"]
        if decay and not self.decoupled:
            gradient = torch.add(gradient, value, alpha=decay)
        update, mean, root = generalized_signsgd_update(
            gradient,
            state["exp_avg"],
            state["exp_avg_rms"],
            betas=options["betas"],
            eps=options["eps"],
            step=step if self.corrected else None,
        )
        if decay and self.decoupled:
            value = value * (1 - lr * decay)
        return torch.add(value, update, alpha=-lr), {"exp_avg": mean, "exp_avg_rms": root}


def _warn_outside_theory(beta1: float, beta2: float) -> None:
    global _warned
    if _warned or beta2**0.5 < beta1 or beta2 == 0:
        return
    _warned = True
    warn_user(
        f"betas=({beta1:g}, {beta2:g}) is outside what the convergence of generalized SignSGD is proved for, "
        f"betas[1]^(1/2) < betas[0], and a first step is {(1 - beta2) ** -0.5:.3g} times lr without bias correction; "
        "begin with a warm-up, or take betas such as (0.9, 0.8). This is said once."
    )
