"""From what users have in hand (tensors, arrays, loaders, torch data sets) to a ``Dataset``."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

import numpy as np
import torch
import torch.utils.data
from torch import Tensor

from isometry._base import IGNORED
from isometry.data._dataset import Dataset, fits_positions, label_shapes
from isometry.data._gather import MAX_SAMPLES, gather, gather_loader, split_labels, to_tensor
from isometry.data._graph import whole_graph
from isometry.tape import Inputs, as_inputs

__all__ = ["as_dataset", "from_arrays", "from_mapping"]

_ROLES: dict[str, tuple[str, ...]] = {
    "inputs": ("inputs", "x", "X", "x_train", "X_train", "train_inputs", "train_images", "images", "data", "features"),
    "targets": ("targets", "y", "Y", "y_train", "Y_train", "train_targets", "train_labels", "labels", "target"),
    "test_inputs": ("test_inputs", "x_test", "X_test", "test_images"),
    "test_targets": ("test_targets", "y_test", "Y_test", "test_labels"),
}

_IDS = (torch.int16, torch.int32, torch.int64)  # dtypes of what a model looks up in a table


def as_dataset(
    data: object, *, name: str | None = None, classes: int | None = None, max_samples: int = MAX_SAMPLES
) -> Dataset:
    """Turn data in any of the usual forms into a ``Dataset``.

    Nothing is rescaled; the data set's notes say what was converted.

    Args:
        data: A ``Dataset``; a reference for ``load`` ("digits", "file.npz", ...); a pair (inputs, targets) or a
            quadruple (inputs, targets, test_inputs, test_targets) of tensors or NumPy arrays; a mapping with the keys
            of an ``.npz`` file, or of a model's keyword arguments and ``labels``; a ``DataLoader`` or a torch
            ``Dataset`` of (input, target) pairs or such mappings. Inputs may be a tuple or a mapping of tensors, or
            ``Inputs``, for models that take several.
        name: Name of the data set; by default, what kind of thing was given.
        classes: Number of classes; by default one more than the largest label.
        max_samples: How many samples are gathered at most from a ``DataLoader`` or a torch ``Dataset``.

    Returns:
        The data set, checked.

    Raises:
        TypeError: If ``data`` is of none of these forms.

    Example:
        >>> import numpy as np
        >>> as_dataset((np.eye(4), np.array([0, 1, 2, 1]))).classes
        3
    """
    if isinstance(data, Dataset):
        return data
    if isinstance(data, str):
        from isometry.data._load import load

        return load(data, classes=classes)
    if isinstance(data, Mapping):
        if "labels" in data and not any(key in data for key in _ROLES["inputs"]):
            return from_arrays(*split_labels(data, "data"), name=name or "tensors", classes=classes)
        return from_mapping(data, name=name or "arrays", classes=classes)
    if isinstance(data, torch.utils.data.DataLoader):
        x, y, note = gather_loader(data, max_samples)
        return from_arrays(x, y, name=name or "DataLoader", classes=classes, notes=(note,), source="DataLoader")
    if isinstance(data, torch.utils.data.Dataset):
        x, y, note = gather(data, max_samples)
        return from_arrays(
            x, y, name=name or type(data).__name__, classes=classes, notes=(note,), source="torch Dataset"
        )
    if isinstance(data, tuple | list):
        if len(data) not in (2, 4):
            raise TypeError(
                f"data is a {type(data).__name__} of {len(data)}; pass (inputs, targets) or "
                "(inputs, targets, test_inputs, test_targets)."
            )
        return from_arrays(*data, name=name or "tensors", classes=classes)
    remedy = "put inputs and targets into a tuple"
    if isinstance(data, Iterator):
        remedy = "an iterator can be read only once: pass the DataLoader itself for batches, or a tuple of tensors"
    raise TypeError(
        f"data must be (inputs, targets), a DataLoader, a torch Dataset or a name such as 'digits', got "
        f"{type(data).__name__}; {remedy}."
    )


def from_mapping(
    arrays: Mapping[str, Any], *, name: str, classes: int | None = None, source: str = "", argument: str = "data"
) -> Dataset:
    """Build a data set from named arrays, as an ``.npz`` file holds them.

    Args:
        arrays: Arrays named x and y, inputs and targets, x_train, y_train, x_test, y_test, ...
        name: Name of the data set.
        classes: Number of classes; by default one more than the largest label.
        source: Where the arrays come from.
        argument: What to call the mapping in error messages.

    Returns:
        The data set.

    Raises:
        ValueError: If inputs or targets are not found under exactly one name; the message lists all names.
    """
    found: dict[str, str] = {}
    keys = list(arrays)
    listing = f"it holds {', '.join(map(repr, keys)) or 'nothing'}"
    for role, names in _ROLES.items():
        present = [key for key in names if key in arrays]
        if len(present) > 1:
            raise ValueError(
                f"{argument} has several candidates for the {role}: {', '.join(map(repr, present))}; keep one "
                f"({listing})."
            )
        if present:
            found[role] = present[0]
    for role, wanted in (("inputs", "'x' or 'inputs'"), ("targets", "'y' or 'targets'")):
        if role not in found:
            raise ValueError(f"{argument} has no {role}: name an array {wanted}; {listing}.")
    dataset = from_arrays(*(arrays[found[r]] if r in found else None for r in _ROLES), name=name, classes=classes,
                          source=source)  # fmt: skip
    unused = [key for key in keys if key not in found.values()]
    return dataset.with_notes(f"arrays not used: {', '.join(unused)}") if unused else dataset


def from_arrays(
    inputs: object,
    targets: object,
    test_inputs: object = None,
    test_targets: object = None,
    *,
    name: str,
    classes: int | None = None,
    notes: tuple[str, ...] = (),
    source: str = "",
    licence: str = "",
) -> Dataset:
    r"""Build a data set from tensors or arrays, converting dtypes but no values.

    Args:
        inputs: (N, \*shape), tensor or array; a tuple or mapping of such, or ``Inputs``, for models that take several;
            ``Inputs`` with ``whole=True`` are one graph, whose targets are those of its nodes.
        targets: (N,) labels or (N,), (N, K) real targets.
        test_inputs: As ``inputs``, or None; of one graph the same one with another mask.
        test_targets: As ``targets``, or None.
        name: Name of the data set.
        classes: Number of classes; by default one more than the largest label.
        notes: Notes that the data set starts with.
        source: Where the data come from.
        licence: Their licence.

    Returns:
        The data set.

    """
    said = list(notes)
    x = _inputs("inputs", inputs, said)
    if isinstance(x, Inputs) and x.whole:
        return whole_graph(x, targets, test_inputs, test_targets, name=name, classes=classes, notes=said, source=source)
    y, classes = _targets("targets", targets, classes, said, label_shapes(x))
    x_test = None if test_inputs is None else _inputs("test_inputs", test_inputs, [])
    y_test = None
    if test_targets is not None:
        y_test = (
            _as_labels("test_targets", test_targets, y.ndim > 1)
            if classes is not None
            else _as_real("test_targets", test_targets)
        )
    return Dataset(name, x, y, classes, x_test, y_test, tuple(said), source, licence)


def _inputs(argument: str, value: object, notes: list[str]) -> Tensor | Inputs:
    if isinstance(value, Inputs) or (isinstance(value, Mapping | tuple) and _several(value)):
        return as_inputs(value)
    tensor = to_tensor(argument, value)
    if tensor.ndim == 1 and tensor.dtype not in _IDS:
        raise ValueError(
            f"{argument} must be (N, ...), got shape {tuple(tensor.shape)}; add an axis for the features: (N, 1)."
        )
    if tensor.is_complex():
        raise TypeError(f"{argument} is complex ({tensor.dtype}); pass real and imaginary parts as two channels.")
    default = torch.get_default_dtype()
    if tensor.is_floating_point():
        if isinstance(value, Tensor) or tensor.dtype == default:
            return tensor
        notes.append(f"{argument} converted from {tensor.dtype} to {default}, values unchanged")
        return tensor.to(default)
    if tensor.dtype in _IDS:
        notes.append(f"{argument} are integers and stay so (token ids); convert to float if they are measurements")
        return tensor.long()
    notes.append(f"{argument} converted from {tensor.dtype} to {default} without rescaling")
    return tensor.to(default)


def _several(value: Mapping[str, Any] | tuple[Any, ...]) -> bool:
    return any(isinstance(v, Tensor) for v in (value.values() if isinstance(value, Mapping) else value))


def _targets(
    argument: str, value: object, classes: int | None, notes: list[str], positions: Collection[tuple[int, ...]]
) -> tuple[Tensor, int | None]:
    tensor = to_tensor(argument, value)
    if tensor.numel() == 0:
        raise ValueError(f"{argument} is empty (shape {tuple(tensor.shape)}); pass one target a sample.")
    if classes is None and tensor.is_floating_point():
        if not _looks_like_labels(tensor):
            notes.append(f"{argument} are real numbers: taken as regression")
            return _as_real(argument, tensor), None
        notes.append(f"{argument} are whole numbers 0..{int(tensor.max())} stored as floats: taken as class labels")
    several = tensor.ndim > 1 and tensor.shape[-1] > 1 and fits_positions(tensor.shape, positions)
    labels = _as_labels(argument, tensor, several)
    if labels.shape != tensor.shape:
        notes.append(f"{argument} of shape {tuple(tensor.shape)} taken as {tuple(labels.shape)}: one label a sample")
    known = labels[labels != IGNORED] if several else labels
    if not known.numel():
        raise ValueError(f"{argument} are all {IGNORED}, the label that is left out; pass some that are known.")
    if int(known.min()) < 0:
        raise ValueError(f"{argument} hold labels out of range: the smallest is {int(known.min())}; number from 0 on.")
    if classes is None:
        classes = max(int(known.max()) + 1, 2)
        absent = classes - len(torch.bincount(known).nonzero())
        if absent:
            notes.append(f"{classes} classes counted from the largest label; {absent} of them do not occur")
    return labels, classes


def _looks_like_labels(tensor: Tensor) -> bool:
    """Tell labels in disguise from real targets.

    Returns:
        Whether there is one column of whole numbers in which each of 0..K-1 occurs.
    """
    flat = tensor.reshape(len(tensor), -1)
    if flat.shape[1] != 1 or not bool(torch.isfinite(flat).all()) or not bool((flat == flat.round()).all()):
        return False
    distinct = torch.from_numpy(np.unique(flat.cpu().double().numpy()))
    return len(distinct) >= 2 and torch.equal(distinct, torch.arange(len(distinct), dtype=torch.float64))


def _as_labels(argument: str, value: object, positions: bool = False) -> Tensor:
    tensor = to_tensor(argument, value)
    if tensor.ndim == 2 and tensor.shape[1] == 1:
        tensor = tensor[:, 0]
    if tensor.ndim != 1 and not positions:
        raise ValueError(
            f"{argument} must be (N,) class labels, got integers of shape {tuple(tensor.shape)}; pass one label a "
            "sample, or floats for regression."
        )
    if tensor.is_floating_point():
        broken = tensor[~(tensor == tensor.round())]
        if broken.numel():
            raise ValueError(
                f"{argument} hold non-integer labels (such as {float(broken[0])!r}); pass whole numbers, or leave out "
                "classes= for regression."
            )
    return tensor.long()


def _as_real(argument: str, value: object) -> Tensor:
    tensor = to_tensor(argument, value)
    tensor = (
        tensor if tensor.is_floating_point() and isinstance(value, Tensor) else tensor.to(torch.get_default_dtype())
    )
    return tensor[:, None] if tensor.ndim == 1 else tensor
