"""Progress of long computations, shown by whoever listens.

Library code calls ``progress("Fisher spectrum", done, total)``; without a listener that costs one lookup. The command
line listens with ``reporting(reporter)`` and draws a bar once something has lasted longer than two seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

__all__ = ["Reporter", "progress", "reporting"]

Reporter = Callable[[str, int, int], None]  # (what, done, total)

_reporter: ContextVar[Reporter | None] = ContextVar("isometry_progress", default=None)


def progress(what: str, done: int, total: int) -> None:
    """Tell the listener, if there is one, how far a computation has come.

    Args:
        what: A short name of the computation; the same for all its steps.
        done: Steps done.
        total: Steps in all.
    """
    reporter = _reporter.get()
    if reporter is not None:
        reporter(what, done, total)


@contextmanager
def reporting(reporter: Reporter) -> Iterator[None]:
    """Send the progress of everything inside the block to a listener.

    Yields:
        Nothing.
    """
    token = _reporter.set(reporter)
    try:
        yield
    finally:
        _reporter.reset(token)
