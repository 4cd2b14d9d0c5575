"""The losses whose curvature is measured: by name, or any function of outputs and targets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional

from isometry._base import IGNORED, check_finite, unknown_name
from isometry.measure._guards import call_loss
from isometry.tape import Inputs

__all__ = ["Criterion", "Loss", "check_loss_targets", "make_criterion"]

Loss: TypeAlias = Literal["cross-entropy", "mse"] | Callable[[Tensor, Any], Tensor]


@dataclass(frozen=True)
class _Mean:
    """A loss that is a sum over entries, divided by how many of them count."""

    summed: Callable[[Tensor, Tensor], Tensor]
    count: Callable[[Tensor], int]


@dataclass(frozen=True)
class Criterion:
    """A loss of a whole batch.

    Attributes:
        name: Its name, for messages and results.
    """

    name: str
    _function: Callable[[Tensor, Any], Tensor] | _Mean

    @property
    def separable(self) -> bool:
        """Whether it is a mean over the samples' entries, so that it can be summed over parts of the batch."""
        return isinstance(self._function, _Mean)

    def __call__(self, out: Tensor, y: Any, whole: Any = None) -> Tensor:
        """Compute the loss, or what a part of the batch contributes to it.

        Args:
            out: Outputs.
            y: Their targets.
            whole: The targets of the whole batch, where the outputs are those of a part.

        Returns:
            A scalar with its graph.

        Raises:
            TypeError: If the function returns no real-valued tensor.
            ValueError: If the function raises, or returns more than one number, or none that is finite.
        """
        value: object
        if isinstance(self._function, _Mean):
            value = self._function.summed(out, y) / self._function.count(y if whole is None else whole)
        else:
            value = call_loss(self._function, self.name, out, y)
        if not isinstance(value, Tensor) or not value.is_floating_point():
            kind = value.dtype if isinstance(value, Tensor) else type(value).__name__
            raise TypeError(f"loss {self.name} returned {kind}; it must return one real-valued tensor.")
        if value.numel() != 1:
            raise ValueError(
                f"loss {self.name} returned shape {tuple(value.shape)}; return one number for the batch, the mean of "
                "the samples' losses for example."
            )
        if not bool(torch.isfinite(value.detach())):
            raise ValueError(
                f"loss {self.name} is {float(value.detach())} though the outputs are finite; check it and the targets."
            )
        return value.reshape(())


def make_criterion(loss: object) -> Criterion:
    """Look up a loss.

    Returns:
        The criterion.

    Raises:
        TypeError: If it is neither a name nor callable.
        unknown_name: A ValueError with near matches, for an unknown name.
    """
    if isinstance(loss, str):
        if loss not in _NAMED:
            raise unknown_name("loss", loss, _NAMED)
        return Criterion(loss, _NAMED[loss])
    if not callable(loss):
        raise TypeError(
            f"loss must be {' or '.join(map(repr, _NAMED))} or a function of (outputs, y), got {type(loss).__name__}."
        )
    return Criterion(str(getattr(loss, "__name__", type(loss).__name__)), loss)


def check_loss_targets(criterion: Criterion, y: object, out: Tensor, x: Inputs) -> Any:
    """Insist on targets that fit outputs and loss; a function's own targets may be anything.

    Returns:
        A copy of the targets, if they are a tensor, with -100 for labels whose positions do not count; else themselves.

    Raises:
        TypeError: If targets of a named loss are not a tensor, or of a wrong kind.
        ValueError: If they are not finite, out of range, on another device or of a wrong shape, or the loss does not
            see the inputs' mask.
    """
    of_nodes = x.whole and criterion == make_criterion("mse")
    if x.mask is not None and not of_nodes and criterion != make_criterion("cross-entropy"):
        raise ValueError(
            f"x has a mask, which loss {criterion.name} does not see; leave positions out in a function as loss=, or "
            'use "cross-entropy".'
        )
    if not criterion.separable and not isinstance(y, Tensor):
        return y
    if not isinstance(y, Tensor):
        raise TypeError(f"y must be a torch.Tensor, got {type(y).__name__}; convert it first.")
    if y.device != out.device:
        raise ValueError(f"y is on {y.device}, the model's output on {out.device}; move it with .to(device).")
    check_finite("y", y)
    if not criterion.separable:
        return y.detach().clone()
    if criterion.name == "cross-entropy":
        return _labels(y, out, x)
    if y.is_complex():
        raise TypeError(f"y must be real for loss 'mse', got {y.dtype}.")
    if of_nodes:
        return _node_values(y, out, x)
    if y.shape != out.shape:
        raise ValueError(
            f"y must have the output's shape {tuple(out.shape)} for loss 'mse', got {tuple(y.shape)}; reshape it."
        )
    return y.detach().clone()


