"""The block inside which processes work together, and the team that a computation finds there."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from isometry._base._collectives import Group
from isometry._base._team import Team

__all__ = ["ALONE", "current_team", "sharing", "team_for", "together"]

ALONE = Team()
_current: ContextVar[Team] = ContextVar("isometry_team", default=ALONE)


def current_team() -> Team:
    """Give the processes that this one works with.

    Returns:
        Those of the ``sharing`` block around; ``ALONE`` outside of any.
    """
    return _current.get()


def team_for(count: int) -> Team:
    """Give the processes that a batch is divided among.

    Args:
        count: How many samples it has; a batch with less samples than processes is computed by each of them, whole.

    Returns:
        The team.
    """
    team = current_team()
    return team if count >= team.size else ALONE


@contextmanager
def together(what: str) -> Iterator[Team]:
    """Do something on all processes of the block around, and tell the others if it fails here.

    Args:
        what: Its name.

    Yields:
        The team.
    """
    team = current_team()
    team.agree(what)
    try:
        yield team
    except Exception as error:
        team.announce(error)
        raise


@contextmanager
def sharing(group: Group | None = None) -> Iterator[Team]:
    """Work together with the other processes of a group inside the block.

    Args:
        group: The group; None takes torch's default one, or this process alone where it was started alone.

    Yields:
        The team.

    Raises:
        ValueError: If there is a block around, or no group where there should be one.
    """  # noqa: DOC501 - what is raised again is the block's own
    if current_team() is not ALONE:
        raise ValueError("blocks in which processes share a measurement cannot be nested; leave the outer one first.")
    team = Team(_resolved(group))
    token = _current.set(team)
    try:
        yield team
    except (Exception, SystemExit) as error:  # Ctrl-C goes to all processes: none may wait for the others then
        team.announce(error, "left")
        raise
    else:
        team.leave()
    finally:
        _current.reset(token)
        team.release()


def _resolved(group: Group | None) -> Group | None:
    import torch.distributed as dist

    if group is not None:
        if dist.get_rank(group) < 0:
            raise ValueError("group does not contain this process; call this on its members only.")
        return group
    if dist.is_available() and dist.is_initialized():
        return dist.group.WORLD
    started = int(os.environ.get("WORLD_SIZE", "1"))
    if started > 1:
        raise ValueError(
            f"this process was started as one of {started}, but there is no process group; call "
            'torch.distributed.init_process_group("gloo") first.'
        )
    return None
