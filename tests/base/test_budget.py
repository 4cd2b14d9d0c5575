"""Byte budgets: the guard is seen to pass and to refuse, and says what to do instead."""

from __future__ import annotations

import pytest

from isometry._base import DEFAULT_BUDGET, MemoryBudgetError, check_budget, format_bytes


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1536, "1.5 KiB"),
        (5 * 1024**2, "5.0 MiB"),
        (2**40, "1024.0 GiB"),
    ],
)
def test_bytes_in_words(count, text):
    assert format_bytes(count) == text


def test_what_fits_is_returned():
    assert check_budget(100, 100, what="The Gram", instead="Use Lanczos") == 100
    assert check_budget(DEFAULT_BUDGET, None, what="The Gram", instead="Use Lanczos") == DEFAULT_BUDGET


@pytest.mark.parametrize(("needed", "budget"), [(101, 100), (DEFAULT_BUDGET + 1, None), (1, 0)])
def test_what_does_not_fit_is_refused(needed, budget):
    with pytest.raises(
        MemoryBudgetError, match=r"The Gram needs .*, over the budget of .*\. Use Lanczos or pass a larger"
    ):
        check_budget(needed, budget, what="The Gram", instead="Use Lanczos")


def test_it_is_a_memory_error():
    assert issubclass(MemoryBudgetError, MemoryError)


@pytest.mark.parametrize(("budget", "error"), [("1GB", TypeError), (True, TypeError), (-1, ValueError)])
def test_a_budget_is_a_number_of_bytes(budget, error):
    with pytest.raises(error, match="budget must be a"):
        check_budget(1, budget, what="A matrix", instead="Take a smaller one")
