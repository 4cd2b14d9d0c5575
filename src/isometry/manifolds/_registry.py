"""The registry that finds a constraint by the parameter: by identity, since parameters are replaced and not renamed."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from typing import TYPE_CHECKING

from torch import Tensor

if TYPE_CHECKING:
    from isometry.manifolds._constraint import Constraint

__all__ = ["constraint_of", "register", "registered", "revision", "unregister"]


class _Registry:
    """All living records; a record lives as long as the module that it hangs in."""

    def __init__(self) -> None:
        self.records: weakref.WeakSet[Constraint] = weakref.WeakSet()
        self.by_id: dict[int, weakref.ref[Constraint]] = {}
        self.revision = 0  # grows with every change, so that others can tell whether to look again


_REGISTRY = _Registry()


def register(constraint: Constraint) -> None:
    """Let ``constraint_of`` find a record."""
    _REGISTRY.records.add(constraint)
    _REGISTRY.revision += 1


def unregister(constraint: Constraint) -> None:
    """Let ``constraint_of`` forget a record."""
    _REGISTRY.records.discard(constraint)
    _REGISTRY.revision += 1


def revision() -> int:
    """Count the records made and taken off so far.

    Returns:
        A number that grows whenever a parameter may have become constrained or free.
    """
    return _REGISTRY.revision


def registered() -> Iterator[Constraint]:
    """Go through all living records, of whatever model.

    Yields:
        The records, in no particular order.
    """
    yield from list(_REGISTRY.records)


def constraint_of(parameter: Tensor) -> Constraint | None:
    """Find the constraint that a parameter is under.

    Args:
        parameter: A parameter as the model has it now (sharded or not).

    Returns:
        Its record; None for an ordinary parameter.
    """
    known = _REGISTRY.by_id.get(id(parameter))
    constraint = known() if known is not None else None
    if constraint is not None and constraint in _REGISTRY.records and constraint.find() is parameter:
        return constraint
    # Identities change when parameters are replaced, so what was remembered may be of another time.
    _REGISTRY.by_id = {id(found): weakref.ref(c) for c in registered() if (found := c.find()) is not None}
    known = _REGISTRY.by_id.get(id(parameter))
    return known() if known is not None else None
