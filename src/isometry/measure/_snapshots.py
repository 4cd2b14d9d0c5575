"""States of a model, kept while it trains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from isometry.measure._guards import check_model

__all__ = ["Snapshot", "Snapshots"]

Snapshot = Mapping[str, Tensor]


class Snapshots(Sequence[Snapshot]):
    """States of a model in training, kept on the processor in the dtype that they have: for ``local_smoothness``.

    Args:
        model: The model.
        every: Keep one state in so many calls of ``step``, the first included.
        paired: Keep the state of the next call, too, so that states come in pairs that are one step apart.
        limit: Keep at most so many states, the latest.

    Example:
        >>> model = nn.Linear(2, 1)
        >>> kept = Snapshots(model, every=4, paired=True)
        >>> for _ in range(6):
        ...     kept.step()  # before or after optimizer.step()
        >>> len(kept), kept.bytes  # states 0, 1, 4, 5 of three numbers of four bytes
        (4, 48)
    """

    def __init__(self, model: nn.Module, *, every: int = 1, paired: bool = False, limit: int | None = None) -> None:
        for argument, value, least in (("every", every, 1), ("limit", limit, 2)):
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < least):
                raise ValueError(f"{argument} must be a whole number of at least {least}, got {value!r}.")
        if paired and every < 2:
            raise ValueError("paired snapshots need every= of at least 2; with every=1 each state has its next one.")
        if paired and limit is not None and limit % 2:
            raise ValueError(f"limit must be even for pairs, got {limit}.")
        self._model, self._every, self._limit, self.paired = check_model(model), every, limit, paired
        self._calls = 0
        self._states: list[Snapshot] = []

    def step(self) -> None:
        """Keep the model's state, if it is its turn."""
        turn = self._calls % self._every
        if turn == 0 or (self.paired and turn == 1):
            state = self._model.state_dict()
            self._states.append({name: t.detach().to("cpu", copy=True) for name, t in state.items()})
            if self._limit is not None and len(self._states) > self._limit:
                del self._states[: 2 if self.paired else 1]
        self._calls += 1

    @property
    def bytes(self) -> int:
        """What the kept states take."""
        return sum(t.numel() * t.element_size() for state in self._states for t in state.values())

    def __len__(self) -> int:
        return len(self._states)

    def __getitem__(self, index: Any) -> Any:
        return self._states[index]
