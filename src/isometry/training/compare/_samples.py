"""The samples of an experiment: training, validation, test."""

from __future__ import annotations

import functools
import os
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from isometry._base import stream
from isometry.data import Dataset, is_text, load
from isometry.nn import tokenizer_of
from isometry.tape import Inputs, as_inputs
from isometry.training._objective import Likelihood, infer_likelihood

__all__ = ["Samples", "load_samples"]

Split = tuple[Inputs, Tensor]


@dataclass(frozen=True, eq=False)
class Samples:
    """A data set, divided.

    Attributes:
        dataset: The whole.
        train: Inputs and targets that are trained on.
        validation: Those that learning rates are chosen by.
        test: Those that only the chosen runs see; None where the data have no test set.
        likelihood: Of the targets.
    """

    dataset: Dataset
    train: Split
    validation: Split
    test: Split | None
    likelihood: Likelihood


def load_samples(name: str, validation: float, samples: int | None, split_seed: int, model: str) -> Samples:
    """Load data and divide the training samples at random, the same way every time.

    Args:
        name: A DATA reference.
        validation: Share of the training samples for validation.
        samples: How many to take at most; None: all.
        split_seed: Seed of the division.
        model: The MODEL reference, whose tokenizer reads texts.

    Returns:
        The samples.
    """
    return _load(name, validation, samples, split_seed, model if is_text(name) else "", _stamp(name))


def _stamp(name: str) -> tuple[object, ...]:
    """Say where a name is looked up, and which file it is: a file that has changed is read again.

    Returns:
        What tells one from the other.
    """
    files = [Path(part) for part in (name, name.rpartition(":")[0])]
    stats = [file.stat() for file in files if file.is_file()]
    return (os.getcwd(), *((stat.st_mtime_ns, stat.st_size) for stat in stats))


@functools.lru_cache(maxsize=2)
def _load(
    name: str, validation: float, samples: int | None, split_seed: int, model: str, _stamp: tuple[object, ...]
) -> Samples:
    tokens = tokenizer_of(model) if model else None
    whole = load(name) if tokens is None else load(name, tokenizer=tokens[0], vocabulary=tokens[1])
    order = torch.randperm(len(whole), generator=stream(split_seed, "validation split"))[:samples]
    held = round(validation * len(order))
    if held < 1 or held >= len(order):
        raise ValueError(
            f"data {name!r}: validation = {validation} of {len(order)} samples leaves {len(order) - held} for training "
            f"and {held} for validation; both need at least one."
        )
    inputs = as_inputs(whole.inputs)

    def part(index: Tensor) -> Split:
        return inputs[index], whole.targets[index]

    test = None
    if whole.test_inputs is not None and whole.test_targets is not None:
        test = (as_inputs(whole.test_inputs), whole.test_targets)
    return Samples(whole, part(order[held:]), part(order[:held]), test, infer_likelihood(whole.targets))
