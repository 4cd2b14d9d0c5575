"""Processes that compute one result together: all have the same batch, each takes its share, all get the same numbers.

A process that waits for another one for ever is the worst that can happen. So nothing is exchanged outside a
``sharing`` block, and every exchange begins with a round: each process says in a line of text what it is about to do.
Where the lines differ, or one says that its process has failed or left, all of them raise instead of waiting.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from itertools import accumulate, pairwise
from typing import TypeVar

import torch
from torch import Tensor

from isometry._base import _collectives as collectives
from isometry._base._collectives import Group
from isometry._base._rounds import Kind, Line, PeerError, settle

__all__ = ["Team"]

_ROOM = 1024  # bytes of a line
T = TypeVar("T")


class Team:
    """The processes of a group; one process alone has no group, and its exchanges are identities.

    Args:
        group: A process group of torch's, or None.
    """

    def __init__(self, group: Group | None = None) -> None:
        self.group, self.rank, self.size = group, 0, 1
        if group is not None:
            self.rank, self.size = group.rank(), group.size()
        self._closed = False
        self._announced: BaseException | None = None

    def shares(self, count: int) -> list[int]:
        """Divide samples among the processes: contiguous shares, the first ones larger by one where need be.

        Args:
            count: How many samples there are.

        Returns:
            How many each process takes.
        """
        each, over = divmod(count, self.size)
        return [each + (rank < over) for rank in range(self.size)]

    def parts(self, count: int) -> list[slice]:
        """Say which samples each process takes.

        Args:
            count: How many samples there are.

        Returns:
            Slices, one for each process.
        """
        ends = [0, *accumulate(self.shares(count))]
        return [slice(start, stop) for start, stop in pairwise(ends)]

    # -- exchanges ---------------------------------------------------------------------------------------------------

    def agree(self, what: str) -> None:
        """Insist that all processes are about to do the same.

        Args:
            what: What this one is about to do, and with what.
        """
        if self.size > 1:
            self._round("does", what)

    def gather(self, own: Tensor, count: int, what: str) -> Tensor:
        """Put the shares of all processes together.

        Args:
            own: This process's share, samples first.
            count: How many samples there are in all.
            what: Its name.

        Returns:
            All samples, on every process.
        """
        return self._exchange(own, what, 1, lambda: collectives.gather_rows(own, self.shares(count), self.group))

    def regroup(self, own: Tensor, count: int, what: str) -> Tensor:
        """Exchange all units of some samples for some units of all samples.

        Args:
            own: Shape (V, this process's samples, ..., units).
            count: How many samples there are in all.
            what: Its name.

        Returns:
            Shape (V, count, ..., this process's units).
        """
        return self._exchange(own, what, 2, lambda: collectives.regroup(own, self.shares(count), self.rank, self.group))

    def total(self, own: Tensor, what: str) -> Tensor:
        """Add up, in place.

        Args:
            own: This process's summand.
            what: Its name.

        Returns:
            ``own``, the sum.
        """
        return self._exchange(own, what, 0, lambda: collectives.add_up(own, self.group))

    def first(self, own: Tensor, what: str) -> Tensor:
        """Take what the first process has: random draws, for example.

        Args:
            own: This process's.
            what: Its name.

        Returns:
            The first process's.
        """
        return self._exchange(own, what, 0, lambda: collectives.from_first(own, self.group))

    def seeded(self, generator: torch.Generator | None, device: torch.device) -> torch.Generator | None:
        """Let all processes draw the same random numbers: those that the first one would draw alone.

        Args:
            generator: The user's; it goes on from the first process's state. None stands for torch's global one.
            device: Where to draw if there is none.

        Returns:
            A generator; what was given if there is no other process.
        """
        if self.size == 1:
            return generator
        if generator is None:
            seed = self.first(torch.randint(0, 2**62, ()), "the seed of random numbers")
            return torch.Generator(device).manual_seed(int(seed))
        generator.set_state(self.first(generator.get_state(), "the state of the random numbers"))
        return generator

    def begin_again(self) -> None:
        """Tell the others that an attempt is begun again here, so that they do the same."""
        if self.size > 1:
            self._round("again")

    # -- rounds ------------------------------------------------------------------------------------------------------

    def announce(self, error: BaseException, kind: Kind = "failed") -> None:
        """Tell the others of an error, once.

        Args:
            error: The error, which the caller raises.
            kind: "failed" in a measurement, or "left" the block.
        """
        known = kind == "failed" and (error is self._announced or isinstance(error, PeerError))
        if self.size == 1 or self._closed or known:
            return
        self._announced = error
        words = str(error) if isinstance(error, PeerError) else f"{type(error).__name__}: {error}"
        with suppress(PeerError):  # the caller's error is the one to see
            self._round(kind, words)

    def leave(self) -> None:
        """Tell the others that this process is done, and hear the same of them."""
        if self.size > 1 and not self._closed:
            self._round("done")

    def release(self) -> None:
        """Let go of the group: an error's traceback may hold the team for longer than the group is there."""
        self.group, self._closed = None, True

    def _round(self, kind: Kind, words: str = "") -> None:
        if self._closed:
            raise PeerError(f"another process has left the block, which this one still needs ({words}); end it too.")
        own = str(Line(kind, words))
        texts = self._carry(lambda: collectives.texts(own, self.group, self.size, _ROOM))
        lines = [Line.read(text) for text in texts]
        self._closed = any(line.kind in ("left", "done") for line in lines)
        settle(self.rank, lines)

    def _exchange(self, own: Tensor, what: str, start: int, exchange: Callable[[], Tensor]) -> Tensor:
        if self.size == 1:
            return own
        shape = tuple(own.shape) if start != 2 else (own.shape[0], *own.shape[2:])
        self._round("does", f"{what}, {str(own.dtype).removeprefix('torch.')} {shape[1:] if start == 1 else shape}")
        return self._carry(exchange)

    def _carry(self, exchange: Callable[[], T]) -> T:
        try:
            return exchange()
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:  # the backend's: a process was killed, or has not answered in time
            self._closed = True
            said = str(error).strip().splitlines() or ["no message"]
            raise PeerError(f"the exchange with the other processes broke off: {said[0]}") from error
