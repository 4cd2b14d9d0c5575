"""What every measurement checks first: the model, its inputs, whether samples mix, what a forward pass returns."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.parameter import is_lazy

from isometry._base import check_finite, check_tensor
from isometry.tape import Inputs, as_inputs, plain_operations

__all__ = [
    "Mixing",
    "ModelCallError",
    "allowed_residual",
    "call_loss",
    "check_model",
    "check_per_sample",
    "differentiable",
    "known",
    "open_inputs",
    "ordinary",
    "outside_inference",
    "run_model",
    "sample_mixing",
]


# What a Gram matrix and a backward pass may differ by, relatively: rounding in the model's passes, with a wide margin.
# Models in float64 often have pieces that compute in float32 whatever they are given (RMS norms, rotary embeddings).
_ALLOWED = {torch.float64: 1e-5, torch.float32: 2e-3}


def allowed_residual(dtype: torch.dtype) -> float:
    """Say by how much a measurement may differ from its own check, relatively.

    Returns:
        The bound; for half precision 0.2.
    """
    return _ALLOWED.get(dtype, 0.2)


# Measurements and the methods of their results run as if there were no inference mode around them: tensors that are
# made in it can be neither differentiated nor written to later.
outside_inference = torch.inference_mode(False)


class ModelCallError(ValueError):
    """The model raised on the inputs; the message says which shape and dtype it was given and what it said."""


class Mixing(NamedTuple):
    """A module through which one sample's output depends on chance or on the other samples."""

    name: str
    kind: str
    why: str


