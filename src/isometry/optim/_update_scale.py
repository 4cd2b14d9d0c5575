"""By how much an orthogonalized update is multiplied, and what size it has then.

An update O with orthonormal rows or columns has the spectral norm 1 and entries of root mean square
1 / max(out, in)^(1/2). Libraries give these scales other names; ``convert_lr`` knows them.
"""

from __future__ import annotations

from typing import Literal, get_args

from isometry.optim._base import check_choice
from isometry.optim._update_size import UpdateSize

__all__ = ["Scale", "check_scale", "orthogonalized_size", "scale_factor"]

Scale = Literal["original", "spectral", "match_rms_adamw", "none"]


def scale_factor(scale: Scale, out: int, in_: int) -> float:
    """Give the factor on an orthogonalized update of an ``(out, in)`` matrix, which is its spectral norm.

    Args:
        scale: ``"original"`` max(1, out/in)^(1/2); ``"spectral"`` (out/in)^(1/2), the size at which the outputs of
            inputs of unit mean square move by about 1; ``"match_rms_adamw"`` 0.2 max(out, in)^(1/2), at which entries
            have the root mean square 0.2, as AdamW's have; ``"none"`` 1.
        out: Rows.
        in_: Columns (for kernels with the taps).

    Returns:
        The factor.

    Example:
        >>> [scale_factor(s, 16, 4) for s in ("original", "spectral", "match_rms_adamw", "none")]
        [2.0, 2.0, 0.8, 1.0]
    """
    factors: dict[str, float] = {
        "original": max(1.0, out / in_) ** 0.5,
        "spectral": (out / in_) ** 0.5,
        "match_rms_adamw": 0.2 * max(out, in_) ** 0.5,
        "none": 1.0,
    }
    return factors[scale]


def orthogonalized_size(scale: Scale, out: int, in_: int) -> UpdateSize:
    """State the size of a polar factor times the scale's factor.

    Args:
        scale: The scale, see ``scale_factor``.
        out: Rows.
        in_: Columns.

    Returns:
        Spectral norm c and root mean square c / max(out, in)^(1/2).

    Example:
        >>> size = orthogonalized_size("match_rms_adamw", 400, 100)
        >>> (size.spectral_norm, round(size.rms, 12))
        (4.0, 0.2)
    """
    factor = scale_factor(scale, out, in_)
    return UpdateSize(factor, factor, factor / max(out, in_) ** 0.5, "momentum of full rank")


def check_scale(scale: object) -> None:
    """Insist on a known scale."""
    check_choice("scale", scale, get_args(Scale))
