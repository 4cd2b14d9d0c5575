"""What the Riemannian optimizers share: constrained and ordinary parameters in one object."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

from torch import Tensor

from isometry.manifolds import constraint_of
from isometry.manifolds._constraint import revision
from isometry.manifolds._warn import listed, warn_user
from isometry.optim._base import Optimizer, check_choice, check_number, check_switch
from isometry.optim._batch import Batch
from isometry.optim._constrained import geometry_for
from isometry.optim._rule import Rule

__all__ = ["Riemannian"]

RETRACTIONS = ("auto", "polar", "qr", "cayley", "newton-schulz")


class Riemannian(Optimizer):
    """An optimizer that moves constrained weights along their manifolds, and the others entry by entry."""

    manifold_aware: ClassVar[bool] = True
    _held: Sequence[tuple[int, int]] = ()

    @abstractmethod
    def _ordinary(self, options: dict[str, Any]) -> Rule:
        """Give the rule of ordinary parameters."""

    @abstractmethod
    def _constrained(self, options: dict[str, Any], **common: Any) -> Rule:
        """Give the rule of constrained weights; ``common`` are the fields of ``Constrained``."""

    def _check_options(self, options: dict[str, Any]) -> None:
        check_number("lr", options["lr"])
        check_number("scale_lr", options["scale_lr"], optional=True)
        check_number("weight_decay", options["weight_decay"])
        check_switch("maximize", options["maximize"])
        check_choice("retraction", options["retraction"], RETRACTIONS)

    def _rule(self, parameter: Tensor, options: dict[str, Any]) -> tuple[Rule, Any]:
        constraint = constraint_of(parameter)
        if constraint is None:
            return self._ordinary(options), None
        geometry = geometry_for(constraint, options["retraction"])
        common = {
            "geometry": geometry,
            "manifold": constraint.manifold,
            "learned": constraint.scale_kind == "learned",
        }
        return self._constrained(options, **common), constraint

    def __getstate__(self) -> dict[str, Any]:
        # Constraints stay with the model. A copy remembers which parameters had one, to tell whether it came along.
        held = [
            (index, position)
            for index, group in enumerate(self.param_groups)
            for position, parameter in enumerate(group["params"])
            if constraint_of(parameter) is not None
        ]
        return {**super().__getstate__(), "_held": held}

    def _new_batches(self, first_alike: Sequence[int]) -> list[Batch]:
        held, self._held = self._held, ()
        # Those with a state are told of where that is dropped.
        gone = [
            self._name(index, position)
            for index, position in held
            if constraint_of(parameter := self.param_groups[index]["params"][position]) is None
            and parameter not in self.state
        ]
        if gone:
            one = len(gone) == 1
            warn_user(
                f"{listed(gone)} {'was' if one else 'were'} constrained before this optimizer was copied, and the "
                f"{'copy is' if one else 'copies are'} not: {'it moves' if one else 'they move'} freely, off the "
                "manifold; copy the model and the optimizer together (copy.deepcopy((model, optimizer)))."
            )
        return super()._new_batches(first_alike)

    def _ties(self) -> object:
        # Constraining moves the revision; releasing is seen by asking for each constraint again, which is cheap.
        members = [m for batch in self._batches or () for m in batch.members if m.tie is not None]
        return revision(), all(constraint_of(m.parameter) is m.tie for m in members)
