"""Watch the calls of a model's modules, and stream cotangents back to them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from isometry.tape._plain_operations import plain_operations
from isometry.tape._sweep import Deliver, Seed, sweep_at_once, unwrapped

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
        """The tensor arguments of the call (positional ones first), detached."""
        return tuple(self._fresh(pair) for pair in self._inputs)

    @property
    def input(self) -> Tensor:
        """The first tensor argument, detached."""
        return self._fresh(self._inputs[0])

    @property
    def output(self) -> Tensor:
        """The (first) tensor that the call returned, detached."""
        return self._fresh(self._output)

    @property
    def output_shape(self) -> torch.Size:
        """The shape of the output, whatever became of its values."""
        return self._output[0].shape

    def _fresh(self, pair: tuple[Tensor, int]) -> Tensor:
        tensor, version = pair
        if tensor._version != version:
            raise StaleActivationError(
                f"an activation of {self.name!r} was overwritten in place after it was recorded; "
                "record with copy=True, or use the module's out-of-place form."
            )
        return tensor


@dataclass(eq=False)
class Recording:
    """The calls of a forward pass, and the way back through them.

    Attributes:
        calls: The recorded calls in the order in which they ended; empty if ``keep=False``.
    """

    calls: list[Call] = field(default_factory=list)
    _listener: OnCotangent | None = field(default=None, repr=False)
    _directions: int = field(default=0, repr=False)
    _anchors: list[Tensor] = field(default_factory=list, repr=False)

    def pull_back(
        self,
        output: Tensor,
        cotangents: Tensor,
        listener: OnCotangent,
        *,
        retain_graph: bool = False,
        batched: bool = True,
    ) -> None:
        """Send cotangents from an output back to every recorded call.

        All cotangents go back in one sweep (``torch.vmap`` over the backward pass): the gradient of a linear layer is
        then one matrix product for all of them. ``listener(call, cotangent)`` is called once per recorded call that
        the output depends on, later calls first, with a tensor of shape ``(V, *call.output_shape)``; the tensor is
        released when the listener returns. Of a call that returned several tensors only the first one's cotangent is
        delivered.

        Args:
            output: The tensor that the model returned, with its graph.
            cotangents: Shape ``(V, *output.shape)``: V directions in the output's space.
            listener: Receives each call's cotangents.
            retain_graph: Keep the graph for another sweep.
            batched: False sweeps once per direction and keeps every call's cotangents until the end, for operations
                that ``torch.vmap`` cannot take; the listener hears the same.

        Raises:
            ValueError: If the output does not depend on any recorded call, or the shapes do not fit.
        """
        if cotangents.shape[1:] != output.shape or cotangents.ndim != output.ndim + 1:
            raise ValueError(f"cotangents must have shape (V, *{tuple(output.shape)}), got {tuple(cotangents.shape)}.")
        if not output.requires_grad or not self._anchors:
            raise ValueError(
                "the output does not depend on any recorded module through differentiable operations; "
                "run the model inside record(cotangents=True) with gradients enabled."
            )
        self._directions = cotangents.shape[0]
        try:
            if batched:
                self._listener = listener
                sweep_at_once(output, self._anchors, cotangents, retain_graph)
            else:
                self._sweep_one_by_one(output, cotangents, listener, retain_graph)
        finally:
            self._listener = None
        if not retain_graph:
            self._anchors.clear()

    def _sweep_one_by_one(self, output: Tensor, cotangents: Tensor, listener: OnCotangent, retain_graph: bool) -> None:
        calls: dict[int, Call] = {}
        heard: dict[int, dict[int, Tensor]] = {}
        direction = 0

        def note(call: Call, part: Tensor) -> None:
            calls[call.order] = call
            heard.setdefault(call.order, {})[direction] = part[0]

        self._listener, self._directions = note, 1
        for direction, cotangent in enumerate(cotangents):
            keep = retain_graph or direction + 1 < len(cotangents)
            planted = Seed.apply(output, [cotangent])  # type: ignore[no-untyped-call]
            torch.autograd.grad(planted, self._anchors, retain_graph=keep, allow_unused=True)
        self._listener = None
        for order in sorted(heard, reverse=True):
            parts = heard.pop(order)
            zero = torch.zeros_like(next(iter(parts.values())))
            listener(calls[order], torch.stack([parts.get(v, zero) for v in range(len(cotangents))]))


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

    What a call took in and gave back is recorded as the module's own ``forward`` saw it: after the user's pre-forward
    hooks and before the user's forward hooks. The fused paths that PyTorch's attention modules take in evaluation
    mode are switched off, since they go round the modules inside; so is activation checkpointing, which runs modules
    again on the way back.

    Args:
        model: The model that will be run.
        select: Which modules to record, by qualified name and module; default: those without children.
        on_call: Called at the end of every recorded call, while its tensors are certainly as they were.
        keep: Keep the calls (and so their activations) in the recording.
        copy: Keep copies of the activations, for models that overwrite them in place.
        cotangents: Prepare ``Recording.pull_back``. The model's parameters are frozen and its inputs detached inside
            the block, so that a backward pass computes gradients of activations alone; the first recorded calls
            become the graph's leaves.

    Yields:
        The recording, filled as the model runs.

    Example:
        >>> model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
        >>> heard = {}
        >>> with record(model, cotangents=True) as recording:
        ...     out = model(torch.ones(5, 3))
        ...     eye = torch.eye(2).unsqueeze(1).expand(2, 5, 2)
        ...     recording.pull_back(out, eye, lambda call, a: heard.update({call.name: tuple(a.shape)}))
        >>> heard
        {'2': (2, 5, 2), '1': (2, 5, 4), '0': (2, 5, 4)}
    """
    recording = Recording()
    chosen = select if select is not None else _is_leaf
    counter = _Counter()
    with ExitStack() as stack:
        stack.enter_context(_fused_attention_off())
        stack.enter_context(plain_operations())
        if cotangents:
            stack.enter_context(_frozen(model))
            handle = model.register_forward_pre_hook(_detach_inputs, with_kwargs=True)
            stack.callback(handle.remove)
        for name, module in model.named_modules():
            if chosen(name, module):
                hook = _hook(recording, name, counter, on_call=on_call, keep=keep, copy=copy, cotangents=cotangents)
                handle = module.register_forward_hook(hook, prepend=True, with_kwargs=True)
                stack.callback(handle.remove)
        yield recording


