"""One run: trained epoch by epoch, each of which can be the first after a kill.

Everything random of an epoch is drawn from streams of the run's seed and the epoch's number. An epoch therefore does
not depend on what was drawn before, and a run that goes on from a checkpoint is, to the bit, the run that was never
stopped, whatever worker it goes on in.
"""

from __future__ import annotations

import math
import random
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from isometry._base import in_user_code, preserved_rng, stream
from isometry.nn import resolve_model
from isometry.training._objective import objective
from isometry.training._probe import Probe
from isometry.training.compare._checkpoint import load_checkpoint, load_weights, save_checkpoint, save_weights
from isometry.training.compare._choices import apply_constraint, apply_init, make_optimizer
from isometry.training.compare._evaluate import hits, scores
from isometry.training.compare._events import Event, Job, Measured, Row
from isometry.training.compare._samples import Samples, load_samples
from isometry.training.compare._schedule import factor
from isometry.training.compare._watch import make_probe, take_over, watched

__all__ = ["build", "perform", "said"]

INIT_SAMPLES = 256  # of the training set, for initializations that look at data


def perform(job: Job) -> Iterator[Event]:
    """Do a job, telling what happens; an error of the run is its last event.

    Args:
        job: What to do.

    Yields:
        Events, the last of kind "end".

    Raises:
        KeyboardInterrupt: On Ctrl-C.
        GeneratorExit: When nobody asks for more.
    """
    try:
        yield from (_train(job) if job.task == "train" else _test(job))
    except (KeyboardInterrupt, GeneratorExit):
        raise
    except BaseException as error:  # noqa: BLE001 - whatever a run raises, SystemExit too, is its result; others go on
        yield Event("end", job.run, notes=(said(error),), status="failed")


def said(error: BaseException) -> str:
    """Put an error into one line: our own refusals as they are, others with their type and the user's line.

    Args:
        error: The error.

    Returns:
        The line.
    """
    text = str(error) or repr(error)
    frames = [f for f in traceback.extract_tb(error.__traceback__) if in_user_code(f.filename)]
    where = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
    ours = isinstance(error, ValueError | OSError | ImportError | NotImplementedError) and not frames
    return text if ours else f"{type(error).__name__}: {text}{where}"


def _train(job: Job) -> Iterator[Event]:
    options, folder = job.options, Path(job.folder)
    samples = _samples(job)
    model, note = build(options, samples)
    optimizer = make_optimizer(
        options["optimizer"]["name"],
        model,
        options["lr"],
        options["optimizer"]["options"],
        samples.train[0][:2].to(options["device"]),
    )
    rates = tuple(group["lr"] for group in optimizer.param_groups)
    probe = None if job.probe is None else make_probe(model, samples, job)
    history: dict[str, Any] = {"rows": [], "probe": [], "notes": [note] if note else []}
    steps = _steps(samples, options["batch_size"])
    before = load_checkpoint(folder, options["device"])
    epoch, diverged = 0, False
    if before is None:
        with watched(probe):
            history["rows"] += _evaluation(model, samples, 0)
    else:
        model.load_state_dict(before["model"])
        optimizer.load_state_dict(before["optimizer"])
        history, epoch, diverged = before["history"], before["epoch"], before["diverged"]
        if probe is not None:
            probe.load_state_dict(before["probe"])
        with watched(probe):
            pass
    take_over(probe, steps, history)
    yield _event(job, epoch, history, 0.0)
    while epoch < options["epochs"] and not diverged:
        epoch += 1
        started = time.perf_counter()
        rows, diverged, why = _epoch(model, optimizer, rates, samples, job, epoch)
        history["notes"] += [why] if why else []
        if not diverged and probe is not None and epoch % job.probe["every"] == 0:  # type: ignore[index]
            with watched(probe):
                probe.step(rows[0].value, step=epoch * steps)
        history["rows"] += rows
        take_over(probe, steps, history)
        if job.weights == "best" and _is_best(history["rows"], epoch):
            save_weights(folder, "best", model)
        save_checkpoint(folder, _state(model, optimizer, probe, history, epoch, diverged))
        yield _event(job, epoch, history, time.perf_counter() - started, only=epoch)
    if not diverged:
        save_weights(folder, "final", model)
    yield Event("end", job.run, epoch, status="diverged" if diverged else "finished")


def _test(job: Job) -> Iterator[Event]:
    samples = _samples(job)
    if samples.test is None:
        raise ValueError(f"data {job.options['data']['name']!r} have no test set.")
    model, _ = build(job.options, samples, draw=False)
    load_weights(Path(job.folder), job.weights, model)
    rows = scores(model, samples.test, samples.likelihood, job.options["epochs"], "test")
    yield Event("epoch", job.run, job.options["epochs"], tuple(rows))
    yield Event("end", job.run, job.options["epochs"], status="finished")


def _samples(job: Job) -> Samples:
    data = job.options["data"]
    return load_samples(
        data["name"], data["validation"], data["samples"], data["split_seed"], job.options["model"]["name"]
    )


