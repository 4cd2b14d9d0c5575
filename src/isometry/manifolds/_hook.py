"""A warning for optimizers that would move a constrained weight off its manifold."""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_pre_hook

from isometry.manifolds._registry import constraint_of, revision
from isometry.manifolds._warn import warn_user

__all__ = ["watch_optimizers"]

_SEEN: weakref.WeakKeyDictionary[Optimizer, tuple[int, int]] = weakref.WeakKeyDictionary()
_WARNED: weakref.WeakSet[Optimizer] = weakref.WeakSet()
_installed: list[Any] = []


def watch_optimizers() -> None:
    """Look, once per optimizer of any kind, whether it is about to step a constrained weight."""
    if not _installed:
        _installed.append(register_optimizer_step_pre_hook(_before_step))


@torch.compiler.disable  # type: ignore[untyped-decorator]
def _before_step(optimizer: Optimizer, _args: Any, _kwargs: Any) -> None:
    # Looked at again only where a weight was constrained, or a group added, since the last time.
    state = (revision(), len(optimizer.param_groups))
    if _SEEN.get(optimizer) == state:
        return
    _SEEN[optimizer] = state
    if getattr(optimizer, "manifold_aware", False) or optimizer in _WARNED:
        return
    found = [c.label for group in optimizer.param_groups for p in group["params"] if (c := constraint_of(p))]
    if found:
        _WARNED.add(optimizer)
        shown = ", ".join(found[:3]) + (", ..." if len(found) > 3 else "")
        warn_user(
            f"{type(optimizer).__name__} steps {len(found)} constrained parameter{'s' if len(found) > 1 else ''} "
            f"({shown}) as if they were free, so they leave their manifold. Use isometry.optim.RiemannianSGD or "
            "RiemannianAdam, or call isometry.manifolds.release(model) if that is meant."
        )
