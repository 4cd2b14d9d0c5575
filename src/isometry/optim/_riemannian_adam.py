"""Adam on manifolds for constrained weights, AdamW for all others.

References:
    D. P. Kingma, J. Ba, Adam: a method for stochastic optimization, ICLR 2015. arXiv:1412.6980
    G. Becigneul, O.-E. Ganea, Riemannian adaptive optimization methods, ICLR 2019. arXiv:1810.00760
    P. Sokol, I. M. Park, Information geometry of orthogonal initializations and training, ICLR 2020. arXiv:1810.03785
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from isometry.manifolds import Stiefel
from isometry.optim._base import ParameterSource, check_betas, check_choice, check_number, check_switch
from isometry.optim._constrained import Constrained
from isometry.optim._elementwise import ElementwiseAdam, adam_ratio
from isometry.optim._geometry import Move
from isometry.optim._riemannian import Riemannian
from isometry.optim._rule import Options, Rule, State

__all__ = ["RiemannianAdam", "SecondMoment", "StepScale"]

SecondMoment = Literal["auto", "scalar", "per-column"]
StepScale = Literal["unit", "rows"]


class RiemannianAdam(Riemannian):
    """Adam that keeps constrained weights on their manifold, and moves all others as ``torch.optim.AdamW`` does.

    A constrained weight W = s Q with Riemannian gradient grad takes, with Adam's corrections m / (1 - b1^t) and
    v / (1 - b2^t) understood,

        m <- b1 T(m) + (1 - b1) grad,    v <- b2 v + (1 - b2) <grad, grad>,    Q <- R_Q(-lr c m / (sqrt(v) + eps))

    where T transports by projection and R is the retraction. ``v`` is one number per matrix, in the manifold's metric,
    so that the direction stays tangent; an entrywise ``v`` would not. The step then has a Frobenius norm of about lr,
    where elementwise Adam's has lr sqrt(n p); ``step_scale`` makes up for the number of rows.

    Args:
        params: Parameters, named parameters, or groups with options of their own.
        lr: Learning rate; a number or a tensor of one.
        betas: Decay rates of the means of gradients and of their squares.
        eps: Added to the corrected root of v.
        amsgrad: Divide by the largest v so far.
        second_moment: ``"scalar"``: one v per matrix; ``"per-column"``: one per column. On the oblique manifold the
            latter leaves directions tangent; on the Stiefel manifold they are projected anew. ``"auto"``: per column
            on the oblique manifold, scalar elsewhere.
        step_scale: c: ``"unit"`` is 1; ``"rows"`` is sqrt(numel / columns), the root of the number of rows of the
            upright matrix, so that the entries change by about lr where p = n, as they do with elementwise Adam.
        weight_decay: Decoupled decay of ordinary parameters; constrained weights have a fixed size.
        retraction: ``"auto"`` and ``"polar"``: the polar retraction, by series and products of matrices alone; else
            what the manifold's ``retract`` knows (``"qr"``, ``"cayley"``, ...), slower.
        scale_lr: Learning rate of learned scales, which have an Adam of their own; None for ``lr``.
        maximize: Ascend.

    Raises:
        TypeError: If an option is of a wrong type, or a parameter not real floating point.
        ValueError: If an option is out of its range.

    Example:
        >>> import isometry as iso
        >>> layer = torch.nn.Linear(3, 3, bias=False)
        >>> _ = iso.manifolds.constrain_(layer, "stiefel", names="weight", scale=1.0)
        >>> optimizer = RiemannianAdam(layer.parameters(), lr=0.1)
        >>> layer(torch.ones(1, 3)).sum().backward()
        >>> optimizer.step()
        >>> iso.manifolds.check(layer).ok
        True

    References:
        G. Becigneul, O.-E. Ganea, Riemannian adaptive optimization methods, 2019. arXiv:1810.00760
    """

    def __init__(
        self,
        params: ParameterSource,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        *,
        amsgrad: bool = False,
        second_moment: SecondMoment = "auto",
        step_scale: StepScale = "unit",
        weight_decay: float = 0.0,
        retraction: str = "auto",
        scale_lr: float | Tensor | None = None,
        maximize: bool = False,
    ) -> None:
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "amsgrad": amsgrad,
            "second_moment": second_moment,
            "step_scale": step_scale,
            "weight_decay": weight_decay,
            "retraction": retraction,
            "scale_lr": scale_lr,
            "maximize": maximize,
        }
        super().__init__(params, defaults)

    def _check_options(self, options: dict[str, Any]) -> None:
        super()._check_options(options)
        check_betas(options["betas"])
        check_number("eps", options["eps"])
        check_switch("amsgrad", options["amsgrad"])
        check_choice("second_moment", options["second_moment"], get_args(SecondMoment))
        check_choice("step_scale", options["step_scale"], get_args(StepScale))

    def _form(self, options: dict[str, Any]) -> tuple[Any, ...]:
        return tuple(options[name] for name in ("amsgrad", "second_moment", "step_scale", "retraction"))

    def _ordinary(self, options: dict[str, Any]) -> Rule:
        return ElementwiseAdam(options["amsgrad"])

    def _constrained(self, options: dict[str, Any], **common: Any) -> Rule:
        moment = options["second_moment"]
        by_column = not isinstance(common["manifold"], Stiefel) if moment == "auto" else moment == "per-column"
        return ConstrainedAdam(
            **common, amsgrad=options["amsgrad"], by_column=by_column, by_rows=options["step_scale"] == "rows"
        )


@dataclass(frozen=True)
class ConstrainedAdam(Constrained):
    """The rule of constrained weights."""

    amsgrad: bool
    by_column: bool
    by_rows: bool

    @property
    def momentum(self) -> str:
        """The name of the state that is a tangent vector."""
        return f"exp_avg_{self.geometry.suffix}"

    @property
    def _second(self) -> str:
        return "exp_avg_sq_column" if self.by_column else "exp_avg_sq_matrix"

    def names(self) -> tuple[str, ...]:
        names: tuple[str, ...] = ("defect", self.momentum, self._second)
        if self.learned:
            names += ("scale_exp_avg", "scale_exp_avg_sq")
        if self.amsgrad:
            names += (f"max_{self._second}",) + (("scale_max_exp_avg_sq",) if self.learned else ())
        return names

    def begin(self, value: Tensor, members: int) -> State:
        state = {
            name: value.new_zeros(len(value), 1, value.shape[-1] if self.by_column and name != "defect" else 1)
            for name in self.names()
        }
        state[self.momentum] = torch.zeros_like(value)
        return state | {name: value.new_zeros(members) for name in self.names() if name.startswith("scale_")}

    def _direction(
        self, x: Tensor, gradient: Tensor, s: Tensor, state: State, step: int, options: Options
    ) -> tuple[Move, Tensor | None, State]:
        betas = options["betas"]
        grad = self.geometry.gradient(x, gradient, s)
        momentum = torch.lerp(self.geometry.arrive(x, state[self.momentum], s), grad, 1 - betas[0])
        squares = self.geometry.column_squares(grad) if self.by_column else self.geometry.squares(x, grad, s)
        mean = torch.lerp(state[self._second], squares, 1 - betas[1])
        new = {self._second: mean}
        if self.amsgrad:
            new[f"max_{self._second}"] = mean = torch.maximum(state[f"max_{self._second}"], mean)
        denominator, factor = adam_ratio(mean, step=step, betas=betas, eps=options["eps"])
        length = options["lr"] * factor * (x.shape[-2] ** 0.5 if self.by_rows else 1.0)
        # Where v and eps are zero the gradient always was, and so is the step.
        ratio = torch.where(denominator == 0, 0.0, -length / denominator)
        v = momentum * ratio
        memory = 1 / (1 - betas[0])
        if self.by_column:
            gain = ratio.abs().amax(-1, keepdim=True)
            return Move(self.geometry.tangent(x, v, s), None, memory, gain), momentum, new
        return Move(v, ratio, memory, ratio.abs()), momentum, new

    def _rescale(self, gradient: Tensor, state: State, step: int, options: Options) -> tuple[Tensor, State]:
        lr = options["lr"] if options["scale_lr"] is None else options["scale_lr"]
        betas = options["betas"]
        mean = torch.lerp(state["scale_exp_avg"], gradient, 1 - betas[0])
        square = torch.lerp(state["scale_exp_avg_sq"], gradient * gradient, 1 - betas[1])
        new = {"scale_exp_avg": mean, "scale_exp_avg_sq": square}
        if self.amsgrad:
            new["scale_max_exp_avg_sq"] = square = torch.maximum(state["scale_max_exp_avg_sq"], square)
        denominator, factor = adam_ratio(square, step=step, betas=betas, eps=options["eps"])
        return torch.where(denominator == 0, 0.0, -lr * factor * mean / denominator), new
