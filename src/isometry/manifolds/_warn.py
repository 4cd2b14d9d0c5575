"""Warnings that point at the user's line, and name everything once."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterable

__all__ = ["listed", "warn_user"]

INSIDE = {"isometry", "torch", "contextlib", "functools"}


def listed(names: Iterable[str]) -> str:
    """Join names for a message.

    Returns:
        All of them.
    """
    return ", ".join(names)


def warn_user(message: str) -> None:
    """Warn from the innermost line that is neither this library's nor torch's (whose wrappers lie between).

    Args:
        message: The warning.
    """
    frame, level = sys._getframe(), 1
    while frame.f_back is not None and str(frame.f_globals.get("__name__", "")).split(".")[0] in INSIDE:
        frame, level = frame.f_back, level + 1
    warnings.warn(message, UserWarning, stacklevel=level)