def check_model(model: object) -> nn.Module:
    """Insist on an initialized module.

    Returns:
        The model itself.

    Raises:
        TypeError: If it is not a module.
        ValueError: If it has lazy parameters that have no shape yet, meta parameters that have no values, or parameters
            that were made in inference mode, or an embedding shortens rows of a weight that another module reads.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}; build the model first.")
    for name, parameter in model.named_parameters():
        if is_lazy(parameter):
            raise ValueError(f"model: {name!r} is lazy and has no shape yet; run the model once on an input first.")
        if parameter.is_meta:
            raise ValueError(f"model: {name!r} is on the meta device and has no values; load or initialize it first.")
        if parameter.is_inference():
            raise ValueError(
                f"model: {name!r} was made inside torch.inference_mode() and has no derivatives; build the model "
                "outside of it, or measure a copy.deepcopy(model) that is made outside."
            )
    _insist_on_own_rows(model)
    return model


def _insist_on_own_rows(model: nn.Module) -> None:
    """Refuse tied weights of which an embedding shortens rows: what the others read depends on what was looked up.

    Raises:
        ValueError: Naming the modules.
    """
    shortened = {
        id(module.weight): (name, module)
        for name, module in model.named_modules()
        if isinstance(module, nn.Embedding | nn.EmbeddingBag) and module.max_norm is not None
    }
    for reader, module in model.named_modules() if shortened else ():
        for parameter in module._parameters.values():
            name, embedding = shortened.get(id(parameter), ("", module))
            if getattr(module, "max_norm", None) != getattr(embedding, "max_norm", None):
                raise ValueError(
                    f"model: {name!r} shortens the rows that it looks up (max_norm), and {reader!r} reads the same "
                    "weight, so an output depends on what was looked up before; untie the weight, or set max_norm to "
                    "None, to measure."
                )


def known(value: float) -> float | None:
    """Make a number one that is equal to itself, so that models that hold NaN can be told to be as they were.

    Returns:
        The number; None for NaN.
    """
    return None if math.isnan(value) else value


def open_inputs(model: nn.Module, x: object) -> Inputs:
    """Insist on a batch of finite inputs on the model's device.

    Returns:
        The inputs, detached.

    Raises:
        ValueError: If the batch is empty, holds NaN or infinity, or lies on another device than the model.
    """
    if isinstance(x, Tensor):
        check_tensor("x", x, min_ndim=1)
    inputs = as_inputs(x)
    parameter = next(model.parameters(), None)
    for tensor in inputs.tensors():
        if check_tensor("x", tensor).is_meta:
            raise ValueError("x is on the meta device and has no values; make it on a real device.")
        check_finite("x", tensor)
        if parameter is not None and parameter.device != tensor.device:
            raise ValueError(
                f"x is on {tensor.device}, the model on {parameter.device}; move one of them with .to(device)."
            )
    return inputs.mapped(ordinary, shared=True)


def ordinary(tensor: Tensor) -> Tensor:
    """Detach a tensor that may have been made in inference mode; for use ``outside_inference``.

    Returns:
        The tensor, a copy if it could not be in a graph.
    """
    return tensor.detach().clone() if tensor.is_inference() else tensor.detach()


def sample_mixing(model: nn.Module) -> tuple[Mixing, ...]:
    """Find the modules that, in their present modes, make samples depend on each other or on chance.

    Returns:
        Batch normalizations that use the batch's statistics, and active dropouts of any kind.
    """
    found = []
    for name, module in model.named_modules():
        why = None
        if isinstance(module, _BatchNorm):
            why = "uses the batch's statistics" if module.training or module.running_mean is None else None
        elif module.training and _dropout_rate(module) > 0:
            why = "drops units at random"
        elif module.training and isinstance(module, nn.RReLU):
            why = "draws slopes at random"
        if why is not None:
            found.append(Mixing(name, type(module).__name__, why))
    return tuple(found)


def _dropout_rate(module: nn.Module) -> float:
    if isinstance(module, _DropoutNd):
        return float(module.p)
    return float(module.dropout) if isinstance(module, nn.RNNBase | nn.MultiheadAttention) else 0.0


def check_per_sample(model: nn.Module, what: str, instead: str) -> None:
    """Refuse a model whose samples mix.

    Args:
        model: The model, in the modes in which it will be measured.
        what: What would be undefined, as the subject of a sentence.
        instead: What to do, as an imperative sentence.

    Raises:
        ValueError: Naming the modules.
    """
    mixing = sample_mixing(model)
    if mixing:
        shown = ", ".join(f"{m.name or 'the model'!r} ({m.kind}) {m.why}" for m in mixing[:3])
        more = f" and {len(mixing) - 3} more" if len(mixing) > 3 else ""
        raise ValueError(f"{what} undefined here: {shown}{more}. {instead}")


@contextmanager
def differentiable(model: nn.Module) -> Iterator[None]:
    """Record gradients inside the block, for frozen parameters too, whatever the caller's grad mode.

    For use inside ``tape.untouched``, which restores the ``requires_grad`` flags.

    Yields:
        Nothing.
    """
    with torch.inference_mode(False), torch.enable_grad(), plain_operations():
        for parameter in model.parameters():
            if parameter.is_floating_point():
                parameter.requires_grad_()
        yield


def run_model(model: nn.Module, x: Inputs) -> Tensor:
    """Run the model on the inputs, and say in plain words why it failed if it does.

    Returns:
        The output that is measured: one floating-point tensor with a row per sample.

    Raises:
        ModelCallError: If the model raises.
        TypeError: If no output is a floating-point tensor, or it is not clear which one is meant.
        ValueError: If the output's first dimension is not the batch.
    """
    try:
        with plain_operations():
            returned = model(*x.args, **x.kwargs)
    except Exception as error:
        raise ModelCallError(_complaint(model, x, error)) from error
    output = x.chosen(returned)
    if not output.is_floating_point():
        raise TypeError(f"model returned a tensor of {output.dtype}; measurements need its real-valued outputs.")
    if output.ndim == 0 or output.shape[0] != len(x):
        raise ValueError(
            f"model returned shape {tuple(output.shape)} for {len(x)} inputs; the first dimension of x and of the "
            "output must be the batch."
        )
    return output


def call_loss(loss: Callable[[Tensor, Any], object], name: str, out: Tensor, y: Any) -> object:
    """Call a loss of the user's, and say in plain words why it failed if it does.

    Args:
        loss: The function.
        name: What messages call it.
        out: Outputs.
        y: Their targets.

    Returns:
        What it returned.

    Raises:
        ValueError: If it raises.
    """
    try:
        return loss(out, y)
    except Exception as error:
        targets = f"targets of shape {tuple(y.shape)}" if isinstance(y, Tensor) else f"{type(y).__name__} targets"
        raise ValueError(
            f"loss {name} raised {type(error).__name__} on outputs of shape {tuple(out.shape)} and {targets}: "
            f"{_first_line(error)}. Pass a function of (outputs, y) that takes these and returns one number."
        ) from error


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), "no message")


def _complaint(model: nn.Module, x: Inputs, error: Exception) -> str:
    text = f"model raised {type(error).__name__} on {x}: {_first_line(error)}"
    parameter = next((p for p in model.parameters() if p.is_floating_point()), None)
    given = x.first if x.leaf is None else x.leaf
    if parameter is not None and given.dtype != parameter.dtype and "dtype" in str(error):
        return f"{text}. The model's parameters are {parameter.dtype}; pass x.to({parameter.dtype})."
    tokens = any(isinstance(m, nn.Embedding) for m in model.modules()) and "indices" in str(error)
    if given.is_floating_point() and tokens:
        return f"{text}. The model starts with an embedding; pass integer indices."
    return f"{text}. Pass inputs that the model accepts, with the batch as the first dimension."