class _Counter:
    """Numbers the calls, over all modules and per module."""

    def __init__(self) -> None:
        self.total = 0
        self.per_module: dict[int, int] = {}

    def next(self, module: nn.Module) -> tuple[int, int]:
        index, order = self.per_module.get(id(module), 0), self.total
        self.per_module[id(module)] = index + 1
        self.total += 1
        return index, order


def _hook(
    recording: Recording,
    name: str,
    counter: _Counter,
    *,
    on_call: OnCall | None,
    keep: bool,
    copy: bool,
    cotangents: bool,
) -> Callable[[nn.Module, tuple[Any, ...], dict[str, Any], Any], Any]:
    def on_forward(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> Any:
        if recording._listener is not None:  # activation checkpointing runs modules again on the way back
            return None
        replaced = None
        if cotangents and torch.is_grad_enabled():
            replaced = _anchored(result, recording._anchors)
            result = replaced if replaced is not None else result
        output = _first_tensor(result)
        if output is None:
            return replaced
        index, order = counter.next(module)
        tensors = [a for a in (*args, *kwargs.values()) if isinstance(a, Tensor)]
        call = Call(
            name=name,
            module=module,
            index=index,
            order=order,
            _inputs=tuple(_kept(a, copy) for a in tensors),
            _output=_kept(output, copy),
        )
        if cotangents and output.requires_grad:
            output.register_hook(_deliverer(recording, call))  # type: ignore[no-untyped-call]
        if on_call is not None:
            on_call(call)
        if keep:
            recording.calls.append(call)
        return replaced

    return on_forward


def _anchored(result: Any, anchors: list[Tensor]) -> Any:
    """Make leaves of a result's tensors that no gradient reaches.

    Returns:
        The result with these tensors replaced, or None if there are none.
    """
    if isinstance(result, Tensor):
        if result.requires_grad or not (result.is_floating_point() or result.is_complex()):
            return None
        leaf = result.detach().requires_grad_()
        anchors.append(leaf)
        return leaf * 1  # not the leaf itself: a module behind may write in place
    if type(result) in {tuple, list}:
        parts = [_anchored(part, anchors) for part in result]
        if all(part is None for part in parts):
            return None
        return type(result)(old if new is None else new for old, new in zip(result, parts, strict=True))
    return None


def _deliverer(recording: Recording, call: Call) -> Callable[[Tensor], None]:
    def deliver(cotangent: Tensor) -> None:
        listener = recording._listener
        if listener is None:
            return

        def hand_over(batch: Tensor) -> None:
            if batch.shape[0] != recording._directions:  # a zero that autograd made up, the same in all directions
                batch = batch.expand(recording._directions, *batch.shape[1:])
            listener(call, batch)

        batch = unwrapped(cotangent)
        if batch is not None:
            hand_over(batch)
        else:
            Deliver.apply(cotangent, hand_over)  # type: ignore[no-untyped-call]

    return deliver


def _detach_inputs(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
    def cut(value: Any) -> Any:
        return value.detach() if isinstance(value, Tensor) else value

    return tuple(cut(a) for a in args), {k: cut(v) for k, v in kwargs.items()}


@contextmanager
def _frozen(model: nn.Module) -> Iterator[None]:
    flags = [(p, p.requires_grad) for p in model.parameters()]
    try:
        for parameter, _ in flags:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter, flag in flags:
            parameter.requires_grad_(flag)


@contextmanager
def _fused_attention_off() -> Iterator[None]:
    enabled = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(enabled)


def _is_leaf(_name: str, module: nn.Module) -> bool:
    return next(module.children(), None) is None


def _kept(tensor: Tensor, copy: bool) -> tuple[Tensor, int]:
    kept = tensor.detach().clone() if copy else tensor.detach()
    return kept, kept._version


def _first_tensor(result: Any) -> Tensor | None:
    if isinstance(result, Tensor):
        return result
    if isinstance(result, tuple | list):
        return next((r for r in result if isinstance(r, Tensor)), None)
    return None
