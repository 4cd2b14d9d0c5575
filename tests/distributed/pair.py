"""Two processes of one group, started by a test: their results, or all that they said."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {
    **os.environ,
    "OMP_NUM_THREADS": "1",
    "PYTHONPATH": str(ROOT),
    "GLOO_SOCKET_IFNAME": "lo",
    "PYTHONFAULTHANDLER": "1",  # where a process was when a signal ended it
}


class CrashError(Exception):
    """A signal ended a process: nothing that Python code raised."""


def start(*words, cwd=ROOT, **environment):
    """Start ``python -m words``."""
    return subprocess.Popen(
        [sys.executable, "-m", *words],
        cwd=cwd,
        env=ENVIRONMENT | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def results(pair, folder):
    """Wait for both processes and load what they saved."""
    try:
        said = [process.communicate(timeout=120)[1] for process in pair]
    finally:
        for process in pair:
            process.kill()
    codes = [process.returncode for process in pair]
    if any(codes):
        story = "\n".join(
            f"--- process {rank} ended with {code}\n{words}"
            for rank, (code, words) in enumerate(zip(codes, said, strict=True))
        )
        raise CrashError(story) if min(codes) < 0 else AssertionError(story)
    return [torch.load(folder / str(rank)) for rank in range(2)]


def run(module, folder, **environment):
    """Run ``python -m module STORE OUT`` as rank 0 and rank 1.

    Once in hundreds of runs a process has died of a corrupted heap, in native code; valgrind finds none in what these
    jobs do. Such a pair is run a second time, and the crash is told as a warning with its stack; an error, and a second
    crash, are failures.
    """
    for attempt in ("first", "second"):
        place = folder / attempt
        place.mkdir()
        pair = [
            start(
                *(module, str(place / "store"), str(place / str(rank))),
                **environment,
                RANK=str(rank),
                WORLD_SIZE="2",
            )
            for rank in range(2)
        ]
        try:
            return results(pair, place)
        except CrashError as crash:
            story = str(crash)
        warnings.warn(f"a process of {module} was ended by a signal\n{story}", stacklevel=2)
    return pytest.fail(story, pytrace=False)
