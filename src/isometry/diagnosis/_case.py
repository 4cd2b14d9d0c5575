"""The case on the table: a model, a batch of its data, what its outputs mean; checked before anything is measured."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from isometry import data as data_room
from isometry._base import check_tensor, stream
from isometry.diagnosis._admit import admit
from isometry.diagnosis._words import count
from isometry.tape import untouched
from isometry.training import Likelihood, chance_loss, infer_likelihood

__all__ = ["Case", "open_case", "reopen"]


@dataclass(frozen=True, eq=False)
class Case:
    """A model with a batch, ready to be measured in evaluation mode.

    Attributes:
        model: What is measured: the user's model itself, or a copy whose batch normalization was calibrated.
        original: The user's model; of a compiled one, the module inside the compiler's wrapper.
        x: Inputs (N, ...).
        y: Targets, or None.
        dataset: All the data, or None.
        likelihood: What the outputs parametrize.
        outputs: Number of outputs.
        chance: Loss of a network that knows nothing, over all targets; NaN without targets.
        seed: Base seed of every draw.
        notes: What a reader should know of how the case was prepared.
    """

    model: nn.Module
    original: nn.Module
    x: Tensor
    y: Tensor | None
    dataset: data_room.Dataset | None
    likelihood: Likelihood
    outputs: int
    chance: float
    seed: int
    notes: tuple[str, ...]


def open_case(
    model: object,
    data: object,
    *,
    samples: int,
    seed: int,
    likelihood: Likelihood | None,
    in_shape: Sequence[int] | None = None,
) -> Case:
    """Check a model and its data, and draw the batch that will be measured.

    Without data, inputs are standard Gaussian of shape ``in_shape`` and there are no targets. Batch normalization that
    was never trained has no statistics yet; it is then calibrated on a copy, by one pass in training mode over the
    batch, and the copy is measured in evaluation mode, where samples do not mix.

    Args:
        model: A module that returns one tensor (N, outputs).
        data: Anything that ``isometry.data.as_dataset`` takes, or None.
        samples: Size of the batch at most.
        seed: Seed of the draw.
        likelihood: "categorical", "gaussian", or None to choose by the targets.
        in_shape: Shape of one input, for data=None.

    Returns:
        The case.

    Raises:
        TypeError: If the model is no module that can be watched, or does not return one tensor.
        ValueError: If the model has no parameters or some without numbers, or model and data do not fit.
    """
    model, remarks = admit(model)
    if isinstance(samples, bool) or not isinstance(samples, int) or samples < 2:
        raise ValueError(f"samples must be an integer of at least 2, got {samples!r}; two inputs make a correlation.")
    if likelihood not in (None, "categorical", "gaussian"):
        raise ValueError(f"likelihood must be 'categorical', 'gaussian' or None, got {likelihood!r}; pass one of them.")
    device = next(model.parameters()).device
    dataset = None if data is None else data_room.as_dataset(data)
    x, y = _draw(dataset, samples, seed, in_shape)
    x, y = x.to(device), None if y is None else y.to(device)
    notes = list(remarks)
    measured = _calibrated(model, x, notes)
    out = _outputs(measured, x)
    kind = likelihood or (infer_likelihood(y) if y is not None else "categorical")
    if y is not None and dataset is not None:
        _check_targets(out, y, dataset, kind)
    chance = math.nan if dataset is None else chance_loss(dataset.targets, kind, dataset.classes)
    return Case(measured, model, x, y, dataset, kind, out.shape[1], chance, seed, tuple(notes))


def reopen(case: Case, model: nn.Module) -> Case:
    """Put another model with the same interface in a case's place.

    Args:
        case: The case.
        model: The model, say a prescribed copy.

    Returns:
        A case with the same batch.
    """
    notes: list[str] = []
    return replace(case, model=_calibrated(model, case.x, notes), original=model, notes=tuple(notes))


def _draw(
    dataset: data_room.Dataset | None, samples: int, seed: int, in_shape: Sequence[int] | None
) -> tuple[Tensor, Tensor | None]:
    generator = stream(seed, "samples")
    if dataset is None:
        if in_shape is None:
            raise ValueError(
                "data is None and so is in_shape; pass data, or the shape of one input for Gaussian inputs."
            )
        return torch.randn(samples, *in_shape, generator=generator), None
    if len(dataset) < 2:
        raise ValueError(
            f"data has {count(len(dataset), 'sample')}; at least 2 are needed, a correlation takes two inputs."
        )
    return data_room.batch(dataset, samples, generator=generator)


def _calibrated(model: nn.Module, x: Tensor, notes: list[str]) -> nn.Module:
    fresh = [
        name
        for name, module in model.named_modules()
        if isinstance(module, _BatchNorm)
        and (module.running_mean is None or module.num_batches_tracked is None or int(module.num_batches_tracked) == 0)
    ]
    if not fresh:
        return model
    copied = copy.deepcopy(model)
    chosen = set(fresh)
    with untouched(model), torch.no_grad():  # the RNG and the original stay as they are
        copied.eval()
        for name, module in copied.named_modules():
            if name in chosen and isinstance(module, _BatchNorm):
                if module.running_mean is None:  # track_running_stats=False: give it statistics to use
                    module.track_running_stats = True
                    module.register_buffer("running_mean", torch.zeros(module.num_features, device=x.device))
                    module.register_buffer("running_var", torch.ones(module.num_features, device=x.device))
                module.momentum = 1.0
                module.train()
        _outputs(copied, x, keep_modes=True)
        copied.eval()
    many = f"{len(fresh)} batch normalizations have" if len(fresh) > 1 else "one batch normalization has"
    notes.append(f"{many} never been trained; a copy was measured whose statistics are those of the batch")
    return copied


def _outputs(model: nn.Module, x: Tensor, *, keep_modes: bool = False) -> Tensor:
    """Run the model once and insist on one real tensor (N, outputs).

    Returns:
        The outputs, detached.

    Raises:
        TypeError: If it returns anything but one real-valued tensor.
        ValueError: If it cannot take the inputs, or returns another shape.
    """
    try:
        if keep_modes:
            out = model(x)
        else:
            with untouched(model, training=False), torch.no_grad():
                out = model(x)
    except (RuntimeError, ValueError, IndexError, TypeError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(
            f"model cannot take the data: inputs of shape {tuple(x.shape)} and dtype {x.dtype} raised "
            f"{type(error).__name__}: {first}; {_advice(model, x)}."
        ) from error
    if not isinstance(out, Tensor):
        raise TypeError(
            f"model must return one tensor of outputs, got {type(out).__name__}; wrap it in a module that returns the "
            "logits alone (dictionaries and tuples are not supported yet)."
        )
    check_tensor("the model's output", out)
    if not out.is_floating_point() or out.ndim != 2 or out.shape[0] != x.shape[0]:
        raise ValueError(
            f"model must return real outputs of shape (N, outputs), got {tuple(out.shape)} of {out.dtype} for "
            f"{count(x.shape[0], 'input')}; add a head that gives one row for each input."
        )
    return out.detach()


def _advice(model: nn.Module, x: Tensor) -> str:
    own = next((p.dtype for p in model.parameters() if p.is_floating_point()), x.dtype)
    if own != x.dtype and not any(isinstance(module, nn.Embedding) for module in model.modules()):
        return f"the parameters are {own}, so convert the inputs with .to({own}) or the model with .to({x.dtype})"
    return "make the model's first layer fit the data"


def _check_targets(out: Tensor, y: Tensor, dataset: data_room.Dataset, kind: Likelihood) -> None:
    if kind == "categorical":
        if y.is_floating_point():
            raise ValueError(f"likelihood is 'categorical' but the targets are {y.dtype}; pass class indices.")
        top = int(dataset.targets.max())
        if top >= out.shape[1]:
            raise ValueError(
                f"data has labels up to {top} but the model has {count(out.shape[1], 'output')}; give the model "
                f"at least {top + 1} outputs."
            )
    elif y.numel() != out.numel():
        raise ValueError(
            f"data has targets of shape {tuple(y.shape)} but the model's outputs have shape {tuple(out.shape)}; make "
            "them equal."
        )
