"""The part of a model between two modules, run once and held as a graph that maps tangents and cotangents."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from isometry._base import unknown_name
from isometry.measure._guards import check_per_sample, run_model
from isometry.measure._jacobian_chain import Chain, ChainRecorder
from isometry.tape import Inputs, measuring

__all__ = ["NotTwiceDifferentiableError", "Path", "opened", "remedy"]


def remedy(model: nn.Module, otherwise: str) -> str:
    """Say what to do about chance or samples that mix.

    Args:
        model: The model, in the modes in which it was measured.
        otherwise: What to do where it is in evaluation mode already.

    Returns:
        A sentence.
    """
    if any(module.training for module in model.modules()):
        return "Pass training=False to measure in evaluation mode, or call model.eval()."
    return f"It is in evaluation mode already: {otherwise}."


class NotTwiceDifferentiableError(NotImplementedError):
    """The path has an operation whose derivative cannot be differentiated, so tangents cannot be sent through it."""


@dataclass(eq=False)
class Path:
    """A linearized piece of a model: the tensor that enters it, the one that leaves it, and the graph between.

    Tangents and cotangents are laid out ``(inputs, directions, units)``: each input of the batch has its own Jacobian.

    Attributes:
        leaf: What enters, shape ``(N, *in_shape)``.
        output: What leaves, shape ``(N, *out_shape)``.
        chain: The same piece as a chain of matrices and slopes, if it is one.
        widest: The most elements that any module in the model returned for one input.
    """

    leaf: Tensor
    output: Tensor
    chain: Chain | None
    widest: int
    _adjoint: tuple[Tensor, Tensor] | None = field(default=None, repr=False)

    @property
    def in_shape(self) -> tuple[int, ...]:
        return tuple(self.leaf.shape[1:])

    @property
    def out_shape(self) -> tuple[int, ...]:
        return tuple(self.output.shape[1:])

    def pull(self, cotangents: Tensor) -> Tensor:
        """Multiply by the transposed Jacobians.

        Args:
            cotangents: Shape ``(N, V, out)``.

        Returns:
            Shape ``(N, V, in)``.
        """
        shaped = cotangents.transpose(0, 1).reshape(-1, *self.output.shape)
        return _laid_out(_grad(self.output, self.leaf, shaped))

    def push(self, tangents: Tensor) -> Tensor:
        """Multiply by the Jacobians: the derivative of J^T u with respect to u, which needs no forward-mode rules.

        Args:
            tangents: Shape ``(N, V, in)``.

        Returns:
            Shape ``(N, V, out)``.

        Raises:
            NotTwiceDifferentiableError: If an operation of the path has no second derivative.
        """
        shaped = tangents.transpose(0, 1).reshape(-1, *self.leaf.shape)
        try:
            if self._adjoint is None:
                seed = torch.zeros_like(self.output, requires_grad=True)
                (image,) = torch.autograd.grad(self.output, self.leaf, seed, create_graph=True)
                self._adjoint = seed, image
            seed, image = self._adjoint
            return _laid_out(_grad(image, seed, shaped))
        except (RuntimeError, NotImplementedError) as error:
            raise NotTwiceDifferentiableError(
                f"the path cannot send tangents forward, since an operation has no second derivative ({error}); "
                ".rmatvec(), .matrix() and .singular_values() need only the first."
            ) from error


def _grad(output: Tensor, leaf: Tensor, directions: Tensor) -> Tensor:
    """Send directions back through a graph, all at once where the graph's operations can do that.

    Returns:
        Shape ``(V, *leaf.shape)``.
    """
    if len(directions) > 1:
        with warnings.catch_warnings():
            # Operations without a batching rule are looped over by torch: slower, but right.
            warnings.filterwarnings("ignore", message="There is a performance drop", category=UserWarning)
            try:
                (done,) = torch.autograd.grad(output, leaf, directions, retain_graph=True, is_grads_batched=True)
                return done
            except (RuntimeError, NotImplementedError):
                pass  # an operation that cannot be batched at all; a true error shows again below
    parts = [torch.autograd.grad(output, leaf, direction, retain_graph=True)[0] for direction in directions]
    return torch.stack(parts)


def _laid_out(directions: Tensor) -> Tensor:
    return directions.detach().flatten(2).transpose(0, 1) if directions.ndim > 2 else directions.detach().t()[..., None]


def find_module(model: nn.Module, argument: str, name: str | None) -> nn.Module | None:
    """Look up a module by its qualified name.

    Returns:
        The module; None for None.

    Raises:
        TypeError: If the name is no string.
        ValueError: If there is no such module; the message lists near matches.
    """
    if name is None:
        return None
    if not isinstance(name, str):
        raise TypeError(f"{argument} must be a module's qualified name, got {type(name).__name__}; pass a string.")
    modules: dict[str, nn.Module] = dict(model.named_modules(remove_duplicate=False))
    if name not in modules or not name:
        error = unknown_name(f"module for {argument}:", name, [n for n in modules if n])
        raise error
    return modules[name]


class _Tap:
    """Catches the one call of a module, and may replace what it returns."""

    def __init__(
        self,
        argument: str,
        name: str | None,
        recorder: ChainRecorder,
        replace: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        self.argument, self.name, self.recorder, self.replace = argument, name, recorder, replace
        self.calls_before = 0
        self.outputs: list[Tensor] = []
        self.copies: list[Tensor] = []

    def __call__(self, _module: nn.Module, _args: Any, result: Any) -> Tensor | None:
        if not isinstance(result, Tensor) or not result.is_floating_point():
            raise _RefusedError(
                f"{self.argument} {self.name!r} returns {type(result).__name__}, not one real-valued tensor; "
                "name a module that does."
            )
        self.calls_before = len(self.recorder.seen)
        self.outputs.append(result)
        if self.replace is not None:
            return self.replace(result)
        self.copies.append(result.clone())  # what leaves the module, even if the next one works in place
        return None

    def only(self) -> Tensor:
        times = len(self.outputs)
        if times != 1:
            said = "was not called" if times == 0 else f"was called {times} times"
            raise ValueError(
                f"{self.argument} {self.name!r} {said} in the forward pass; name a module that is called once."
            )
        return self.copies[0] if self.copies else self.outputs[0]


class _RefusedError(TypeError):
    """A tapped module returned something that cannot be measured."""


@contextmanager
def opened(
    model: nn.Module,
    x: Inputs,
    start: str | None,
    stop: str | None,
    *,
    part: Callable[[Tensor], Tensor] | None = None,
    training: bool | None,
    wary: bool = False,
) -> Iterator[Path]:
    """Run the model once and hold the graph between two modules' outputs inside the block.

    Args:
        model: The model.
        x: Inputs, the batch first.
        start: The module whose output enters the path; None for the model's input.
        stop: The module whose output leaves it; None for the model's output.
        part: What of that output leaves it; None for all of it.
        training: As for ``tape.untouched``.
        wary: Refuse modules through which samples mix, and a model that gives another result when it is run again.

    Yields:
        The path.
    """
    first, last = find_module(model, "start", start), find_module(model, "stop", stop)
    with ExitStack() as stack:
        stack.enter_context(measuring(model, training=training))
        if wary:
            otherwise = "replace these modules, batch norm without running statistics by one with them, say"
            check_per_sample(model, "the Jacobian of one input is", remedy(model, otherwise))
        model.requires_grad_(False)
        entry: list[tuple[Tensor, Tensor]] = []  # the leaf, and the tensor that is handed on
        recorder = ChainRecorder(len(x))

        def enter(tensor: Tensor) -> Tensor:
            leaf = tensor.detach().clone().requires_grad_()
            entry.append((leaf, leaf * 1))  # not the leaf itself: the next module may work in place
            return entry[-1][1]

        tap_in = _Tap("start", start, recorder, enter)
        tap_out = _Tap("stop", stop, recorder)
        with ExitStack() as hooks:
            for hook in recorder.attach(model):
                hooks.callback(hook.remove)
            # Behind the recorder's hooks: a module that is tapped is recorded first, as itself.
            if last is not None:
                hooks.callback(last.register_forward_hook(tap_out).remove)
            if first is not None:
                hooks.callback(first.register_forward_hook(tap_in).remove)
            given = x.clone()  # the model may overwrite it
            if first is None and x.leaf is not None:
                given = given.with_leaf(enter(x.leaf))
            final = _called(model, given)
        if first is not None:
            tap_in.only()
        output = tap_out.only() if last is not None else final
        seen = tap_out.outputs[0] if last is not None else final
        calls = slice(tap_in.calls_before, tap_out.calls_before if last is not None else len(recorder.seen))
        leaf, handed = entry[0]
        _insist_on_batch(len(x), start, leaf, stop, output)
        if part is not None:
            output = _taken(part, output, len(x))
        chain = recorder.chain(handed, seen, calls) if part is None else None
        if chain is None:
            _insist_on_dependence(leaf, output, start, stop)
        if wary and (chain is None or first is not None):
            _insist_on_repetition(model, x, final)  # a chain from the input on has no place for chance
        widest = max(recorder.widest, leaf[0].numel(), output[0].numel())
        del recorder  # and with it the activations that it kept
        yield Path(leaf, output, chain, widest)


def _called(model: nn.Module, given: Inputs) -> Tensor:
    try:
        return run_model(model, given)
    except ValueError as error:
        if isinstance(error.__cause__, _RefusedError):
            raise TypeError(str(error.__cause__)) from None
        raise


def _insist_on_batch(count: int, start: str | None, leaf: Tensor, stop: str | None, output: Tensor) -> None:
    for argument, name, tensor in (("start", start, leaf), ("stop", stop, output)):
        if tensor.ndim < 1 or tensor.shape[0] != count:
            raise ValueError(
                f"{argument} {name!r} returns shape {tuple(tensor.shape)} for {count} inputs; its first dimension must "
                "be the batch."
            )


def _taken(part: Callable[[Tensor], Tensor], output: Tensor, count: int) -> Tensor:
    """Take a part of what leaves the path.

    Returns:
        The part.

    Raises:
        TypeError: If it is no real-valued tensor.
        ValueError: If its first dimension is not the batch.
    """
    taken = part(output)
    if not isinstance(taken, Tensor) or not taken.is_floating_point():
        got = f"one of {taken.dtype}" if isinstance(taken, Tensor) else type(taken).__name__
        raise TypeError(f"part must return a real-valued tensor, got {got}; select from its argument.")
    if taken.ndim < 1 or taken.shape[0] != count or taken.numel() == 0:
        raise ValueError(
            f"part returned shape {tuple(taken.shape)} for {count} inputs; keep the first dimension, which is the "
            "batch, and at least one element of each input."
        )
    return taken


def _insist_on_dependence(leaf: Tensor, output: Tensor, start: str | None, stop: str | None) -> None:
    """Send one random cotangent per input back, and see that it arrives.

    Raises:
        ValueError: If the output does not depend on the leaf.
    """
    generator = torch.Generator().manual_seed(0)
    cotangent = torch.randn(output.shape, generator=generator).to(output.device, output.dtype)
    image = None
    if output.requires_grad:
        (image,) = torch.autograd.grad(output, leaf, cotangent, retain_graph=True, allow_unused=True)
    if image is None:
        there = "the model's output" if stop is None else f"the output of stop {stop!r}"
        here = "the model's input" if start is None else f"the output of start {start!r}"
        raise ValueError(
            f"{there} does not depend on {here} through differentiable operations; check the names' order "
            "(start comes first in the forward pass) and look for .detach() or no_grad between them."
        )


def _insist_on_repetition(model: nn.Module, x: Inputs, final: Tensor) -> None:
    with torch.no_grad():
        again = run_model(model, x.clone())
    scale = final.detach().abs().max()
    if bool(((again - final.detach()).abs().max() > 1e-2 * scale).item()):
        advice = remedy(model, "switch the randomness off in its forward pass, or fix the noise")
        raise ValueError(f"model is random: two passes over the same inputs differ, so it has no Jacobian. {advice}")
