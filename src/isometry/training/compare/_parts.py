"""Every part of a grid, built once before the first run: what cannot work is told before hours are spent."""

from __future__ import annotations

import warnings

import torch

from isometry._base import preserved_rng
from isometry.nn import resolve_model
from isometry.training.compare._choices import make_optimizer
from isometry.training.compare._evaluate import scores
from isometry.training.compare._experiment import Experiment
from isometry.training.compare._grid import Grid, Run
from isometry.training.compare._samples import Samples, load_samples
from isometry.training.compare._train import build, said

__all__ = ["check_parts"]

TRIED = 2  # samples that a model is given; some models cannot do with one


def check_parts(experiment: Experiment, grid: Grid) -> None:
    """Make each optimizer of each model, and start each model from each of its inits and constraints.

    Args:
        experiment: The experiment.
        grid: Its runs.

    Raises:
        ValueError: If a part cannot be built, or a model does not fit the data.
    """
    if experiment.device.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(f"device {experiment.device!r} was asked for, but torch sees no GPU; write device = 'cpu'.")
    data = experiment.data
    for model in experiment.models:
        runs = [run for run in grid.runs if run.combination.model == model.label]
        samples = load_samples(data.name, data.validation, data.samples, data.split_seed, model.name)
        with preserved_rng():
            net = resolve_model(model.name, in_shape=samples.dataset.shape, classes=samples.dataset.outputs)
        trained = {run.combination.optimizer for run in runs}
        for optimizer in experiment.optimizers:
            if optimizer.label in trained:
                make_optimizer(optimizer.name, net, optimizer.lr[0], optimizer.options, samples.train[0][:2])
        del net
        starts: dict[tuple[str, ...], Run] = {}
        for run in runs:
            starts.setdefault(run.combination[:3], run)
        for run in starts.values():
            _check_start(run, samples)


def _check_start(run: Run, samples: Samples) -> None:
    """Do what a run begins with: the same draw, the same look at the data for it, and an evaluation.

    Raises:
        ValueError: If anything in it fails.
    """
    inputs, targets = samples.train
    try:
        with warnings.catch_warnings():  # the run itself will say it
            warnings.simplefilter("ignore")
            model, _ = build(run.options, samples)
            scores(model, (inputs[:TRIED], targets[:TRIED]), samples.likelihood, 0, "train")
    except (Exception, SystemExit) as error:
        parts = " | ".join(run.combination[:3])
        why = " ".join(said(error).split()).rstrip(".")
        raise ValueError(f"{parts} cannot be trained: {why}; mend the experiment, nothing was trained.") from error
