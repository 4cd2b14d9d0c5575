"""A bar for whatever lasts longer than two seconds, on a terminal only."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID

__all__ = ["DELAY", "progress_bar"]

DELAY = 2.0  # seconds


class _Bar:
    """Draws nothing before the delay is over; then one line for each computation that reports."""

    def __init__(self, what: str, console: Console, delay: float) -> None:
        self.console = console
        self.what = what
        self.lock = threading.Lock()
        self.progress: Progress | None = None
        self.tasks: dict[str, TaskID] = {}
        self.latest: dict[str, tuple[int, int]] = {}
        self.timer = threading.Timer(delay, self._appear)
        self.timer.daemon = True
        self.timer.start()

    def __call__(self, what: str, done: int, total: int) -> None:
        with self.lock:
            self.latest[what] = (done, total)
            self._draw(what)

    def _appear(self) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

        with self.lock:
            self.progress = Progress(
                SpinnerColumn(),
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                console=self.console,
                transient=True,
                redirect_stdout=False,
                redirect_stderr=False,
            )
            self.tasks[self.what] = self.progress.add_task(self.what, total=None)
            for what, (done, total) in self.latest.items():
                if done < total:
                    self._draw(what)
            self.progress.start()

    def _draw(self, what: str) -> None:
        if self.progress is None:
            return
        done, total = self.latest[what]
        if what not in self.tasks:
            self.tasks[what] = self.progress.add_task(what, total=total)
        self.progress.update(self.tasks[what], completed=done, total=total, visible=done < total or what == self.what)

    def close(self) -> None:
        self.timer.cancel()
        with self.lock:
            if self.progress is not None:
                self.progress.stop()


@contextmanager
def progress_bar(what: str, *, console: Console | None = None, delay: float = DELAY) -> Iterator[None]:
    """Show the progress of everything inside the block, on standard error and only if that is a terminal.

    Args:
        what: Name of the whole, shown with a spinner.
        console: Where to draw; standard error by default.
        delay: Seconds to wait before anything is drawn.

    Yields:
        Nothing.
    """
    from isometry._base import reporting

    if console is None:
        if not sys.stderr.isatty():
            yield
            return
        from rich.console import Console

        console = Console(stderr=True)
    bar = _Bar(what, console, delay)
    try:
        with reporting(bar):
            yield
    finally:
        bar.close()
