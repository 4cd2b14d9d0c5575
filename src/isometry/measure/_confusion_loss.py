"""Losses of single samples, and their gradients in the outputs.

A mean or a sum over a batch would scale every gradient by the batch's size, so a loss is always that of one sample: for
a batch of one, mean and sum are the same number.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional

from isometry._base import unknown_name
from isometry.measure._guards import call_loss, ordinary
from isometry.tape import Inputs

__all__ = ["Loss", "SampleLoss", "loss_and_cotangents", "masked_targets", "nonfinite_samples", "resolve_loss"]

IGNORED = -100  # the label that torch's cross-entropy leaves out

Loss: TypeAlias = Literal["cross-entropy", "mse"] | Callable[[Tensor, Tensor], Tensor] | None


@dataclass(frozen=True)
class SampleLoss:
    """A loss by name, evaluated sample by sample.

    Attributes:
        name: What the result calls it.
        each: Takes outputs (N, ...) and targets (N, ...) and gives one loss a sample, shape (N,).
    """

    name: str
    each: Callable[[Tensor, Tensor], Tensor]


def resolve_loss(loss: Loss, y: object, samples: int) -> tuple[SampleLoss, Tensor]:
    """Check loss and targets, and choose the loss that the targets suggest if none is given.

    Args:
        loss: A name, a callable, or None.
        y: The targets.
        samples: How many samples there are.

    Returns:
        The loss and the targets.

    Raises:
        TypeError: If the loss is none of these, or the targets are no tensor of a fitting dtype.
        ValueError: If there is not one target a sample, or they are not finite.
        unknown_name: A ValueError with near matches, if there is no loss of that name.
    """
    if not isinstance(y, Tensor):
        raise TypeError(f"y must be a torch.Tensor of targets, got {type(y).__name__}; convert it first.")
    if y.ndim == 0 or len(y) != samples:
        raise ValueError(f"y has shape {tuple(y.shape)} for {samples} samples; pass one target a sample.")
    if y.is_floating_point() and not bool(torch.isfinite(y).all()):
        raise ValueError("y holds non-finite values (NaN or infinity); clean or drop them first.")
    if callable(loss):
        return SampleLoss(_name_of(loss), partial(_one_by_one, loss)), y
    if loss is None:
        if y.dtype == torch.bool or y.is_complex():
            raise TypeError(
                f"y has dtype {y.dtype}, which suggests no loss; pass class indices, real values, or a callable loss=."
            )
        loss = "mse" if y.is_floating_point() else "cross-entropy"
    if not isinstance(loss, str):
        raise TypeError(f"loss must be a name, a callable or None, got {type(loss).__name__}; see the docstring.")
    if loss not in _NAMED:
        raise unknown_name("loss", loss, _NAMED)
    return SampleLoss(loss, _NAMED[loss]), y


def masked_targets(x: Inputs, y: Tensor, loss: SampleLoss) -> Tensor:
    """Leave out the positions that the inputs say do not count.

    Args:
        x: The batch.
        y: Targets, from ``resolve_loss``.
        loss: The loss.

    Returns:
        The targets, with -100 in the place of those labels.

    Raises:
        ValueError: If the inputs have a mask that the loss knows nothing of, or no label counts.
    """
    if loss.each is not _cross_entropy:
        if x.mask is not None:
            raise ValueError(
                f"x has a mask, which loss {loss.name!r} does not see; leave positions out in a callable loss=, or use "
                'loss="cross-entropy".'
            )
        return y
    mask = x.counted(y.shape)
    left = y if mask is None else y.where(mask.to(y.device), IGNORED)
    if bool((left == IGNORED).all()):  # every gradient would be zero, and no angle between them defined
        raise ValueError(f"y and mask leave no label that counts ({IGNORED} stands for none); mark at least one.")
    return left


def _name_of(loss: Any) -> str:
    return str(getattr(loss, "__name__", type(loss).__name__))


def _cross_entropy(out: Tensor, y: Tensor) -> Tensor:
    if y.is_floating_point() or y.is_complex() or y.dtype == torch.bool:
        raise TypeError(f"y must hold class indices for the cross-entropy, got {y.dtype}; convert them with .long().")
    if out.ndim < 2 or y.shape != out.shape[:-1]:
        raise ValueError(
            f"y has shape {tuple(y.shape)}, the outputs {tuple(out.shape)}; the cross-entropy needs class indices "
            "(N, *positions) for outputs (N, *positions, classes), classes last. Other layouts: pass a callable loss=."
        )
    known, classes = y != IGNORED, out.shape[-1]
    if bool(known.any()):
        low, high = int(y[known].min()), int(y[known].max())
        if low < 0 or high >= classes:
            raise ValueError(
                f"y lies in {low}..{high}, but the model has {classes} outputs; labels must be 0..{classes - 1} "
                f"(or {IGNORED}, which is left out)."
            )
    each = functional.cross_entropy(
        out.double().reshape(-1, classes), y.long().flatten(), reduction="none", ignore_index=IGNORED
    )
    counted = known.reshape(len(out), -1).sum(1).clamp_min(1)  # a sample without any known label has loss 0
    return each.reshape(len(out), -1).sum(1) / counted


def _mse(out: Tensor, y: Tensor) -> Tensor:
    if y.numel() != out.numel():
        raise ValueError(
            f"y has shape {tuple(y.shape)}, the outputs {tuple(out.shape)}; the mean squared error needs the outputs' "
            "shape."
        )
    return (out.double() - y.double().reshape(out.shape)).square().reshape(len(out), -1).mean(1)


_NAMED: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"cross-entropy": _cross_entropy, "mse": _mse}


def _one_by_one(loss: Callable[[Tensor, Tensor], Tensor], out: Tensor, y: Tensor) -> Tensor:
    values = []
    for n in range(len(out)):
        value = call_loss(loss, repr(_name_of(loss)), out[n : n + 1], y[n : n + 1])
        if not isinstance(value, Tensor) or value.numel() != 1 or not value.is_floating_point():
            what = f"shape {tuple(value.shape)}, {value.dtype}" if isinstance(value, Tensor) else type(value).__name__
            raise ValueError(
                f"loss must return one real number for one sample (a batch of one), got {what}; reduce over the "
                'sample\'s outputs (reduction="mean" or "sum").'
            )
        values.append(value.reshape(()))
    return torch.stack(values)


def loss_and_cotangents(loss: SampleLoss, out: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Evaluate the loss of every sample and its gradient in that sample's output.

    Args:
        loss: From ``resolve_loss``.
        out: The model's output, (N, ...).
        y: The targets.

    Returns:
        Losses (N,) in float64 and gradients of the output's shape and dtype.

    Raises:
        ValueError: If the loss does not depend on the output, or a loss or gradient is not finite.
    """
    with torch.inference_mode(False), torch.enable_grad():
        leaf = out.detach().clone().requires_grad_()
        losses = loss.each(leaf, ordinary(y).to(out.device))
        if not losses.requires_grad:
            raise ValueError(
                f"loss {loss.name!r} gives values without a graph, so it has no gradient; return a differentiable "
                "function of the outputs."
            )
        (back,) = torch.autograd.grad(losses.sum(), leaf)
    nonfinite_samples(f"loss {loss.name!r} is", losses.detach())
    nonfinite_samples(f"the gradient of loss {loss.name!r} in the outputs is", back)
    return losses.detach().double(), back


def nonfinite_samples(what: str, values: Tensor) -> None:
    """Refuse values that are not finite, and name the samples.

    Args:
        what: The sentence's subject and verb.
        values: One row a sample.

    Raises:
        ValueError: If any is NaN or infinite.
    """
    bad = ~torch.isfinite(values).reshape(len(values), -1).all(1)
    if bool(bad.any()):
        which = bad.nonzero().flatten().tolist()
        shown = ", ".join(map(str, which[:5])) + (", ..." if len(which) > 5 else "")
        raise ValueError(
            f"{what} not finite (NaN or infinity) for {len(which)} of {len(values)} samples ({shown}); drop these "
            "samples, or find by measure.signal where the model overflows."
        )