def build(options: Mapping[str, Any], samples: Samples, *, draw: bool = True) -> tuple[nn.Module, str]:
    """Build a run's model where it starts.

    Args:
        options: The run's.
        samples: The data.
        draw: Initialize and constrain it; else it is left as built, for weights that are loaded.

    Returns:
        The model on its device, and what the initialization has to note.
    """
    seed = options["seed"]
    with _seeded(seed, "model"):
        data = samples.dataset
        model = resolve_model(options["model"]["name"], in_shape=data.shape, classes=data.outputs)
        note = ""
        if draw:
            init = options["init"]
            batch = samples.train[0][:INIT_SAMPLES]
            note = apply_init(init["name"], model, init["options"], batch, stream(seed, "init"))
            apply_constraint(options["constraint"]["name"], model, options["constraint"]["options"])
    return model.to(options["device"]), note


def _epoch(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    rates: Sequence[float],
    samples: Samples,
    job: Job,
    epoch: int,
) -> tuple[list[Row], bool, str]:
    """Train for one epoch and look at the validation samples.

    Returns:
        Rows, the training loss first; whether the run diverged; and the step that was refused, where that is why.
    """
    options = job.options
    inputs, targets = samples.train
    total, right, known, count = 0.0, 0, 0, 0
    model.train()
    order = torch.randperm(len(inputs), generator=stream(options["seed"], f"data order, epoch {epoch}"))
    size = min(options["batch_size"], len(inputs))
    steps = _steps(samples, options["batch_size"])
    with _seeded(options["seed"], f"epoch {epoch}"), torch.enable_grad():  # dropout has no generator of its own
        for start in range(0, len(inputs) - size + 1, size):  # a last incomplete batch is left out
            index = order[start : start + size]
            x, y = inputs[index].to(options["device"]), targets[index].to(options["device"])
            outputs = x.run(model)
            loss = objective(outputs, y, samples.likelihood)
            value = float(loss.detach())
            total, count = total + value, count + 1
            if not math.isfinite(value):
                return [Row(epoch, "train", "loss", value)], True, ""
            if samples.likelihood == "categorical":
                found, labelled = hits(outputs.detach(), y)
                right, known = right + found, known + labelled
            done = (epoch - 1) * steps + count - 1
            by = factor(options["optimizer"]["schedule"], done, options["epochs"] * steps)
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * by
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            if why := _step(model, optimizer):
                return [Row(epoch, "train", "loss", value)], True, f"diverged in epoch {epoch}: {why}"
    optimizer.zero_grad(set_to_none=True)
    rows = [Row(epoch, "train", "loss", total / count)]
    if known:
        rows.append(Row(epoch, "train", "accuracy", right / known))
    rows += _evaluation(model, samples, epoch)
    return rows, not all(math.isfinite(row.value) for row in rows), ""


def _step(model: nn.Module, optimizer: torch.optim.Optimizer) -> str:
    """Take a step, unless the optimizer refuses one that no weights come back from.

    Others would have taken it, and their next loss would not be finite.

    Returns:
        The refusal; empty where the step was taken.

    Raises:
        ValueError: If the optimizer refuses it for another reason.
    """
    try:
        optimizer.step()
    except ValueError as error:
        from isometry.optim._polar_step import RotationError

        gradients = [p.grad for p in model.parameters() if p.grad is not None and p.grad.layout == torch.strided]
        if isinstance(error, RotationError) or not all(bool(g.isfinite().all()) for g in gradients):
            return str(error)
        raise
    return ""


def _evaluation(model: nn.Module, samples: Samples, epoch: int) -> list[Row]:
    return scores(model, samples.validation, samples.likelihood, epoch, "validation")


def _steps(samples: Samples, batch_size: int) -> int:
    count = len(samples.train[0])
    return count // min(batch_size, count)


def _is_best(rows: list[Any], epoch: int) -> bool:
    losses = {row[0]: row[3] for row in rows if row[1:3] == ("validation", "loss") and row[0] > 0}
    now = losses.pop(epoch, math.nan)
    return math.isfinite(now) and all(now < loss for loss in losses.values())


def _event(job: Job, epoch: int, history: dict[str, Any], seconds: float, *, only: int | None = None) -> Event:
    rows = tuple(Row(*row) for row in history["rows"] if only is None or row[0] == only)
    probe = tuple(Measured(*row) for row in history["probe"] if only is None or row[0] == only)
    return Event("epoch", job.run, epoch, rows, probe, tuple(history["notes"]), seconds=seconds)


def _state(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    probe: Probe | None,
    history: dict[str, Any],
    epoch: int,
    diverged: bool,
) -> dict[str, Any]:
    return {
        "epoch": epoch,
        "diverged": diverged,
        "history": {key: [tuple(r) if isinstance(r, tuple) else r for r in rows] for key, rows in history.items()},
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "probe": None if probe is None else probe.state_dict(),
    }


@contextmanager
def _seeded(seed: int, name: str) -> Iterator[None]:
    """Seed the global generators of torch, NumPy and Python inside a block from the stream of a name.

    Yields:
        Nothing.
    """
    drawn = stream(seed, name).initial_seed()
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002 - what users' models draw from
    try:
        with preserved_rng():
            torch.manual_seed(drawn)
            random.seed(drawn)
            np.random.seed(drawn % 2**32)  # noqa: NPY002
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002
