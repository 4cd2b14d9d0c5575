"""What constrained weights share in every Riemannian method: their stacks, scales and drift.

A weight is W = s Q. Steps are taken in Q's coordinates, so that a learning rate means the same whatever s is. With G
the gradient in W, the gradient in Q is s G and the one in s is <G, Q>. A fixed s stays; a learned one is a parameter of
its own with a state of its own.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from isometry.manifolds import Constraint, Manifold, Stiefel
from isometry.manifolds._warn import listed, warn_user
from isometry.optim._geometry import Body, Columns, General, Geometry, Move
from isometry.optim._polar_step import FAR, OffManifoldError, drift_budget, gram_defect, largest, rounds_long, settle
from isometry.optim._rule import Member, Options, Rule, State
from isometry.optim._sharded import local_part, whole

__all__ = ["Constrained", "geometry_for"]

# Steps between two looks at the drift off the manifold; each takes one product of matrices. Rounding of the stored
# points drifts by about eps sqrt(p) / 2 a step, since small steps in one direction are rounded alike every time; after
# 16 of them the points are still on the manifold by the tolerance of ``manifolds.check``, which is 16 eps sqrt(p).
LOOK_EVERY = 16
LOST = 1e-2  # a drift that no rounding explains


def geometry_for(constraint: Constraint, retraction: str) -> Geometry:
    """Choose the representation of a constrained weight.

    Args:
        constraint: The weight's constraint.
        retraction: ``"auto"``, ``"polar"``, or what the manifold's ``retract`` knows.

    Returns:
        The geometry.
    """
    manifold = constraint.manifold
    if not isinstance(manifold, Stiefel) or retraction not in ("auto", "polar"):
        return General(manifold, retraction)
    canonical = manifold.metric == "canonical"
    n, p = constraint.matrix(torch.empty(constraint.shape, device="meta")).shape[-2:]
    return Body(canonical) if n == p else Columns(canonical)


@dataclass(frozen=True)
class Constrained(Rule):
    """A rule for weights on a manifold; a method gives ``_direction`` and ``_rescale``.

    Attributes:
        geometry: The representation of tangent vectors.
        manifold: The manifold of the upright matrices.
        learned: Whether the scale s moves.
    """

    consumes: ClassVar[bool] = True
    refuses: ClassVar[bool] = True

    geometry: Geometry
    manifold: Manifold
    learned: bool

    @abstractmethod
    def _direction(
        self, x: Tensor, gradient: Tensor, s: Tensor, state: State, step: int, options: Options
    ) -> tuple[Move, Tensor | None, State]:
        """Give the step, the momentum before it is transported, and the new state without the momentum."""

    @abstractmethod
    def _rescale(self, gradient: Tensor, state: State, step: int, options: Options) -> tuple[Tensor, State]:
        """Give the change of the scales, shape ``(members,)``, and the new state that belongs to them."""

    @property
    @abstractmethod
    def momentum(self) -> str:
        """The name of the state that is a tangent vector."""

    def read(self, member: Member, tensor: Tensor) -> Tensor:
        """Lay out as upright matrices, gathered.

        Args:
            member: The parameter.
            tensor: The parameter or its gradient.

        Returns:
            Shape ``(k, n, p)``.
        """
        found: Tensor = member.tie.matrix(whole(tensor))
        return found

    def write(self, member: Member, value: Tensor) -> Tensor:
        """Lay out as the parameter, and cut out this process's part.

        Args:
            member: The parameter.
            value: Shape ``(k, n, p)``.

        Returns:
            The local part.
        """
        return local_part(member.tie.tensor(value), member.parameter)

    def context(self, members: Sequence[Member], value: Tensor) -> State:
        """Give the fixed scales.

        Args:
            members: The parameters.
            value: Their stack.

        Returns:
            ``scale``, shape ``(members,)``; NaN where scales are learned, which are read off the weights.
        """
        scales = [float("nan") if self.learned else float(m.tie.scale()) for m in members]
        return {"scale": torch.tensor(scales, dtype=value.dtype, device=value.device)}

    def admit(self, value: Tensor, members: Sequence[Member], storage: torch.dtype, context: State) -> Tensor:
        """Project what is off the manifold, and say so where rounding does not explain it.

        Args:
            value: Shape ``(members k, n, p)``.
            members: The parameters.
            storage: The dtype in which the values came.
            context: The scales.

        Returns:
            Values on the manifold; those that were there already are unchanged.

        Raises:
            ValueError: If a weight with a learned scale is zero, or has no nearest point.
        """
        s = self._scales(value, context)
        if bool((s == 0).any()):
            names = ", ".join(m.name for m, zero in zip(members, (s == 0).tolist(), strict=True) if zero)
            raise ValueError(f"{names} is zero, which is no point of {self.manifold.name}; initialize it anew.")
        if self.manifold.check(value / _spread(s, value)).ok:
            return value
        parts = list(value.chunk(len(members)))
        found: dict[str, float] = {}
        for i, (member, part) in enumerate(zip(members, parts, strict=True)):
            q = part / s[i]
            defect = self.manifold.check(q)
            if defect.ok:
                continue
            stored = self.manifold.check(q.to(storage))
            if not stored.ok:
                label = member.tie.label
                found[member.name if repr(label) in member.name else f"{member.name} ({label})"] = defect.frobenius
            try:
                parts[i] = self.manifold.project(q) * s[i]
            except ValueError as error:
                raise ValueError(f"{member.name} was written to and cannot be projected: {error}") from None
        if found:
            one = len(found) == 1
            warn_user(
                f"{listed(found)} {'was' if one else 'were'} off the manifold {self.manifold.name} (defect "
                f"{'' if one else 'up to '}{max(found.values()):.2g}; loaded, or written to?) and "
                f"{'has' if one else 'have'} been projected on it."
            )
        return torch.cat(parts)

    def update(
        self, value: Tensor, gradient: Tensor, state: State, step: int, options: Options, context: State
    ) -> tuple[Tensor, State]:
        """Step along the manifold, and move the scales if they are learned.

        Args:
            value: Shape ``(members k, n, p)``.
            gradient: Same shape.
            state: The state.
            step: From 1.
            options: The group's options.
            context: The scales.

        Returns:
            The new values and state.
        """
        scales = self._scales(value, context)
        s = _spread(scales, value)
        # Before anything is overwritten. <G, Q> = <G, W> / s.
        pull = torch.linalg.vector_norm(gradient, dim=(-2, -1), keepdim=True) * s
        slope = (gradient * value).sum((-2, -1)).view(len(scales), -1).sum(-1) / scales if self.learned else None
        move, momentum, new = self._direction(value, gradient, s, state, step, options)
        lengths = torch.linalg.vector_norm(move.v, dim=(-2, -1), keepdim=True)
        length = largest(lengths)
        new["defect"] = state["defect"]
        if self.geometry.straight:
            astray = self.geometry.astray(move, lengths, pull)
            move, new["defect"] = self._keep(value, move, lengths, astray, s, state["defect"], step)
        far = self.geometry.straight and rounds_long(length, value.shape[-1])
        go = self.geometry.leap if far and move.crude(length) else self.geometry.move
        reached, momentum = go(value, move, momentum, s)
        if far:
            reached = settle(reached, s, lengths > 0)
        if momentum is not None:
            new[self.momentum] = momentum
        if slope is not None:
            change, moved = self._rescale(slope, state, step, options)
            new |= moved
            # A scale is positive; one step takes at most nine tenths of it.
            reached = reached * _spread((1 + change / scales).clamp_min(0.1), reached)
        return reached, new

    def _scales(self, value: Tensor, context: State) -> Tensor:
        if not self.learned:
            return context["scale"]
        squares = (value * value).sum((-2, -1)).view(len(context["scale"]), -1)
        return (squares.sum(-1) / (squares.shape[-1] * value.shape[-1])).sqrt()  # |W|_F / sqrt(k p)

    def _keep(
        self, value: Tensor, move: Move, lengths: Tensor, astray: Tensor, s: Tensor, drift: Tensor, step: int
    ) -> tuple[Move, Tensor]:
        """Keep the drift off the manifold within its budget.

        Args:
            value: The points.
            move: The step.
            lengths: Its Frobenius norms, shape ``(batch, 1, 1)``.
            astray: What going straight on would add to the drift.
            s: Scales.
            drift: A bound on |Q^T Q - I|_F from the steps that went straight on.
            step: From 1.

        Returns:
            The step as it is to be taken, and the new bound.
        """
        budget = drift_budget(value.shape[-1], value.dtype)
        flat = largest(astray) <= budget / 2
        # Rounding adds up slowly, but in proportion to long steps.
        due = step % LOOK_EVERY == 0 or (flat and largest(drift + astray) > budget)
        if not isinstance(self.geometry, Body):
            # Coming back by the Gram matrix of the point reached takes all drift away.
            flat = flat and not due
            return move._replace(flat=flat), drift + astray if flat else torch.zeros_like(drift)
        if due or largest(lengths) > FAR:
            drift = torch.zeros_like(drift)
            move = move._replace(correction=self._look(value, lengths, s))
        return move._replace(flat=flat), drift + astray if flat else drift

    def _look(self, value: Tensor, lengths: Tensor, s: Tensor) -> Tensor:
        """Measure E = Q^T Q - I and let the step take it away: (I + E)^{-1/2} = I - E / 2 up to rounding.

        Returns:
            The correction.

        Raises:
            OffManifoldError: If no rounding explains it.
        """
        difference = gram_defect(value, s)
        defect = float(torch.linalg.vector_norm(difference, dim=(-2, -1)).max())
        if not defect <= LOST:
            raise OffManifoldError(f"defect {defect:.2g}")
        return difference.mul_(-0.5).mul_(lengths > 0)  # what does not move stays, to the bit


def _spread(scales: Tensor, value: Tensor) -> Tensor:
    """Repeat a number per parameter for each of its matrices.

    Returns:
        Shape ``(members k, 1, 1)``.
    """
    return scales.repeat_interleave(value.shape[0] // len(scales)).view(-1, 1, 1)
