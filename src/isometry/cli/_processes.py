"""The command line as one of several processes that ``torchrun`` has started.

They share what can be shared; the first one prints and writes files. All end with the same exit code.
"""

from __future__ import annotations

import contextlib
import gc
import os
import sys
from collections.abc import Callable, Iterator

__all__ = ["as_one_of_many", "divided", "launched", "speaks"]


def launched() -> bool:
    """Tell whether ``torchrun`` started this process as one of several.

    Returns:
        Whether its environment says so.
    """
    return "RANK" in os.environ and int(os.environ.get("WORLD_SIZE", "1")) > 1


def speaks() -> bool:
    """Tell whether this process prints and writes files.

    Returns:
        False for all processes but the first.
    """
    return not launched() or os.environ["RANK"] == "0"


def as_one_of_many(command: Callable[[], None]) -> None:
    """Run a command line, together with the other processes if there are any.

    Args:
        command: What to run; it ends with ``SystemExit``.
    """
    if not launched():
        command()
        return
    with contextlib.ExitStack() as stack:
        if not speaks():
            nowhere = stack.enter_context(open(os.devnull, "w", encoding="utf-8"))
            stack.enter_context(contextlib.redirect_stdout(nowhere))
            if not os.environ.get("ISOMETRY_DEBUG"):
                stack.enter_context(contextlib.redirect_stderr(nowhere))
        code = _run(command)
    sys.exit(code)


def _run(command: Callable[[], None]) -> int:
    import torch
    import torch.distributed as dist

    with_gpus = torch.cuda.is_available() and dist.is_nccl_available()
    dist.init_process_group("cpu:gloo,cuda:nccl" if with_gpus else "gloo")
    try:
        try:
            command()
            own = 0
        except SystemExit as end:
            own = end.code if isinstance(end.code, int) else int(end.code is not None)
        for stream in (sys.stdout, sys.stderr):  # torchrun stops the others once one has ended with another code than 0
            stream.flush()
        worst = torch.tensor([own])
        with contextlib.suppress(RuntimeError):  # a process was killed: then each has its own code
            dist.all_reduce(worst, dist.ReduceOp.MAX)
        return int(worst)
    finally:
        gc.collect()  # tracebacks of errors may hold the group, which must not outlive its end
        dist.destroy_process_group()


@contextlib.contextmanager
def divided() -> Iterator[None]:
    """Divide the measurements inside the block among the processes; one process alone measures as ever.

    Yields:
        Nothing.
    """
    if not launched():
        yield
        return
    from isometry.measure import data_parallel

    with data_parallel():
        yield
