"""Where a training stopped being finite: the first step at which it was seen, and the first layer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["Health", "Sighting", "as_number"]

WAITING = 32  # losses on an accelerator that wait for one look at all of them: each look alone would stop the device


@dataclass(frozen=True)
class Sighting:
    """The first thing that was not finite.

    Attributes:
        step: After how many steps it was seen.
        where: The first layer, in the order of the model, with a parameter that is not finite; "" if none has, or all
            have: a step on a gradient that is not finite spoils every parameter at once.
        words: What was seen, as one sentence without its end.
    """

    step: int
    where: str
    words: str


@dataclass
class Health:
    """Looks at losses and parameters; the model is only read.

    A loss is looked at in every step. The parameters are looked at when the probe says so: one pass over them, which
    is little beside a training step and still not nothing.

    Attributes:
        model: The model.
        found: Whether something was found before; it is told once.
    """

    model: nn.Module
    found: bool = False
    _waiting: list[tuple[int, Tensor]] = field(default_factory=list)
    _kept: list[Tensor] | None = None

    def look(self, step: int, loss: Any, *, parameters: bool, now: bool) -> Sighting | None:
        """Look for the first loss or parameter that is not finite.

        Args:
            step: Steps so far.
            loss: The step's loss, a number or a tensor, or None.
            parameters: Look at the parameters, too.
            now: Look at losses that wait on an accelerator.

        Returns:
            What was seen; None if nothing, or if something was seen before.
        """
        if self.found:
            return None
        bad = self._bad_loss(step, loss, now=now or parameters)
        if bad is not None:
            names = self.nonfinite()
            return self._tell(bad[0], names, f"the loss was {bad[1]}")
        if parameters and (names := self.nonfinite()):
            return self._tell(step, names, "")
        return None

    def nonfinite(self) -> list[str]:
        """List the parameters that hold NaN or infinity.

        Returns:
            Their names, in the order of the model.
        """
        if not self._parameters():
            return []
        with torch.no_grad():
            # A norm is finite only if all entries are; one that overflows is looked at again, entry by entry.
            norms: Sequence[Any] = torch._foreach_norm(self._parameters(), 2)
            if norms[0].device.type != "cpu":
                norms = torch.stack([n.float() for n in norms]).tolist()
            if all(math.isfinite(float(n)) for n in norms):
                return []
        return [n for n, p in self.model.named_parameters() if p.is_floating_point() and not bool(p.isfinite().all())]

    def _parameters(self) -> list[Tensor]:
        if self._kept is None:  # walking through the modules takes longer than the look itself
            self._kept = [p.detach() for p in self.model.parameters() if p.is_floating_point() and p.numel()]
        return self._kept

    def forget(self) -> None:
        """Look the parameters up anew: the training may have put others in their place."""
        self._kept = None

    def _bad_loss(self, step: int, loss: Any, *, now: bool) -> tuple[int, float] | None:
        if isinstance(loss, Tensor) and loss.device.type != "cpu":
            self._waiting.append((step, loss.detach().reshape(()).float()))
        elif loss is not None:
            value = as_number(loss)
            return None if math.isfinite(value) else (step, value)
        if not self._waiting or not (now or len(self._waiting) >= WAITING):
            return None
        steps = [s for s, _ in self._waiting]
        values = torch.stack([v for _, v in self._waiting]).tolist()
        self._waiting.clear()
        return next(((s, v) for s, v in zip(steps, values, strict=True) if not math.isfinite(v)), None)

    def _tell(self, step: int, names: list[str], lead: str) -> Sighting:
        self.found = True
        self._waiting.clear()
        total = sum(1 for p in self.model.parameters() if p.is_floating_point())
        parts = [lead] if lead else []
        if not names:
            parts.append("all parameters are finite")
        elif len(names) == total > 1:
            parts.append(f"all {total} parameters hold NaN or infinity, so that where it began can no longer be told")
        else:
            parts.append(f"{len(names)} of {total} parameters hold NaN or infinity, the first is {names[0]!r}")
        slopes = [(n, p.grad) for n, p in self.model.named_parameters() if p.grad is not None]
        gradients = [n for n, g in slopes if not bool((g.coalesce().values() if g.is_sparse else g).isfinite().all())]
        if gradients:  # a backward pass comes from the output, so that the last one met NaN first
            parts.append(f"gradients are not finite from {gradients[-1]!r} down to {gradients[0]!r}")
        told = names and (len(names) < total or total == 1)
        return Sighting(step, names[0].rpartition(".")[0] or names[0] if told else "", "; ".join(parts))


def as_number(loss: Any) -> float:
    """Read a loss.

    Returns:
        The number.

    Raises:
        TypeError: If it is none.
    """
    try:
        return float(loss.detach() if isinstance(loss, Tensor) else loss)
    except (TypeError, ValueError, RuntimeError) as error:
        what = f"a tensor of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
        raise TypeError(f"loss must be one number, got {what}; pass the batch's mean loss.") from error
