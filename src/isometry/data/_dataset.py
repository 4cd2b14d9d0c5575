"""One description of a data set, checked when it is built."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from isometry._base import IGNORED, check_finite, check_tensor
from isometry.tape import Inputs

__all__ = ["Dataset"]


@dataclass(frozen=True, repr=False, eq=False)
class Dataset:
    r"""Samples with their targets, and a word on where they come from.

    Building one checks it: lengths agree, nothing is NaN, labels lie in ``[0, classes)`` and are not all equal.

    Attributes:
        name: A short name, for reports.
        inputs: (N, \*shape); floating point, or int64 for token ids. ``Inputs`` for models that take several tensors;
            with ``whole=True`` they are one graph, and its N nodes have the targets (-100: none).
        targets: int64 (N,) for classes, or (N, T) for a class per position, -100 where there is none; floating point
            (N, K) for regression.
        classes: Number of classes; None for regression.
        test_inputs: (M, \*shape), or None where there is no test set.
        test_targets: As ``targets``, for the test set; None where there is none.
        notes: What was done to the data on the way, one sentence each.
        source: Where the data come from.
        licence: Their licence, where known.

    Example:
        >>> import torch
        >>> data = Dataset("toy", torch.randn(6, 3), torch.tensor([0, 1, 0, 1, 0, 1]), classes=2)
        >>> data.shape, len(data)
        ((3,), 6)
    """

    name: str
    inputs: Tensor | Inputs
    targets: Tensor
    classes: int | None = None
    test_inputs: Tensor | Inputs | None = None
    test_targets: Tensor | None = None
    notes: tuple[str, ...] = ()
    source: str = ""
    licence: str = ""

    def __post_init__(self) -> None:
        check_inputs("inputs", self.inputs)
        count = self._count(self.inputs, self.targets)
        check_targets("targets", self.targets, count, self.classes, label_shapes(self.inputs), self.graph)
        if self.classes is not None:
            known = self.targets[self.targets != IGNORED]
            if int(known.min()) == int(known.max()):
                raise ValueError(
                    f"targets hold a single class: all {len(self.targets)} samples have label {int(known[0])}; "
                    "pass samples of at least two classes."
                )
        if (self.test_inputs is None) != (self.test_targets is None):
            missing = "test_inputs" if self.test_inputs is None else "test_targets"
            raise ValueError(f"{missing} is None while its partner is given; pass both or neither.")
        if self.test_inputs is not None and self.test_targets is not None:
            check_inputs("test_inputs", self.test_inputs)
            if _sample_shape(self.test_inputs) != self.shape:
                raise ValueError(
                    f"test_inputs have samples of shape {_sample_shape(self.test_inputs)}, inputs of shape "
                    f"{self.shape}; make them equal."
                )
            tested = self._count(self.test_inputs, self.test_targets)
            shapes = label_shapes(self.test_inputs)
            check_targets("test_targets", self.test_targets, tested, self.classes, shapes, self.graph)
            if self.test_targets.shape[1:] != self.targets.shape[1:]:
                raise ValueError(
                    f"test_targets have shape {tuple(self.test_targets.shape)} but targets "
                    f"{tuple(self.targets.shape)}; give them the same number of columns."
                )

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one sample; of several tensors, that of the first."""
        return _sample_shape(self.inputs)

    @property
    def outputs(self) -> int:
        """How many outputs a model for these data has: the classes, or the columns of the targets."""
        return self.classes if self.classes is not None else int(self.targets.shape[1])

    def with_notes(self, *notes: str) -> Dataset:
        """Add notes.

        Returns:
            A copy that shares its tensors with this one.
        """
        return dataclasses.replace(self, notes=(*self.notes, *notes))

    @property
    def graph(self) -> bool:
        """Whether it is one whole graph, whose nodes have the targets."""
        return isinstance(self.inputs, Inputs) and self.inputs.whole

    def _count(self, inputs: Tensor | Inputs, targets: Tensor) -> int:
        return len(targets) if self.graph else len(inputs)  # what nodes a graph has, only a model's outputs tell

    def __len__(self) -> int:
        return self._count(self.inputs, self.targets)

    def __str__(self) -> str:
        kind = f"{self.classes} classes" if self.classes is not None else f"{self.outputs} real targets"
        test = "" if self.test_inputs is None else f" (+ {len(self.test_inputs)} for test)"
        of = "nodes" if self.graph else "samples"
        head = f"{self.name}: {len(self)} {of}{test} of shape {self.shape}, {kind}"
        return "\n  ".join([head, *self.notes])

    __repr__ = __str__


