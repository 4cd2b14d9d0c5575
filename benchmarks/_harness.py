"""What the benchmarks share: timing against a peer in the same run, peak memory, the machine, and JSON.

A single timing on a shared machine means little. So the competitors take turns, and what is reported first is the
median over the rounds of the ratio within a round; load that comes and goes hits both sides of a ratio. The processor
time of the process stands beside the wall clock: with one thread it hardly notices other processes at all.
"""

from __future__ import annotations

import datetime
import gc
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Timing:
    """Seconds of each competitor in each round, by the wall clock and of processor time (all threads)."""

    seconds: Mapping[str, tuple[float, ...]]
    cpu_seconds: Mapping[str, tuple[float, ...]]

    def median(self, name: str) -> float:
        """Median seconds of one competitor."""
        return statistics.median(self.seconds[name])

    def ratio(self, name: str, reference: str) -> float:
        """Median over the rounds of name's time divided by the reference's in the same round."""
        return _ratio(self.seconds[name], self.seconds[reference])

    def cpu_ratio(self, name: str, reference: str) -> float:
        """The same of processor time."""
        return _ratio(self.cpu_seconds[name], self.cpu_seconds[reference])

    def report(self, reference: str) -> dict[str, dict[str, float]]:
        """Median and best seconds of every competitor, and its ratio to the reference."""
        return {
            name: {
                "median_s": round(self.median(name), 6),
                "best_s": round(min(runs), 6),
                f"ratio_to_{reference}": round(self.ratio(name, reference), 3),
                f"cpu_ratio_to_{reference}": round(self.cpu_ratio(name, reference), 3),
            }
            for name, runs in self.seconds.items()
        }


def interleave(cases: Mapping[str, Callable[[], Any]], *, rounds: int = 7, warmup: int = 1) -> Timing:
    """Let the competitors take turns; every other round they go in reverse order."""
    for _ in range(warmup):
        for run in cases.values():
            run()
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    cpu_seconds: dict[str, list[float]] = {name: [] for name in cases}
    for index in range(rounds):
        order = list(cases) if index % 2 == 0 else list(reversed(cases))
        for name in order:
            gc.collect()
            _synchronize()
            started, worked = time.perf_counter(), time.process_time()
            cases[name]()
            _synchronize()
            cpu_seconds[name].append(time.process_time() - worked)
            seconds[name].append(time.perf_counter() - started)
    return Timing(
        {name: tuple(runs) for name, runs in seconds.items()},
        {name: tuple(runs) for name, runs in cpu_seconds.items()},
    )


class PeakTally(TorchDispatchMode):
    """Count the bytes of tensors alive that torch operations inside the block have made.

    It sees every tensor that an operation returns, on any device, and none of the scratch memory inside one operation
    (LAPACK workspaces); ``peak_rss`` sees that as well.
    """

    def __init__(self) -> None:
        super().__init__()
        self.peak = 0
        self._alive: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        inputs = {t.untyped_storage()._cdata for t in tree_iter((args, kwargs)) if isinstance(t, torch.Tensor)}
        for tensor in tree_iter(out):
            if isinstance(tensor, torch.Tensor) and tensor.untyped_storage()._cdata not in inputs:
                storage = tensor.untyped_storage()
                self._alive[storage._cdata] = (StorageWeakRef(storage), storage.nbytes())
        self._alive = {key: entry for key, entry in self._alive.items() if not entry[0].expired()}
        self.peak = max(self.peak, sum(size for _, size in self._alive.values()))
        return out


def peak_tensor_bytes(run: Callable[[], Any]) -> int:
    """Largest number of bytes of tensors alive at once that ``run`` made."""
    with PeakTally() as tally:
        run()
    return tally.peak


_MEASURED = """
import json, pathlib, resource, runpy, sys, torch
names = runpy.run_path(sys.argv[1], run_name="_measured")
torch.set_num_threads(int(sys.argv[4]))
torch.ones(64, 64) @ torch.ones(64, 64)

def high_water():
    try:
        status = pathlib.Path("/proc/self/status").read_text()
        return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)

try:  # forget the imports' own peak
    pathlib.Path("/proc/self/clear_refs").write_text("5")
except OSError:
    pass
before = high_water()
names[sys.argv[2]](*json.loads(sys.argv[3]))
print(high_water() - before)
"""


def peak_rss(script: str | Path, function: str, *arguments: Any, timeout: float = 600) -> int:
    """Run ``function(*arguments)`` of a script in a fresh process; bytes of resident memory above the start.

    The start is taken after the script's imports and a first small product (which loads the BLAS). Where the system
    cannot forget the imports' own peak (anything but Linux), what needs less than that peak reads as 0.
    """
    command = [
        sys.executable,
        "-c",
        _MEASURED,
        str(script),
        function,
        json.dumps(arguments),
        str(torch.get_num_threads()),
    ]
    path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=timeout, env={**os.environ, "PYTHONPATH": path}, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{script}:{function} failed in its own process:\n{done.stderr}")
    return int(done.stdout.split()[-1])


def matmul_rate(size: int = 1024, dtype: torch.dtype = torch.float32, rounds: int = 7) -> float:
    """Floating-point operations per second of a square matrix product, now, on this machine."""
    a = torch.randn(size, size, dtype=dtype)
    timing = interleave({"product": lambda: a @ a}, rounds=rounds)
    return 2 * size**3 / min(timing.seconds["product"])


def machine() -> dict[str, Any]:
    """Describe the machine and the versions that the figures belong to."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_gib": round(_memory() / 2**30, 1),
        "load_1min_at_start": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "mkl": torch.backends.mkl.is_available(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def write(name: str, body: Mapping[str, Any]) -> Path:
    """Write a benchmark's results, with the machine's description, to ``results/<name>.json``."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    content = {"benchmark": name, "date": now, "machine": machine(), **body}
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return path


def _ratio(mine: tuple[float, ...], theirs: tuple[float, ...]) -> float:
    # A run below the clock's resolution counts as one tick.
    return statistics.median(max(a, 1e-9) / max(b, 1e-9) for a, b in zip(mine, theirs, strict=True))


def _synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or "unknown"


def _memory() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return 0
