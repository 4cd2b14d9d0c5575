"""The probe in a run: started, asked at the ends of epochs, its measurements taken into the run's history."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from isometry._base import load_callable
from isometry.training._probe import Probe
from isometry.training.compare._events import Job, Measured
from isometry.training.compare._samples import Samples

__all__ = ["make_probe", "take_over", "watched"]

NO_CAP = 1e9  # the seconds of the probe over those of the training


def make_probe(model: nn.Module, samples: Samples, job: Job) -> Probe:
    """Make a run's probe of the first training samples.

    Args:
        model: The model.
        samples: The data.
        job: The run, with what to measure.

    Returns:
        The probe, not yet started.
    """
    assert job.probe is not None  # noqa: S101 - the caller has looked
    measures = {
        (name.rpartition(":")[2] if ":" in name else name): load_callable(name) if ":" in name else True
        for name in job.probe["measures"]
    }
    count = job.probe["samples"]
    x, y = samples.train[0][:count], samples.train[1][:count]
    # It is asked at the ends of epochs alone, and without a cap: what is measured must not depend on the clock.
    return Probe(model, x, y, measures=measures, every=1, max_overhead=NO_CAP, samples=count, seed=job.options["seed"])


@contextmanager
def watched(probe: Probe | None) -> Iterator[None]:
    """Let the probe run inside the block; what it warns of stands in its records."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if probe is not None and not probe.running:
            probe.start()
        yield


def take_over(probe: Probe | None, steps: int, history: dict[str, Any]) -> None:
    """Put what the probe has measured, and what it has to say, into a run's history."""
    if probe is None:
        return
    rows = [row for row in probe.rows() if row["measure"] not in ("training", "skipped")]  # of time, not of the model
    history["probe"] = [
        Measured(row["step"] // steps, row["step"], row["measure"], row["quantity"], row["value"])
        for row in rows
        if row["quantity"] is not None
    ]
    said = [f"probe, {row['measure']}: {row['note']}" for row in rows if row["quantity"] is None]
    history["notes"] = list(dict.fromkeys([*history["notes"], *said]))
