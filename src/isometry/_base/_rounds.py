"""What follows from a round, in which every process has said in a line what it is about to do.

All processes see the same lines, so each knows what the others conclude: those that wait for nothing more raise, and
nobody waits for them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, cast

__all__ = ["BegunAgainError", "Line", "PeerError", "settle"]

Kind = Literal["does", "failed", "again", "left", "done"]


class PeerError(ConnectionError):
    """Another process failed, left or does something else; the message says which one, and what it said."""


class BegunAgainError(Exception):
    """Another process has begun its sweep again, so that this one must too."""


@dataclass(frozen=True)
class Line:
    """What a process says.

    Attributes:
        kind: "does" what the words say; "failed" in a measurement, but is still there; begins an attempt "again";
            "left" the block with an error; is "done" with the block.
        words: What it does, or its error.
    """

    kind: Kind
    words: str = ""

    def __str__(self) -> str:
        return f"{self.kind}\n{self.words}"

    @staticmethod
    def read(text: str) -> Line:
        """Take a line apart.

        Args:
            text: From ``str``.

        Returns:
            The line.
        """
        kind, _, words = text.partition("\n")
        return Line(cast("Kind", kind), words)


def settle(rank: int, lines: Sequence[Line]) -> bool:
    """Draw the conclusions of one process.

    Args:
        rank: Which process.
        lines: Those of all.

    Returns:
        Whether somebody has left, so that there will be no more rounds.

    Raises:
        PeerError: If this process cannot go on with what it is about to do.
        BegunAgainError: If it must begin again.
    """
    own, size = lines[rank], len(lines)
    if own.kind == "left" or all(line.kind == "done" for line in lines):
        return True
    for kind in ("left", "failed"):
        other = _first(lines, kind)
        if other is not None:
            if own.kind != "failed":
                raise PeerError(f"process {other} of {size} failed: {lines[other].words}")
            return any(line.kind in ("left", "done") for line in lines)
    done = _first(lines, "done")
    if done is not None:
        other = next(i for i, line in enumerate(lines) if line.kind != "done")
        at = lines[other].words or "it began again"
        raise PeerError(
            f"process {done} of {size} has left the block while process {other} goes on ({at}); call the same "
            "measurements on every process."
        )
    if _first(lines, "again") is not None:
        if own.kind != "again":
            raise BegunAgainError(
                "another process had to run the model once more where this one had finished: the model does not do the "
                "same on every share of the batch; measure it in one process."
            )
        return False
    other = next((i for i, line in enumerate(lines) if line != lines[0]), None)
    if other is not None:
        raise PeerError(
            f"the processes differ: process 0 is at {lines[0].words!r}, process {other} at {lines[other].words!r}. "
            "Give every process the same model, batch and arguments, and call the same measurements in the same order."
        )
    return False


def _first(lines: Sequence[Line], kind: str) -> int | None:
    return next((i for i, line in enumerate(lines) if line.kind == kind), None)
