"""Stochastic gradient descent with momentum, on manifolds for constrained weights.

References:
    S. Bonnabel, Stochastic gradient descent on Riemannian manifolds, IEEE Trans. Automat. Control 58(9), 2013.
    arXiv:1111.5280
    P.-A. Absil, R. Mahony, R. Sepulchre, Optimization Algorithms on Matrix Manifolds, Princeton, 2008, sections 4.1,
    8.1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from isometry.optim._base import ParameterSource, check_number, check_switch
from isometry.optim._constrained import Constrained
from isometry.optim._elementwise import ElementwiseSGD, momentum_direction
from isometry.optim._geometry import Move
from isometry.optim._riemannian import Riemannian
from isometry.optim._rule import Options, Rule, State

__all__ = ["RiemannianSGD"]


class RiemannianSGD(Riemannian):
    """SGD that keeps constrained weights on their manifold, and moves all others as ``torch.optim.SGD`` does.

    With the Riemannian gradient grad, momentum mu and dampening d, a constrained weight W = s Q takes

        M <- mu T(M) + (1 - d) grad,    Q <- R_Q(-lr M)        (-lr (grad + mu M) with Nesterov's momentum)

    where T transports the momentum by projection on the tangent space of the new point and R is the retraction. Steps
    are taken in Q's coordinates, so ``lr`` means the same whatever s is.

    Args:
        params: Parameters, named parameters, or groups with options of their own.
        lr: Learning rate; a number or a tensor of one.
        momentum: mu, in [0, 1).
        nesterov: Whether to look ahead; needs momentum and no dampening.
        dampening: d, in [0, 1).
        weight_decay: Decay of ordinary parameters, added to their gradients; constrained weights have a fixed size.
        retraction: ``"auto"`` and ``"polar"``: the polar retraction, by series and products of matrices alone; else
            what the manifold's ``retract`` knows (``"qr"``, ``"cayley"``, ...), slower.
        scale_lr: Learning rate of learned scales; None for ``lr``.
        maximize: Ascend.

    Raises:
        TypeError: If an option is of a wrong type, or a parameter not real floating point.
        ValueError: If an option is out of its range.

    Example:
        >>> import isometry as iso
        >>> layer = torch.nn.Linear(3, 3, bias=False)
        >>> _ = iso.manifolds.constrain_(layer, "stiefel", names="weight", scale=1.0)
        >>> optimizer = RiemannianSGD(layer.parameters(), lr=0.1)
        >>> layer(torch.ones(1, 3)).sum().backward()
        >>> optimizer.step()
        >>> iso.manifolds.check(layer).ok
        True

    References:
        S. Bonnabel, Stochastic gradient descent on Riemannian manifolds, 2013. arXiv:1111.5280
    """

    def __init__(
        self,
        params: ParameterSource,
        lr: float | Tensor = 1e-3,
        momentum: float = 0.0,
        *,
        nesterov: bool = False,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        retraction: str = "auto",
        scale_lr: float | Tensor | None = None,
        maximize: bool = False,
    ) -> None:
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "nesterov": nesterov,
            "dampening": dampening,
            "weight_decay": weight_decay,
            "retraction": retraction,
            "scale_lr": scale_lr,
            "maximize": maximize,
        }
        super().__init__(params, defaults)

    def _check_options(self, options: dict[str, Any]) -> None:
        super()._check_options(options)
        check_number("momentum", options["momentum"], below=1)
        check_number("dampening", options["dampening"], below=1)
        check_switch("nesterov", options["nesterov"])
        if options["nesterov"] and (not options["momentum"] or options["dampening"]):
            raise ValueError(
                f"nesterov=True needs momentum > 0 and dampening = 0, got momentum={options['momentum']} and "
                f"dampening={options['dampening']}."
            )

    def _form(self, options: dict[str, Any]) -> tuple[Any, ...]:
        return (bool(options["momentum"]), options["nesterov"], options["retraction"])

    def _ordinary(self, options: dict[str, Any]) -> Rule:
        return ElementwiseSGD(bool(options["momentum"]), options["nesterov"])

    def _constrained(self, options: dict[str, Any], **common: Any) -> Rule:
        return ConstrainedSGD(**common, with_momentum=bool(options["momentum"]), nesterov=options["nesterov"])


@dataclass(frozen=True)
class ConstrainedSGD(Constrained):
    """The rule of constrained weights."""

    with_momentum: bool
    nesterov: bool

    @property
    def momentum(self) -> str:
        """The name of the state that is a tangent vector."""
        return f"momentum_{self.geometry.suffix}"

    def names(self) -> tuple[str, ...]:
        if not self.with_momentum:
            return ("defect",)
        return ("defect", self.momentum, *(("scale_momentum",) if self.learned else ()))

    def begin(self, value: Tensor, members: int) -> State:
        state = {"defect": value.new_zeros(len(value), 1, 1)}
        if self.with_momentum:
            state[self.momentum] = torch.zeros_like(value)
            if self.learned:
                state["scale_momentum"] = value.new_zeros(members)
        return state

    def _direction(
        self, x: Tensor, gradient: Tensor, s: Tensor, state: State, step: int, options: Options
    ) -> tuple[Move, Tensor | None, State]:
        lr, mu = options["lr"], options["momentum"]
        if not self.with_momentum:
            return Move(self.geometry.gradient(x, gradient, s).mul_(-lr), gain=lr), None, {}
        memory = 1 / (1 - mu)
        kept, weight = state[self.momentum], 1 - options["dampening"]
        if step == 1:
            momentum = grad = self.geometry.gradient(x, gradient, s)
        elif self.nesterov:
            grad = self.geometry.gradient(x, gradient, s)
            momentum = torch.add(mu * self.geometry.arrive(x, kept, s), grad, alpha=weight)
        else:
            momentum = grad = self.geometry.blend(x, kept, gradient, mu, weight, s)
        if self.nesterov:
            return Move(torch.add(grad, momentum, alpha=mu).mul_(-lr), None, memory, lr * (1 + mu)), momentum, {}
        return Move(-lr * momentum, torch.full_like(s, -lr), memory, lr), momentum, {}

    def _rescale(self, gradient: Tensor, state: State, step: int, options: Options) -> tuple[Tensor, State]:
        lr = options["lr"] if options["scale_lr"] is None else options["scale_lr"]
        if not self.with_momentum:
            return -lr * gradient, {}
        direction, buffer = momentum_direction(
            gradient,
            state["scale_momentum"] if step > 1 else None,
            momentum=options["momentum"],
            dampening=options["dampening"],
            nesterov=self.nesterov,
        )
        return -lr * direction, {"scale_momentum": buffer}
