"""Samples gathered from loaders and torch data sets, up to a stated count."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
import torch.utils.data
from torch import Tensor

from isometry._base import preserved_rng
from isometry.tape import Inputs, as_inputs

__all__ = ["MAX_SAMPLES", "gather", "gather_loader", "split_labels", "to_tensor"]

MAX_SAMPLES = 10_000  # samples gathered at most from a DataLoader or a torch Dataset


def to_tensor(argument: str, value: object) -> Tensor:
    """Turn a tensor, an array or a list of numbers into a tensor, refusing objects and strings.

    Args:
        argument: What it stands for, for the error messages.
        value: What was given; arrays are copied.

    Returns:
        The tensor, of the same kind of numbers.

    Raises:
        TypeError: If it holds no numbers.
        ValueError: If it is a list of samples that differ in shape.
    """
    if isinstance(value, Tensor):
        return value.detach()
    if isinstance(value, list | tuple) or np.isscalar(value):
        try:
            value = np.asarray(value)
        except ValueError as error:  # NumPy's words for it are "inhomogeneous shape"
            raise ValueError(
                f"{argument} is a {type(value).__name__} of entries that differ in shape; make all samples the same "
                "shape (pad sequences to one length)."
            ) from error
    if not isinstance(value, np.ndarray):
        raise TypeError(f"{argument} must be a tensor or a NumPy array, got {type(value).__name__}; convert it first.")
    if value.dtype == object:
        raise TypeError(
            f"{argument} is an array of Python objects (ragged lists, perhaps); make all samples the same shape and "
            "the dtype numeric."
        )
    if value.dtype.kind not in "biuf":
        raise TypeError(
            f"{argument} has dtype {value.dtype}; pass numbers (encode strings as integer labels from 0 on)."
        )
    if value.dtype.kind == "u" and value.dtype.itemsize > 1:
        value = value.astype(np.int64)
    return torch.from_numpy(np.array(value, dtype=value.dtype.newbyteorder("="), order="C", copy=True))


def _pair(item: object, where: str) -> tuple[Any, Any]:
    if isinstance(item, list | tuple) and len(item) == 2:
        return item[0], item[1]
    if isinstance(item, Mapping):
        return split_labels(item, where)
    what = f"{type(item).__name__} of {len(item)}" if isinstance(item, list | tuple | dict) else type(item).__name__
    raise TypeError(f"{where} must be a pair (inputs, targets), got {what}; wrap the data so that it yields pairs.")


def _batches(loader: torch.utils.data.DataLoader[Any]) -> Iterator[Any]:
    """Iterate over a loader, whose default collate function fails on samples of different shapes.

    Yields:
        Its batches.

    Raises:
        ValueError: If samples cannot be stacked.
        RuntimeError: What else the loader raises.
    """
    try:
        yield from loader
    except RuntimeError as error:
        if "equal size" not in str(error):
            raise
        raise ValueError(
            "samples of the DataLoader differ in shape, so they cannot be stacked; pad sequences to one length, in the "
            "data set or in collate_fn=."
        ) from error


def split_labels(item: Mapping[str, Any], where: str) -> tuple[dict[str, Any], Any]:
    """Split a dictionary of a model's keyword arguments from the targets among them.

    Args:
        item: With the targets under ``labels`` or ``label``.
        where: What the dictionary is, for the message.

    Returns:
        Keyword arguments, and targets.

    Raises:
        TypeError: If there are no targets.
    """
    name = next((n for n in ("labels", "label") if n in item), None)
    if name is None:
        raise TypeError(f"{where} has the keys {', '.join(map(repr, item))}, but no 'labels'; add the targets.")
    return {k: v for k, v in item.items() if k != name}, item[name]


def gather_loader(loader: torch.utils.data.DataLoader[Any], max_samples: int) -> tuple[Any, Any, str]:
    """Collect the batches of a loader.

    Args:
        loader: A loader of pairs (inputs, targets), or of dictionaries with the targets under ``labels``.
        max_samples: How many samples to take at most.

    Returns:
        Inputs, targets and a note on what was gathered.

    Raises:
        ValueError: If the loader is empty or its batches do not fit together.
    """
    _check_count(max_samples)
    xs: list[Any] = []
    ys: list[Tensor] = []
    count = 0
    with preserved_rng():  # a shuffling loader draws from the global generator
        for item in _batches(loader):
            x, y = _pair(item, "a batch of the DataLoader")
            xs.append(as_inputs(x) if isinstance(x, Inputs | Mapping | tuple | list) else to_tensor("inputs", x))
            ys.append(to_tensor("targets", y))
            if len(xs) > 1 and any(isinstance(given, Inputs) and given.whole for given in xs):
                raise ValueError(
                    "the DataLoader yields several whole graphs (whole=True), and the nodes of one alone can be the "
                    "samples; pass one of them as (inputs, targets), join them into one graph without edges in "
                    "between, or stack graphs of one size as samples."
                )
            if (isinstance(xs[-1], Tensor) and xs[-1].ndim == 0) or ys[-1].ndim == 0:
                raise ValueError("a batch of the DataLoader has no batch axis; pass batch_size= to the loader.")
            count += len(xs[-1])
            if count >= max_samples:
                break
    if not xs:
        raise ValueError(
            "the DataLoader is empty, or an iterator that is already exhausted; pass one that yields at least one "
            "batch."
        )
    if len(xs) == 1 and isinstance(xs[0], Inputs) and xs[0].whole:
        return xs[0], ys[0], "one whole graph from a DataLoader"
    x = _joined(xs)[:max_samples]
    y = _cat("targets", ys)[:max_samples]
    note = f"gathered {len(x)} samples from {len(xs)} batches of a DataLoader (at most {max_samples})"
    return x, y, note


def _joined(parts: list[Any]) -> Any:
    """Put batches one behind the other, of one tensor or of several each.

    Returns:
        A tensor or ``Inputs``.
    """
    if all(isinstance(p, Tensor) for p in parts):
        return _cat("inputs", parts)
    columns = zip(*(p.rows() for p in parts), strict=True)
    return parts[0].with_rows([_cat("inputs", list(column)) for column in columns])


def _cat(argument: str, parts: list[Tensor]) -> Tensor:
    shapes = {tuple(p.shape[1:]) for p in parts}
    if len(shapes) > 1:
        shown = ", ".join(map(str, sorted(shapes)[:3]))
        raise ValueError(
            f"{argument} differ in shape from batch to batch ({shown}); make all samples the same shape (pad sequences "
            "to one length)."
        )
    return torch.cat(parts)


def gather(dataset: torch.utils.data.Dataset[Any], max_samples: int) -> tuple[Any, Any, str]:
    """Collect the items of a torch data set, evenly spaced if there are more than wanted.

    Args:
        dataset: A map-style or iterable data set of pairs (input, target), or of dictionaries with ``labels``.
        max_samples: How many samples to take at most.

    Returns:
        Inputs, targets and a note on what was gathered.

    Raises:
        TypeError: If the data set has no length.
        ValueError: If it is empty or its samples do not fit together.
    """
    _check_count(max_samples)
    with preserved_rng():  # augmentations draw from the global generator
        if isinstance(dataset, torch.utils.data.IterableDataset):
            pairs, note = _first(dataset, max_samples)
        elif hasattr(dataset, "__len__"):
            total = len(dataset)
            # Evenly spaced, since sets that are sorted by class are common.
            indices = [i * total // max_samples for i in range(max_samples)] if total > max_samples else range(total)
            pairs = [_pair(dataset[i], "an item of the torch Dataset") for i in indices]
            note = f"gathered {len(pairs)} of {total} samples of a torch Dataset" + (
                ", evenly spaced" if total > max_samples else ""
            )
        else:
            raise TypeError("data: the torch Dataset has no length; pass a DataLoader over it.")
    if not pairs:
        raise ValueError("data: the torch Dataset is empty; pass one with at least two samples.")
    x = _joined([_alone(p[0]) for p in pairs])
    y = _cat("targets", [torch.as_tensor(p[1])[None] for p in pairs])
    return x, y, note


def _alone(sample: Any) -> Any:
    if isinstance(sample, Inputs):
        raise TypeError(
            "an item of the torch Dataset holds Inputs, which are a batch or a whole graph already; pass one as "
            "(inputs, targets), or a DataLoader of such batches."
        )
    if isinstance(sample, Mapping):  # one sample's arguments: as a batch of one
        return as_inputs({k: to_tensor(k, v)[None] for k, v in sample.items()})
    return to_tensor("inputs", sample)[None]


def _first(items: Iterable[Any], count: int) -> tuple[list[tuple[Any, Any]], str]:
    pairs: list[tuple[Any, Any]] = []
    for item in items:
        pairs.append(_pair(item, "an item of the torch Dataset"))
        if len(pairs) >= count:
            break
    return pairs, f"gathered the first {len(pairs)} samples of an iterable torch Dataset (at most {count})"


def _check_count(max_samples: object) -> None:
    if isinstance(max_samples, bool) or not isinstance(max_samples, int) or max_samples < 1:
        raise ValueError(f"max_samples must be a positive integer, got {max_samples!r}.")
