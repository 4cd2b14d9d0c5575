"""Watch the calls of a model's modules, and stream cotangents back to them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["Call", "Recording", "StaleActivationError", "record"]

OnCall = Callable[["Call"], None]
OnCotangent = Callable[["Call", Tensor], None]


class StaleActivationError(RuntimeError):
    """A recorded activation was overwritten in place after it was recorded; record with ``copy=True``."""


@dataclass(eq=False)
class Call:
    """One call of one module during a forward pass.

    Attributes:
        name: The module's qualified name in the model; the first one if it has several.
        module: The module.
        index: Which call of this module it was, from 0; above 0 for reused modules.
        order: Which call it was among all recorded ones, from 0.
    """

    name: str
    module: nn.Module
    index: int
    order: int
    _inputs: tuple[tuple[Tensor, int], ...] = field(repr=False)
    _output: tuple[Tensor, int] = field(repr=False)

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        """The positional tensor arguments of the call, detached."""
        return tuple(self._fresh(pair) for pair in self._inputs)

    @property
    def input(self) -> Tensor:
        """The first tensor argument, detached."""
        return self._fresh(self._inputs[0])

    @property
    def output(self) -> Tensor:
        """The (first) tensor that the call returned, detached."""
        return self._fresh(self._output)

    def _fresh(self, pair: tuple[Tensor, int]) -> Tensor:
        tensor, version = pair
        if tensor._version != version:
            raise StaleActivationError(
                f"an activation of {self.name!r} was overwritten in place after it was recorded; "
                "record(..., copy=True) keeps a copy."
            )
        return tensor


@dataclass(eq=False)
class Recording:
    """What ``record`` saw: the calls in order, and a way to send cotangents back through them.

    Attributes:
        calls: The recorded calls, in the order in which they ended; empty with ``keep=False``.
    """

    calls: list[Call] = field(default_factory=list)
    _listener: OnCotangent | None = field(default=None, repr=False)
    _anchors: list[Tensor] = field(default_factory=list, repr=False)

    def pull_back(
        self, output: Tensor, cotangents: Tensor, listener: OnCotangent, *, retain_graph: bool = False
    ) -> None:
        """Send cotangents from an output back to every recorded call.

        All cotangents go back in one sweep (``torch.vmap`` over the backward pass). ``listener(call, cotangent)`` is
        called once per recorded call that the output depends on, later calls first, with a tensor of shape
        ``(V, *call.output.shape)``; the tensor is released when the listener returns.

        Args:
            output: The tensor that the model returned, with its graph.
            cotangents: Shape ``(V, *output.shape)``: V directions in the output's space.
            listener: Receives each call's cotangents.
            retain_graph: Keep the graph for another sweep.

        Raises:
            ValueError: If the output does not depend on any recorded call, or the shapes do not fit.
        """
        if cotangents.shape[1:] != output.shape:
            raise ValueError(f"cotangents must have shape (V, *{tuple(output.shape)}), got {tuple(cotangents.shape)}.")
        if not output.requires_grad or not self._anchors:
            raise ValueError("the output does not depend on any recorded module through differentiable operations.")
        self._listener = listener
        try:

            def sweep(cotangent: Tensor) -> tuple[Tensor, ...]:
                grads = torch.autograd.grad(
                    output, self._anchors, cotangent, retain_graph=True, allow_unused=True, materialize_grads=False
                )
                return tuple(g.sum() * 0 for g in grads if g is not None)

            torch.vmap(sweep)(cotangents)
        finally:
            self._listener = None
        if not retain_graph:
            self._anchors.clear()


class _Deliver(torch.autograd.Function):
    """Hands a cotangent to a listener; under vmap the listener sees the whole batch of them."""

    @staticmethod
    def forward(cotangent: Tensor, deliver: Callable[[Tensor], None]) -> Tensor:
        deliver(cotangent.unsqueeze(0))
        return cotangent.new_zeros(())

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        """Nothing is saved: no gradient flows through a delivery."""

    @staticmethod
    def vmap(_info: Any, in_dims: Any, cotangent: Tensor, deliver: Callable[[Tensor], None]) -> tuple[Tensor, None]:
        deliver(cotangent.movedim(in_dims[0], 0))
        return cotangent.new_zeros(()), None


@contextmanager
def record(
    model: nn.Module,
    select: Callable[[str, nn.Module], bool] | None = None,
    *,
    on_call: OnCall | None = None,
    keep: bool = True,
    copy: bool = False,
    cotangents: bool = False,
) -> Iterator[Recording]:
    """Record the calls of a model's modules inside the block.

    Args:
        model: The model that will be run.
        select: Which modules to record, by qualified name and module; default: those without children.
        on_call: Called at the end of every recorded call, while its tensors are certainly as they were.
        keep: Keep the calls (and so their activations) in the recording.
        copy: Keep copies of the activations, for models that overwrite them in place.
        cotangents: Prepare ``Recording.pull_back``. An output that does not require a gradient (frozen parameters,
            an input without gradient) is made a leaf that does.

    Yields:
        The recording, filled as the model runs.
    """
    recording = Recording()
    counts: dict[int, int] = {}
    handles: list[Any] = []

    def hook(name: str) -> Callable[[nn.Module, tuple[Any, ...], Any], Any]:
        def on_forward(module: nn.Module, args: tuple[Any, ...], result: Any) -> Any:
            output = result if isinstance(result, Tensor) else _first_tensor(result)
            if output is None:
                return None
            replaced = None
            if cotangents and output.is_floating_point() and not output.requires_grad and torch.is_grad_enabled():
                output = output.detach().requires_grad_()
                recording._anchors.append(output)
                if isinstance(result, Tensor):
                    # A view, so that an in-place module behind this one does not meet a leaf.
                    replaced = output * 1
                    output = replaced
            call = Call(
                name=name,
                module=module,
                index=counts.get(id(module), 0),
                order=sum(counts.values()),
                _inputs=tuple(_kept(a, copy) for a in args if isinstance(a, Tensor)),
                _output=_kept(output, copy),
            )
            counts[id(module)] = call.index + 1
            if cotangents and output.requires_grad:
                output.register_hook(_deliverer(recording, call))
            if on_call is not None:
                on_call(call)
            if keep:
                recording.calls.append(call)
            return replaced

        return on_forward

    chosen = select if select is not None else _is_leaf
    try:
        for name, module in model.named_modules():
            if chosen(name, module):
                handles.append(module.register_forward_hook(hook(name)))
        yield recording
    finally:
        for handle in handles:
            handle.remove()


def _deliverer(recording: Recording, call: Call) -> Callable[[Tensor], None]:
    def deliver(cotangent: Tensor) -> None:
        if recording._listener is not None:
            listener = recording._listener
            _Deliver.apply(cotangent, lambda batch: listener(call, batch))  # type: ignore[no-untyped-call]

    return deliver


def _is_leaf(_name: str, module: nn.Module) -> bool:
    return next(module.children(), None) is None


def _kept(tensor: Tensor, copy: bool) -> tuple[Tensor, int]:
    kept = tensor.detach().clone() if copy else tensor.detach()
    return kept, kept._version


def _first_tensor(result: Any) -> Tensor | None:
    if isinstance(result, tuple | list):
        return next((r for r in result if isinstance(r, Tensor)), None)
    return None
