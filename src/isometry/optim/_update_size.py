"""How large an update is, before the learning rate: what a rule states about itself, for ``explain``.

Two numbers tell: the spectral norm, by which the step can move the outputs of a unit input, and the root mean square of
the entries. Of an (out, in) update O with orthonormal rows or columns they are 1 and max(out, in)^(-1/2).
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["ADAMW_RMS", "UNBOUNDED", "UpdateSize", "adamw_size"]

# Measured in the training of language models (Liu et al. 2025, section 2.2: 0.2 to 0.4). It is
# ((1 - beta_1) / (1 + beta_1))^(1/2) = 0.23 for gradients that are noise, and 1 for gradients that never change.
ADAMW_RMS = 0.2


@dataclass(frozen=True)
class UpdateSize:
    """The size of an update whose step is minus the learning rate times it.

    Attributes:
        factor: What the method's raw update is multiplied by, through its ``scale``; None if there is no such factor.
        spectral_norm: Of one matrix; None where the method does not bound it.
        rms: Root mean square of the entries; None where the method does not bound it.
        holds: When these are its numbers.
    """

    factor: float | None = None
    spectral_norm: float | None = None
    rms: float | None = None
    holds: str = ""


UNBOUNDED = UpdateSize(holds="not bounded: as large as the gradient makes it")


def adamw_size() -> UpdateSize:
    """State the size of AdamW's update, which is an empirical number.

    Returns:
        Root mean square 0.2; the spectral norm depends on the gradients.
    """
    return UpdateSize(rms=ADAMW_RMS, holds="typical; 1 at the first step")
