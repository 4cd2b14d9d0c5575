"""Is the model a chain that mean-field theory describes: weights, one elementwise function, weights, ...?

The answer is found by running the model, not by reading its code: a chain is a model whose every weight layer is
given exactly an elementwise function of what the layer before it returned. Functions that are called without a module
(``torch.tanh(self.fc(x))``) are recognised as well.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from isometry import theory
from isometry._base import Result
from isometry.diagnosis._case import Case
from isometry.diagnosis._nodes import NodeInputs
from isometry.tape import Call, record, untouched

__all__ = ["Chain", "ChainLayer", "elementwise", "find_chain"]

_FUNCTIONS = ("tanh", "relu", "sigmoid", "gelu", "silu", "elu", "selu", "softplus", "leaky_relu", "hardtanh", "sin")
_LINEAR = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
_WATCHED = 4  # samples on which equality is checked


@dataclass(frozen=True)
class ChainLayer(Result):
    """One weight layer of a chain.

    Attributes:
        name: The layer.
        fan_in: Products that one output sums.
        fan_out: Units, or channels.
        sigma_w: Root mean square of the weights times sqrt(fan_in).
        sigma_b: Root mean square of the biases.
        orthogonality: Spread (standard deviation over mean) of the weight matrix's squared singular values; 0 for an
            orthogonal matrix, about 1 for a square Gaussian one.
    """

    name: str
    fan_in: int
    fan_out: int
    sigma_w: float
    sigma_b: float
    orthogonality: float


@dataclass(frozen=True)
class Chain(Result):
    """A model that mean-field theory describes.

    Attributes:
        activation: The elementwise function, as theory names it.
        activation_like: The name, module or callable from which theory can be asked.
        layers: All weight layers in order; the last one is the readout.
        sigma_w: Geometric mean over the hidden layers behind the first.
        sigma_b: Root mean square over the same layers.
        uniform: Whether the hidden layers' sigma_w agree within 20 %.
    """

    activation: str
    activation_like: object
    layers: tuple[ChainLayer, ...]
    sigma_w: float
    sigma_b: float
    uniform: bool

    @property
    def depth(self) -> int:
        """Number of hidden layers."""
        return len(self.layers) - 1

    @property
    def weights(self) -> str:
        """Which kind the hidden matrices resemble, "orthogonal" or "gaussian"."""
        middle = self.layers[1:-1] or self.layers[:1]
        return "orthogonal" if sum(x.orthogonality for x in middle) / len(middle) < 0.1 else "gaussian"


def find_chain(case: Case) -> tuple[Chain | None, str]:
    """Find out whether the model is a chain.

    Args:
        case: The model and its batch.

    Returns:
        The chain and an empty string, or None and the reason in words.
    """
    norm = next((type(m).__name__ for m in case.model.modules() if "Norm" in type(m).__name__), None)
    if norm is not None:
        return None, f"the model normalizes its signal ({norm}); mean-field recursions for plain chains do not apply"
    calls: list[tuple[nn.Module, str, Tensor, Tensor]] = []
    modules: list[nn.Module] = []

    def on_call(call: Call) -> None:
        if _is_weight(call.module) and call.inputs:
            calls.append((call.module, call.name, call.input.clone(), call.output.clone()))
        elif theory.activation_of(call.module) is not None:
            modules.append(call.module)

    def watched(_name: str, module: nn.Module) -> bool:
        return _is_weight(module) or next(module.children(), None) is None

    with (
        untouched(case.model, training=False),
        torch.no_grad(),
        record(case.model, watched, on_call=on_call, keep=False),
    ):
        few = case.x if isinstance(case.x, NodeInputs) else case.x[: min(_WATCHED, len(case.x))]
        few.run(case.model)
    odd = next((type(m).__name__ for m, *_ in calls if not isinstance(m, _LINEAR)), None)
    if odd is not None:
        return None, f"the model has {'an' if odd[0] in 'AEIOU' else 'a'} {odd}, which is no layer of a plain chain"
    names = [name for _, name, *_ in calls]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None or len({id(m) for m, *_ in calls}) < len(calls):
        return None, f"the model uses {'a layer' if twice is None else f'the layer {twice!r}'} more than once"
    if len(calls) < 3:
        return None, _too_shallow(len(calls))
    candidates: list[object] = [*_distinct(modules), *_FUNCTIONS, nn.Identity()]
    found = _common_function(calls, candidates)
    if found is None:
        return (
            None,
            "a layer's input is no elementwise function of the layer before it (skips, several functions, pooling, "
            "messages between nodes)",
        )
    return _describe(calls, found), ""


def _too_shallow(layers: int) -> str:
    has = "one layer with weights" if layers == 1 else "one hidden layer" if layers == 2 else "no layer with weights"
    return f"the model has {has}; mean-field theory follows a signal through two hidden layers or more"


def _is_weight(module: nn.Module) -> bool:
    return any(p.ndim > 1 for p in module.parameters(recurse=False))


def _distinct(modules: list[nn.Module]) -> list[nn.Module]:
    return list({repr(m): m for m in modules}.values())


def _common_function(calls: list[tuple[nn.Module, str, Tensor, Tensor]], candidates: list[object]) -> object | None:
    gaps = [(before[3], after[2]) for before, after in pairwise(calls)]
    if gaps[-1][0].numel() != gaps[-1][1].numel():
        gaps.pop()  # the readout may pool
    if any(h.numel() != x.numel() for h, x in gaps):
        return None
    for candidate in candidates:
        function = elementwise(candidate)
        if all(_equal(function(h).reshape(-1), x.reshape(-1)) for h, x in gaps):
            return candidate
    return None


def _equal(a: Tensor, b: Tensor) -> bool:
    return bool(torch.allclose(a, b, rtol=1e-4, atol=1e-30))


def elementwise(candidate: object) -> Callable[[Tensor], Tensor]:
    """Give a chain's elementwise function as something to call.

    Args:
        candidate: A module, or a function's name in torch or torch.nn.functional.

    Returns:
        The function; it leaves its argument alone.
    """
    if isinstance(candidate, nn.Module):
        return lambda h: candidate(h.clone())
    if candidate == "linear":
        return lambda h: h
    found: Callable[[Tensor], Tensor] = getattr(torch, str(candidate), None) or getattr(nn.functional, str(candidate))
    return found


def _describe(calls: list[tuple[nn.Module, str, Tensor, Tensor]], found: object) -> Chain:
    layers = tuple(_layer(module, name) for module, name, *_ in calls)
    middle = layers[1:-1] or layers[:1]
    logs = [math.log(max(x.sigma_w, 1e-300)) for x in middle]
    sigma_w = math.exp(sum(logs) / len(logs))
    like = "linear" if isinstance(found, nn.Identity) else found
    name = theory.activation_of(like) if isinstance(like, nn.Module) else like
    return Chain(
        activation=str(getattr(name, "name", name)),
        activation_like=like,
        layers=layers,
        sigma_w=sigma_w,
        sigma_b=math.sqrt(sum(x.sigma_b**2 for x in middle) / len(middle)),
        uniform=max(logs) - min(logs) < math.log(1.2) if math.isfinite(sum(logs)) else False,
    )


def _layer(module: nn.Module, name: str) -> ChainLayer:
    weight = module.weight.detach().double()  # type: ignore[operator]
    bias = getattr(module, "bias", None)
    fan_in = weight[0].numel()
    moment = float(weight.square().mean())
    return ChainLayer(
        name=name,
        fan_in=fan_in,
        fan_out=weight.shape[0],
        sigma_w=math.sqrt(moment * fan_in),
        sigma_b=0.0 if bias is None else float(bias.detach().double().square().mean().sqrt()),
        orthogonality=_spread(weight.reshape(weight.shape[0], -1)),
    )


def _spread(matrix: Tensor) -> float:
    """Spread of the squared singular values by their first two moments, tr A and tr A^2 of the smaller Gram matrix.

    Returns:
        Standard deviation over mean.
    """
    if matrix.ndim > 1 and matrix.shape[1] > matrix.shape[0]:
        matrix = matrix.T
    gram = matrix.T @ matrix
    mean = float(gram.diagonal().mean())
    if not math.isfinite(mean) or mean == 0:
        return math.nan
    second = float(gram.square().sum()) / len(gram)
    return math.sqrt(max(second / mean**2 - 1, 0.0))