def _node_values(y: Tensor, out: Tensor, x: Inputs) -> Tensor:
    """Lay the values of a whole graph's nodes out like its outputs.

    Returns:
        A copy of the targets in the outputs' shape and at least float32, NaN at the nodes that do not count.

    Raises:
        ValueError: If they do not fit, or no node counts.
    """
    shape = tuple(out.shape)
    fitting = [shape, shape[1:], *([shape[1:-1]] if shape[-1] == 1 else [])]
    if tuple(y.shape) not in fitting:
        raise ValueError(
            f"y must have shape {shape[1:]} for loss 'mse' on a whole graph whose outputs have it, got "
            f"{tuple(y.shape)}; pass one row of values per node."
        )
    values = y.detach().reshape(shape).to(torch.promote_types(y.dtype, torch.float32), copy=True)
    counted = x.counted(shape[:-1])
    if counted is None:
        return values
    if not bool(counted.any()):
        raise ValueError("mask leaves no node that counts; mark at least one.")
    values[~counted.to(values.device)] = torch.nan
    return values


def _labels(y: Tensor, out: Tensor, x: Inputs) -> Tensor:
    if out.ndim < 2 or out.shape[-1] < 2:
        raise ValueError(
            f"loss 'cross-entropy' needs outputs of shape (N, ..., classes) with at least two classes, the model gives "
            f"{tuple(out.shape)}; use two logits (z, 0) for a binary label, or pass a function as loss=."
        )
    if y.is_floating_point() or y.is_complex() or y.dtype == torch.bool:
        raise TypeError(
            f"y must be integer class labels for loss 'cross-entropy', got {y.dtype}; convert with .long()."
        )
    wanted = tuple(out.shape[:-1])
    if tuple(y.shape) not in (wanted, wanted[1:] if x.whole else wanted):  # of a whole graph, also without the 1
        if x.whole:
            raise ValueError(
                f"y must have shape {wanted[1:]} for the outputs {tuple(out.shape[1:])} of a whole graph, got "
                f"{tuple(y.shape)}; pass one label per node ({IGNORED} where there is none)."
            )
        raise ValueError(
            f"y must have shape {wanted} for outputs of shape {tuple(out.shape)}, classes last, got {tuple(y.shape)}; "
            "isometry.Inputs(..., class_dim=1) moves the classes of (N, classes, ...)."
        )
    labels = y.detach().long().reshape(wanted).clone()
    counted = x.counted(wanted)
    if counted is not None:
        labels[~counted.to(labels.device)] = IGNORED
    known = labels[labels != IGNORED]
    if not known.numel():
        raise ValueError(f"y and mask leave no label that counts ({IGNORED} stands for none); mark at least one.")
    low, high = int(known.min()), int(known.max())
    if low < 0 or high >= out.shape[-1]:
        raise ValueError(f"y must hold labels from 0 to {out.shape[-1] - 1}, got labels from {low} to {high}.")
    return labels


def _cross_entropy(out: Tensor, y: Tensor) -> Tensor:
    flat = _wide(out).reshape(-1, out.shape[-1])
    return functional.cross_entropy(flat, y.reshape(-1), ignore_index=IGNORED, reduction="sum")


def _squares(out: Tensor, y: Tensor) -> Tensor:
    wide = _wide(out)
    missed = wide - y.to(wide)
    return missed.where(~torch.isnan(y), 0.0).square().sum()  # NaN stands for a node that does not count


def _wide(out: Tensor) -> Tensor:
    # In half precision a softmax over many classes would lose what the Hessian is made of.
    return out if out.dtype == torch.float64 else out.float()


_NAMED = {
    "cross-entropy": _Mean(_cross_entropy, lambda y: int((y != IGNORED).sum())),
    "mse": _Mean(_squares, lambda y: int((~torch.isnan(y)).sum())),
}
