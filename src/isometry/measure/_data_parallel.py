"""Several processes that measure together: the block inside which they do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from isometry._base import sharing

__all__ = ["data_parallel"]


@contextmanager
def data_parallel(group: Any = None) -> Iterator[None]:
    """Divide every measurement inside the block among the processes of a group.

    Every process is given the same model and the same whole batch and calls the same measurements; each takes its
    contiguous share of the samples, and all get the same result: that of one process, up to rounding. ``fisher``,
    ``ntk``, ``gradient_confusion``, ``gradient_gram``, ``curvature`` and what is asked of their results share the work.
    Anything else is computed by each process for itself, and so is a batch with less samples than there are processes
    or whose samples cannot be told apart (a whole graph, batch statistics). Outside of such a block nothing is ever
    exchanged, in a program that trains with several processes neither.

    For the Gram matrices behind the first four a process runs the model on its samples, and multiplies its share of
    each layer's units: activations, cotangents and work are divided, the matrix itself and one layer's inputs at a time
    are whole on each. For the curvature the products of the shares are added up.

    If a measurement fails on one process all of them raise, and so do they if they are about to do different things, or
    on different data. A process that is killed ends the others as soon as the backend notices; one that hangs ends them
    after the group's timeout.

    Args:
        group: A process group of ``torch.distributed``; None takes the default one, or this process alone where it was
            started alone. Tested with Gloo; NCCL is given the same calls, with tensors that stay on the GPU.

    Yields:
        Nothing.

    Raises:
        ValueError: If there is a block around, or the process was started as one of several and there is no group.
        PeerError: A ConnectionError, if another process fails, leaves or does something else.

    Example:
        >>> import torch
        >>> with data_parallel():  # alone: nothing changes
        ...     torch.ones(1).item()
        1.0
    """
    with sharing(group):
        yield
