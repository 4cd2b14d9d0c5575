"""Jacobians of chains of linear layers and elementwise functions, as products of large matrices.

J = D^L W^L ... D^1 W^1 (Pennington, Schoenholz, Ganguli 2017). The Jacobians of all inputs of a block are stacked, so
that a layer costs one matrix product ``(inputs * directions, width) x (width, width)`` and one scaling in place.

Whether a model is such a chain is read off the tensors that its modules hand to each other, which must be the very same
and, by their version counters, unchanged in between. The slopes of an elementwise function come from the gradient of
its summed output, whatever the function is; a function that is not elementwise gives itself away by what it makes of a
random cotangent, which must be the slopes times that cotangent.

References:
    J. Pennington, S. S. Schoenholz, S. Ganguli. Resurrecting the sigmoid in deep learning through dynamical isometry,
    2017. https://arxiv.org/abs/1711.04735
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

__all__ = ["Chain", "ChainRecorder"]

_BLOCK_BYTES = 2**20  # of one block's stacked Jacobians: they stay in a core's cache from layer to layer
_LEAST_ROWS = 512  # below that matrix products run far from their best rate
_RESCALED = 4  # layers after which the products' size is looked at
_SMALL, _LARGE = 2.0**-40, 2.0**40  # beyond these they are brought back to order one, by a power of two
_Factor = tuple[bool, Tensor]  # (is a matrix (out, in); else slopes (inputs, units)), the tensor


@dataclass(eq=False)
class Chain:
    """A chain's factors, the first layer first."""

    factors: list[_Factor]
    in_units: int
    out_units: int

    def to(self, dtype: torch.dtype) -> Chain:
        """Give the chain in another dtype.

        Returns:
            A new chain; factors that already have the dtype are shared.
        """
        return Chain([(is_matrix, f.to(dtype)) for is_matrix, f in self.factors], self.in_units, self.out_units)

    def part(self, inputs: slice) -> Chain:
        """Give the chain of some of the inputs.

        Returns:
            A new chain that shares the factors.
        """
        factors = [(is_matrix, f if is_matrix else f[inputs]) for is_matrix, f in self.factors]
        return Chain(factors, self.in_units, self.out_units)

    @property
    def inputs(self) -> int | None:
        """Number of inputs; None for a chain without slopes, which fits any number."""
        return next((len(f) for is_matrix, f in self.factors if not is_matrix), None)

    def bytes(self, model: nn.Module) -> int:
        """Count what the factors take besides the model's own parameters.

        Returns:
            Bytes.
        """
        own = {p.untyped_storage().data_ptr() for p in model.parameters()}
        return sum(f.numel() * f.element_size() for _, f in self.factors if f.untyped_storage().data_ptr() not in own)

    def push(self, tangents: Tensor) -> Tensor:
        """Multiply by the Jacobians.

        Args:
            tangents: Shape ``(N, V, in)``.

        Returns:
            Shape ``(N, V, out)``.
        """
        return _through(tangents, self._steps(forward=True))

    def pull(self, cotangents: Tensor) -> Tensor:
        """Multiply by the transposed Jacobians.

        Args:
            cotangents: Shape ``(N, V, out)``.

        Returns:
            Shape ``(N, V, in)``.
        """
        return _through(cotangents, self._steps(forward=False))

    def matrices(self, count: int) -> Iterator[tuple[Tensor, int]]:
        """Form the Jacobians from the narrower side, a cache-sized block of inputs at a time.

        Args:
            count: Number of inputs.

        Yields:
            Shape ``(block, out, in)``, and the power of two to multiply it with: the products of many layers may lie
            far beyond the range of float32.
        """
        forward = self.in_units < self.out_units
        directions = min(self.in_units, self.out_units)
        widest = max(f.shape[-1] for _, f in self.factors)
        per_input = directions * widest * self.factors[0][1].element_size()
        block = max(1, _BLOCK_BYTES // per_input, _LEAST_ROWS // directions)
        block = math.ceil(count / math.ceil(count / block))  # equal ones: a small remainder would run slowly
        for begin in range(0, count, block):
            end = min(begin + block, count)
            steps = self.part(slice(begin, end))._steps(forward=forward)
            first, rest = _seed(steps, end - begin)
            stacked, exponent = _scaled_through(first, rest)
            yield (stacked.transpose(1, 2) if forward else stacked), exponent

    def _steps(self, *, forward: bool) -> list[_Factor]:
        if forward:
            return [(is_matrix, f.t() if is_matrix else f) for is_matrix, f in self.factors]
        return self.factors[::-1]


def _seed(steps: list[_Factor], count: int) -> tuple[Tensor, list[_Factor]]:
    """Start from the first matrix instead of multiplying it by the identity.

    Returns:
        The stacked start, shape ``(inputs, directions, units)``, and the steps that remain.
    """
    (is_matrix, first), rest = steps[0], steps[1:]
    if is_matrix:
        return first.expand(count, -1, -1), rest
    if rest and rest[0][0]:
        return first.unsqueeze(2) * rest[0][1], rest[1:]
    return torch.diag_embed(first), rest


def _through(stacked: Tensor, steps: list[_Factor]) -> Tensor:
    """Multiply stacked rows by matrices and slopes.

    Returns:
        Shape ``(inputs, directions, units)``.
    """
    product, exponent = _scaled_through(stacked, steps)
    return torch.ldexp(product, torch.tensor(exponent)) if exponent else product


def _scaled_through(stacked: Tensor, steps: list[_Factor]) -> tuple[Tensor, int]:
    """Multiply stacked rows by matrices and slopes, between two buffers, and keep them of order one on the way.

    Returns:
        Shape ``(inputs, directions, units)``, and the exponent of the power of two that was taken out.
    """
    count, directions, units = stacked.shape
    widest = max([units, *(f.shape[-1] for _, f in steps)])
    rows = count * directions
    here, there = stacked.new_empty(rows * widest), stacked.new_empty(rows * widest)
    current = here[: rows * units].view(rows, units)
    current.view(count, directions, units).copy_(stacked)
    exponent = 0
    for step, (is_matrix, factor) in enumerate(steps):
        if step % (2 * _RESCALED) == 0:
            exponent += _brought_back(current)
        if is_matrix:
            units = factor.shape[1]
            product = there[: rows * units].view(rows, units)
            torch.mm(current, factor, out=product)  # W^l from the right: the rows are J^T's (or J's) own
            here, there, current = there, here, product
        else:
            current.view(count, directions, units).mul_(factor.unsqueeze(1))  # D^l
    return current.view(count, directions, units), exponent


def _brought_back(rows: Tensor) -> int:
    """Divide rows in place by a power of two if they have become very small or very large.

    Returns:
        Its exponent.
    """
    size = float(torch.maximum(rows.amax(), -rows.amin())) if rows.numel() else 1.0
    if not math.isfinite(size) or size == 0 or _SMALL < size < _LARGE:
        return 0
    exponent = math.frexp(size)[1]
    while exponent:  # in steps whose power of two is a normal number in float32
        part = max(-120, min(120, exponent))
        rows.mul_(2.0**-part)
        exponent -= part
    return math.frexp(size)[1]


@dataclass(eq=False)
class _Seen:
    """One call: the very tensors that went in and came out, and the input's value at that time."""

    module: nn.Module
    given: Tensor | None
    value: Tensor | None
    given_version: int = 0
    returned: Tensor | None = None
    returned_version: int = 0


class ChainRecorder:
    """Watches a forward pass for a chain of linear layers and elementwise modules.

    Args:
        samples: Size of the batch.
    """

    def __init__(self, samples: int) -> None:
        self.samples = samples
        self.seen: list[_Seen] = []
        self.widest = 1  # the most elements that a module returned for one input

    def attach(self, model: nn.Module) -> list[Any]:
        """Hook the modules that do the work: those without children, and parametrized linear layers.

        Returns:
            The hooks' handles.
        """
        handles: list[Any] = []
        for name, module in model.named_modules():
            inside = "parametrizations" in name.split(".")
            if not inside and (not module._modules or isinstance(module, nn.Linear)):
                handles.append(module.register_forward_pre_hook(self._before))
                handles.append(module.register_forward_hook(self._after))
        return handles

    def _before(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        only = args[0] if len(args) == 1 and isinstance(args[0], Tensor) else None
        fits = only is not None and only.is_floating_point() and only.shape[:1] == (self.samples,)
        if only is None or not fits:
            self.seen.append(_Seen(module, None, None))
            return
        # A copy, for modules that work in place.
        value = only.detach().clone() if _is_pointwise(module) else only.detach()
        self.seen.append(_Seen(module, only, value, only._version))

    def _after(self, module: nn.Module, _args: Any, result: Any) -> None:
        if isinstance(result, Tensor):
            self.widest = max(self.widest, result.numel() // self.samples)
            if self.seen and self.seen[-1].module is module:
                self.seen[-1].returned, self.seen[-1].returned_version = result, result._version

    def chain(self, handed: Tensor, final: Tensor, calls: slice) -> Chain | None:
        """Read the chain off the recorded calls.

        Args:
            handed: The tensor that entered the path.
            final: The tensor that left it.
            calls: Which of the calls lie on the path.

        Returns:
            The chain, or None if the path is anything else.
        """
        on_path = self.seen[calls]
        current: Tensor | None = handed
        version = on_path[0].given_version if on_path else 0
        for call in on_path:
            same = call.given is current and call.given_version == version
            if not same or not _can_be_factor(call, self.samples):
                return None
            current, version = call.returned, call.returned_version
        ended = current is final and final._version == version
        if not ended or not any(isinstance(call.module, nn.Linear) for call in on_path):
            return None
        slopes = _slopes([call for call in on_path if _is_pointwise(call.module)])
        if slopes is None:
            return None
        factors: list[_Factor] = []
        for call in on_path:
            if isinstance(call.module, nn.Linear):
                factors.append((True, call.module.weight.detach()))
            elif id(call) in slopes:
                _append_slopes(factors, slopes[id(call)])
        return Chain(factors, handed[0].numel(), final[0].numel())


_LINEAR = (nn.Linear.forward, nn.modules.linear.NonDynamicallyQuantizableLinear.forward)


def _keeps_values(module: nn.Module) -> bool:
    reshapes = isinstance(module, nn.Identity | nn.Flatten | nn.Unflatten)
    return reshapes or (isinstance(module, _DropoutNd) and not module.training)


def _is_pointwise(module: nn.Module) -> bool:
    """Tell whether a module may be an elementwise function: no parameters, or a normalization that is fixed.

    Returns:
        True also for functions that are not elementwise; ``_slopes`` finds those out.
    """
    if isinstance(module, _BatchNorm):
        return not module.training and module.running_mean is not None
    return not _keeps_values(module) and (not module._parameters or isinstance(module, nn.PReLU))


def _can_be_factor(call: _Seen, samples: int) -> bool:
    module, result, value = call.module, call.returned, call.value
    if result is None or value is None or result.shape[:1] != (samples,):
        return False
    if isinstance(module, nn.Linear):
        return value.ndim == 2 and type(module).forward in _LINEAR
    if _keeps_values(module):
        return result.numel() == value.numel()
    return _is_pointwise(module) and result.shape == value.shape


def _slopes(calls: list[_Seen]) -> dict[int, Tensor] | None:
    """Differentiate the elementwise functions at their inputs; equal stateless ones of torch.nn all at once.

    Returns:
        Shape ``(inputs, units)`` by the call's id, or None if a function cannot be differentiated or mixes elements.
    """
    groups: dict[object, list[_Seen]] = {}
    for call in calls:
        module, value = call.module, call.value
        assert value is not None  # noqa: S101 - _can_be_factor has seen it
        stateless = type(module).__module__ == "torch.nn.modules.activation" and not module._parameters
        key = (type(module), module.extra_repr(), value.shape[1:], value.dtype) if stateless else id(call)
        groups.setdefault(key, []).append(call)
    slopes: dict[int, Tensor] = {}
    for group in groups.values():
        values = [call.value for call in group if call.value is not None]
        with torch.enable_grad():
            leaf = torch.cat(values).requires_grad_()
            output = group[0].module.forward(leaf * 1)  # not through its hooks
            if not isinstance(output, Tensor) or not output.requires_grad:
                return None
            (slope,) = torch.autograd.grad(output.sum(), leaf, retain_graph=True)
            generator = torch.Generator().manual_seed(0)
            probe = torch.rand(output.shape, generator=generator).to(output) + 0.5
            (image,) = torch.autograd.grad(output, leaf, probe)
        near = max(1e-4, 20 * torch.finfo(slope.dtype).eps)
        first = slice(None, None, len(values[0]))  # one sample of each call will do
        again = torch.cat([call.returned for call in group if call.returned is not None]).detach()
        if not torch.allclose(image[first], (slope * probe)[first], rtol=near, atol=1e-30):
            return None  # it mixes elements
        if not torch.allclose(output.detach(), again, rtol=near, atol=1e-30):
            return None  # it gives another result each time
        for call, part in zip(group, torch.split(slope, len(values[0])), strict=True):
            slopes[id(call)] = part.reshape(len(part), -1)
    return slopes


def _append_slopes(factors: list[_Factor], slopes: Tensor) -> None:
    if factors and not factors[-1][0]:
        factors[-1] = (False, factors[-1][1] * slopes)
    else:
        factors.append((False, slopes))
