"""Byte budgets: dense routines say beforehand what they need, and refuse where it does not fit."""

from __future__ import annotations

__all__ = ["DEFAULT_BUDGET", "MemoryBudgetError", "allowed_bytes", "check_budget", "format_bytes"]

DEFAULT_BUDGET = 4 * 1024**3  # bytes; what a laptop can spare


class MemoryBudgetError(MemoryError):
    """A dense computation would need more memory than its budget allows."""


def format_bytes(count: int) -> str:
    """Write a number of bytes with a binary unit, as in ``"1.5 GiB"``.

    Returns:
        The number with one decimal and its unit.
    """
    size = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024 or unit == "GiB":
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} GiB"  # pragma: no cover - the loop always returns


def allowed_bytes(budget: int | None) -> int:
    """Insist on a budget that is a number of bytes.

    Args:
        budget: Bytes; None stands for ``DEFAULT_BUDGET``.

    Returns:
        The bytes allowed.

    Raises:
        TypeError: If the budget is no number.
        ValueError: If it is negative.
    """
    if budget is None:
        return DEFAULT_BUDGET
    if isinstance(budget, bool) or not isinstance(budget, int | float):
        raise TypeError(f"budget must be a number of bytes, as 2 * 1024**3, or None, got {budget!r}.")
    if not budget >= 0:
        raise ValueError(f"budget must be a number of bytes >= 0, got {budget}.")
    return budget


def check_budget(needed: int, budget: int | None, *, what: str, instead: str) -> int:
    """Refuse a computation that needs more than its budget.

    Args:
        needed: Bytes that the computation will hold at its peak.
        budget: Bytes allowed; None stands for ``DEFAULT_BUDGET``.
        what: What would be computed, as the subject of the sentence.
        instead: What to do instead, as an imperative sentence.

    Returns:
        ``needed``, so that it can go into the result's cost.

    Raises:
        MemoryBudgetError: If ``needed`` exceeds the budget.
        TypeError: If the budget is no number.
        ValueError: If it is negative.
    """
    allowed = allowed_bytes(budget)
    if needed > allowed:
        raise MemoryBudgetError(
            f"{what} needs {format_bytes(needed)}, over the budget of {format_bytes(allowed)}. {instead} "
            "or pass a larger budget=."
        )
    return needed