def _sample_shape(inputs: Tensor | Inputs) -> tuple[int, ...]:
    first = inputs if isinstance(inputs, Tensor) else inputs.first
    return tuple(first.shape[1:])


def check_inputs(argument: str, value: Tensor | Inputs) -> None:
    """Insist on samples that a model can take: (N, ...), floating point or int64, finite; ids may be (N,).

    Raises:
        TypeError: If the dtype is neither floating point nor int64.
    """
    if isinstance(value, Inputs):
        for tensor in value.tensors():
            check_finite(argument, check_tensor(argument, tensor))
        return
    check_tensor(argument, value, min_ndim=1)
    if value.is_floating_point():
        check_tensor(argument, value, min_ndim=2)  # an id may be one number a sample, features have an axis
    if not value.is_floating_point() and value.dtype != torch.int64:
        raise TypeError(
            f"{argument} must be floating point (or int64 for token ids), got {value.dtype}; convert with .float()."
        )
    check_finite(argument, value)


def label_shapes(inputs: Tensor | Inputs) -> tuple[tuple[int, ...], ...]:
    """List what may have labels of its own within a sample.

    Returns:
        The shapes of tokens, of rows of features, and of pixels behind their channels, of each tensor that a model
        takes: a decoder's tokens have the labels where an encoder's have none. Without the axis of samples, each once.
    """
    shapes: dict[tuple[int, ...], None] = {}
    for tensor in (inputs,) if isinstance(inputs, Tensor) else inputs.tensors():
        shapes[tuple(tensor.shape[1:-1] if tensor.is_floating_point() else tensor.shape[1:])] = None
        if tensor.is_floating_point():
            shapes[tuple(tensor.shape[2:])] = None
    return tuple(shape for shape in shapes if shape)


def fits_positions(shape: Sequence[int], shapes: Collection[tuple[int, ...]]) -> bool:
    """Tell whether targets of this shape are one a sample, or one for each position of ``label_shapes``.

    Returns:
        Whether the axes behind the first are the leading ones of one of the shapes.
    """
    return len(shape) == 1 or any(tuple(shape[1:]) == of[: len(shape) - 1] for of in shapes)


def check_targets(
    argument: str,
    value: Tensor,
    count: int,
    classes: int | None,
    shapes: Collection[tuple[int, ...]],
    ignored: bool = False,
) -> None:
    """Insist on one finite target a sample (or one label a position of a sample), and on labels in range.

    Raises:
        TypeError: If the dtype does not fit the kind of task, or ``classes`` is no integer.
        ValueError: If the shape or length is wrong, or labels lie out of range.
    """
    check_tensor(argument, value, min_ndim=1)
    if len(value) != count:
        raise ValueError(f"{argument} have length {len(value)} but there are {count} inputs; pass one target a sample.")
    if classes is None:
        if not value.is_floating_point():
            raise TypeError(f"{argument} are {value.dtype} without a number of classes; pass classes=, or floats.")
        if value.ndim != 2:
            raise ValueError(f"{argument} for regression must be (N, K), got shape {tuple(value.shape)}.")
        check_finite(argument, value)
        return
    if type(classes) is not int:
        raise TypeError(f"classes must be an integer, got {type(classes).__name__}; pass an int or None.")
    if classes < 2:
        raise ValueError(f"classes must be at least 2, got {classes}; a single class cannot be learned.")
    if value.dtype != torch.int64:
        raise TypeError(f"{argument} must be int64 class labels, got {value.dtype}; convert with .long().")
    if not fits_positions(value.shape, shapes):
        each = " or ".join(f"(N, {', '.join(map(str, shape))})" for shape in shapes)
        raise ValueError(
            f"{argument} must be (N,) class labels, got shape {tuple(value.shape)}; pass one label a sample"
            + (f", or one for each position: {each}." if each else ".")
        )
    known = value[value != IGNORED] if value.ndim > 1 or ignored else value
    if not known.numel():
        raise ValueError(f"{argument} are all {IGNORED}, the label that is left out; pass some that are known.")
    low, high = int(known.min()), int(known.max())
    if low < 0 or high >= classes:
        raise ValueError(
            f"{argument} hold labels out of range: from {low} to {high}, with {classes} classes they must lie in "
            f"0..{classes - 1}."
        )
