"""Functions of torch that are gone round inside a block, by the thread that is in it and by no other."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["Detour"]


class Detour:
    """Stands in for a function while some thread is inside the block; other threads find the function as it was.

    Args:
        owner: The module or class that holds the function.
        name: Its name there.
        instead: Called with the function itself in front of its arguments.
    """

    def __init__(self, owner: Any, name: str, instead: Callable[..., Any]) -> None:
        self._owner, self._name, self._instead = owner, name, instead
        self._lock, self._blocks = threading.Lock(), 0  # blocks that are open now, in all threads
        self._here = threading.local()

    @contextmanager
    def taken(self) -> Iterator[None]:
        """Take the detour inside the block.

        Yields:
            Nothing.
        """
        with self._lock:
            if not self._blocks:
                self._install()
            self._blocks += 1
        self._here.depth = getattr(self._here, "depth", 0) + 1
        try:
            yield
        finally:
            self._here.depth -= 1
            with self._lock:
                self._blocks -= 1
                if not self._blocks:
                    self._remove()

    def _install(self) -> None:
        own, instead, here = getattr(self._owner, self._name), self._instead, self._here
        self._inherited, self._own = self._name not in vars(self._owner), own

        def detour(*args: Any, **kwargs: Any) -> Any:
            return instead(own, *args, **kwargs) if getattr(here, "depth", 0) else own(*args, **kwargs)

        setattr(self._owner, self._name, staticmethod(detour) if isinstance(self._owner, type) else detour)

    def _remove(self) -> None:
        if self._inherited:
            delattr(self._owner, self._name)
        else:
            setattr(self._owner, self._name, self._own)
