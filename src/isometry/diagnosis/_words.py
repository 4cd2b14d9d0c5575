"""Amounts with their nouns, singular where there is one."""

from __future__ import annotations

__all__ = ["count", "several"]


def count(amount: int, noun: str, plural: str | None = None) -> str:
    """Write a whole amount with its noun.

    Returns:
        For example ``1 weight`` or ``1,000 weights``.

    Example:
        >>> count(1, "weight"), count(1000, "weight"), count(2, "batch", "batches")
        ('1 weight', '1,000 weights', '2 batches')
    """
    return f"{amount:,} {noun if amount == 1 else plural or noun + 's'}"


def several(amount: float, noun: str, digits: int = 3) -> str:
    """Write a measured amount with its noun; the number decides as it is printed.

    Returns:
        For example ``1 layer`` or ``0.91 layers``.

    Example:
        >>> several(0.9999, "layer"), several(0.91, "layer"), several(12345.6, "layer")
        ('1 layer', '0.91 layers', '1.23e+04 layers')
    """
    text = f"{amount:.{digits}g}"
    return f"{text} {noun if text == '1' else noun + 's'}"
