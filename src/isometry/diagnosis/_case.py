"""The case on the table: a model, a batch of its data, what its outputs mean; checked before anything is measured."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from isometry import data as data_room
from isometry._base import check_tensor, stream
from isometry.diagnosis._admit import admit
from isometry.diagnosis._nodes import as_nodes, counted_rows
from isometry.diagnosis._words import count
from isometry.nn import is_foreign, is_pretrained, named_inputs, positions_reference
from isometry.tape import Inputs, as_inputs, plain_operations, untouched
from isometry.training import Likelihood, chance_loss, infer_likelihood

__all__ = ["Case", "open_case", "reopen"]

POSITIONS = 4096  # of all sequences that are measured


@dataclass(frozen=True, eq=False)
class Case:
    """A model with a batch, ready to be measured in evaluation mode; of one whole graph the samples are its nodes.

    Attributes:
        model: What is measured: the user's model itself, or a copy whose batch normalization was calibrated.
        original: The user's model; of a compiled one, the module inside the compiler's wrapper.
        x: The batch, N samples.
        y: Targets, (N,) or one for each position, or None.
        dataset: All the data, or None.
        likelihood: What the outputs parametrize.
        outputs: Number of outputs, of one position.
        shape: Shape of the outputs, (N, outputs) or (N, *positions, outputs).
        chance: Loss of a network that knows nothing, over all targets; NaN without targets.
        seed: Base seed of every draw.
        notes: What a reader should know of how the case was prepared.
        pretrained: Whether the user's model has weights that were read from a checkpoint.
    """

    model: nn.Module
    original: nn.Module
    x: Inputs
    y: Tensor | None
    dataset: data_room.Dataset | None
    likelihood: Likelihood
    outputs: int
    shape: tuple[int, ...]
    chance: float
    seed: int
    notes: tuple[str, ...]
    pretrained: bool = False


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
        model: A module whose output, or one of whose outputs, is (N, outputs) or (N, *positions, outputs).
        data: Anything that ``isometry.data.as_dataset`` takes; ``Inputs``, or a dictionary of a model's arguments
            without ``labels``, for inputs without targets; or None.
        samples: Size of the batch at most; fewer sequences are taken where each has many positions.
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
    notes = list(remarks)
    given = _unlabelled(data)
    dataset = None if data is None or given is not None else _named(model, data_room.as_dataset(data))
    if given is None:
        given, y = _draw(dataset, samples, seed, in_shape, notes)
    else:
        given, y = given[: min(samples, len(given))], None
    x, y = named_inputs(model, given).to(device), None if y is None else y.to(device)
    if x.whole:
        x = as_nodes(x, _outputs(model, x)[0], y, notes)
    measured = _calibrated(model, x, notes)
    out, headless = _outputs(measured, x)
    if headless and likelihood != "categorical" and (y is None or not y.is_floating_point()):
        if dataset is not None:
            notes.append("the model has no head for the targets: its hidden states were measured, without targets")
        dataset, y, likelihood = None, None, "gaussian"
    if y is not None and out.ndim > 2 and tuple(y.shape) == (len(out), *out.shape[2:]) != tuple(out.shape[:-1]):
        x, out = x.changed(class_dim=1), out.movedim(1, -1)  # classes before positions, as of images
        dataset = None if dataset is None else _with_class_dim(dataset)
    kind = likelihood or (infer_likelihood(y) if y is not None else "categorical")
    if y is not None and dataset is not None:
        _check_targets(out, y, dataset, kind, _headed(model))
    known = None if dataset is None else counted_rows(x, dataset.targets)
    chance = math.nan if known is None or dataset is None else chance_loss(known, kind, dataset.classes)
    return Case(
        model=measured,
        original=model,
        x=x,
        y=y,
        dataset=dataset,
        likelihood=kind,
        outputs=out.shape[-1],
        shape=tuple(out.shape),
        chance=chance,
        seed=seed,
        notes=tuple(notes),
        pretrained=is_pretrained(model),
    )


def _unlabelled(data: object) -> Inputs | None:
    """Read inputs that come without targets.

    Returns:
        The inputs; None for anything else.
    """
    if isinstance(data, Inputs):
        return data
    if isinstance(data, Mapping) and "input_ids" in data and not {"labels", "label"} & set(data):
        return as_inputs(data)
    return None


def _named(model: nn.Module, dataset: data_room.Dataset) -> data_room.Dataset:
    """Give a data set's inputs the names that a model of the transformers library calls them.

    Returns:
        The data set; the same one for any other model.
    """
    if not is_foreign(model):
        return dataset
    tests = dataset.test_inputs
    return replace(
        dataset,
        inputs=named_inputs(model, dataset.inputs),
        test_inputs=None if tests is None else named_inputs(model, tests),
    )


def _with_class_dim(dataset: data_room.Dataset) -> data_room.Dataset:
    tests = dataset.test_inputs
    return replace(
        dataset,
        inputs=as_inputs(dataset.inputs).changed(class_dim=1),
        test_inputs=None if tests is None else as_inputs(tests).changed(class_dim=1),
    )


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
    dataset: data_room.Dataset | None, samples: int, seed: int, in_shape: Sequence[int] | None, notes: list[str]
) -> tuple[Inputs, Tensor | None]:
    generator = stream(seed, "samples")
    if dataset is None:
        if in_shape is None:
            raise ValueError(
                "data is None and so is in_shape; pass data, or the shape of one input for Gaussian inputs."
            )
        return as_inputs(torch.randn(samples, *in_shape, generator=generator)), None
    if len(dataset) < 2:
        raise ValueError(
            f"data has {count(len(dataset), 'sample')}; at least 2 are needed, a correlation takes two inputs."
        )
    if dataset.graph:
        return as_inputs(dataset.inputs), dataset.targets
    positions = dataset.targets[0].numel() if dataset.classes is not None else 1
    fewer = max(2, min(samples, POSITIONS // positions))
    if fewer < samples:
        notes.append(f"{fewer} sequences were measured, of {count(positions, 'position')} each")
    x, y = data_room.batch(dataset, fewer, generator=generator)
    return as_inputs(x), y


def _calibrated(model: nn.Module, x: Inputs, notes: list[str]) -> nn.Module:
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


def _outputs(model: nn.Module, x: Inputs, *, keep_modes: bool = False) -> tuple[Tensor, bool]:
    """Run the model once and insist on one real tensor (N, ..., outputs).

    Returns:
        The outputs, detached; and whether they are hidden states, of a model that has no head.

    Raises:
        TypeError: If it returns anything but one real-valued tensor.
        ValueError: If it cannot take the inputs, or returns another shape.
    """
    try:
        if keep_modes:
            returned = model(*x.args, **x.kwargs)
        else:
            with untouched(model, training=False), torch.no_grad(), plain_operations():
                returned = model(*x.args, **x.kwargs)
    except (RuntimeError, ValueError, IndexError, TypeError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(
            f"model cannot take the data: {str(x).replace('x of', 'inputs of')} raised "
            f"{type(error).__name__}: {first}; {_advice(model, x, error)}."
        ) from error
    out = x.chosen(returned)
    check_tensor("the model's output", out)
    if not out.is_floating_point() or out.ndim < 2 or out.shape[0] != len(x):
        raise ValueError(
            f"model must return real outputs of shape (N, outputs) or (N, positions, outputs), got {tuple(out.shape)} "
            f"of {out.dtype} for {count(len(x), 'input')}; add a head that gives one row for each input."
        )
    headless = is_foreign(model) and isinstance(returned, Mapping) and "logits" not in returned
    return out.detach(), headless


def _advice(model: nn.Module, x: Inputs, error: Exception) -> str:
    given = (x.first if x.leaf is None else x.leaf).dtype
    own = next((p.dtype for p in model.parameters() if p.is_floating_point()), given)
    rows = [module.num_embeddings for module in model.modules() if isinstance(module, nn.Embedding)]
    if rows and given.is_floating_point and "embedding" in str(error):
        return "the model reads tokens, so pass data of token ids, a text such as shakespeare"
    if rows and isinstance(error, IndexError) and not given.is_floating_point:
        return (
            f"its embeddings have {' and '.join(map(str, rows))} rows, the token ids reach {int(x.first.max())} and a "
            f"sequence has {x.first.shape[-1]} positions: pass shorter sequences (a text's length=), or more rows"
        )
    if own != given and not rows and not given.is_floating_point:
        return (
            "the model takes real numbers and the data are token ids: pass other data, a model that reads tokens, or "
            f"convert the inputs with .to({own}) if they are measurements"
        )
    if own != given and not rows:
        return f"the parameters are {own}, so convert the inputs with .to({own}) or the model with .to({given})"
    return "make the model's first layer fit the data"


def _headed(model: nn.Module) -> str:
    """Say how to get outputs at each position of a model of the transformers library.

    Returns:
        Words behind a message; none for other models.
    """
    if not is_foreign(model):
        return ""
    reference = positions_reference(model)
    if reference is None:
        return "; of the transformers library AutoModelForMaskedLM and AutoModelForCausalLM give one a position"
    return f"; for one a position the MODEL is {reference!r}"


def _check_targets(out: Tensor, y: Tensor, dataset: data_room.Dataset, kind: Likelihood, advice: str = "") -> None:
    if kind == "categorical":
        if y.is_floating_point():
            raise ValueError(f"likelihood is 'categorical' but the targets are {y.dtype}; pass class indices.")
        top, outputs = int(dataset.targets.max()), out.shape[-1]
        if top >= outputs:
            raise ValueError(
                f"data has labels up to {top} but the model has {count(outputs, 'output')}; give the model "
                f"at least {top + 1} outputs."
            )
        if y.shape != out.shape[:-1]:
            raise ValueError(
                f"data has labels of shape {tuple(y.shape)} but the model's outputs have shape {tuple(out.shape)}; "
                "they must be (N, outputs) for one label a sample, (N, positions, outputs) for one a position"
                f"{advice}."
            )
    elif y.numel() != out.numel():
        raise ValueError(
            f"data has targets of shape {tuple(y.shape)} but the model's outputs have shape {tuple(out.shape)}; make "
            "them equal."
        )
