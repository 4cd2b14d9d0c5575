"""The graph of one chunk of samples, differentiated once and kept so that products differentiate it again.

Paper: B. A. Pearlmutter. "Fast exact multiplication by the Hessian." Neural Computation 6(1), 1994.

Departures: a product is the pull-back of the recorded gradient (reverse over reverse) instead of its forward
derivative: the gradient's graph, recorded once, then serves all products, and needs no forward-mode rules.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

__all__ = ["ChunkGraph", "LossHessian"]

# Vectors go through a small graph together, where the time is that of starting kernels; through a large one (measured:
# above a megabyte) one after the other, which is faster there and takes a fraction of the memory.
_TOGETHER_BYTES = 1024**2
_NO_SECOND = ("not implemented", "not differentiable", "once_differentiable", "twice", "double backward")
_BREAK = "torch::autograd::Error"  # the node where torch ends a graph that cannot be differentiated again


class _Batching:
    """Whether many vectors go through a graph at once, and whether that has been seen to give the right products."""

    def __init__(self, wanted: bool) -> None:
        self.wanted, self.proven = wanted, False


class ChunkGraph:
    """A chunk's outputs as a function of the parameters, and what is derived from them.

    Args:
        out: The outputs with their graph.
        parameters: What to differentiate in.
        graph_bytes: Foreseen bytes of the graph, which decide how vectors are sent through it.
    """

    def __init__(self, out: Tensor, parameters: Sequence[Tensor], graph_bytes: int) -> None:
        self.out, self._parameters = out, list(parameters)
        together = graph_bytes <= _TOGETHER_BYTES
        self._pulling, self._pushing, self._curving = (_Batching(together) for _ in range(3))
        self._gradient: list[Tensor | None] | None = None
        self._adjoint: tuple[Tensor, list[Tensor | None]] | None = None

    def pull(self, cotangents: Tensor) -> Tensor:
        """Multiply by the transposed Jacobian.

        Args:
            cotangents: Shape ``(k, *out.shape)``.

        Returns:
            Shape ``(k, size)``.
        """
        return _pull_back([self.out], self._parameters, [cotangents], self._pulling)

    def push(self, rows: Sequence[Tensor]) -> Tensor:
        """Multiply by the Jacobian: the derivative of J^T u in u, which is linear, needs no forward-mode rules.

        Args:
            rows: Per parameter, shape ``(k, *its shape)``.

        Returns:
            Shape ``(k, *out.shape)``.
        """
        if self._adjoint is None:
            seed = torch.zeros_like(self.out, requires_grad=True)
            self._adjoint = seed, _first(self.out, self._parameters, seed)
        seed, image = self._adjoint
        return _again(image, [seed], rows, self._pushing).reshape(-1, *self.out.shape).to(self.out.dtype)

    def hessian(self, scalar: Callable[[Tensor], Tensor], rows: Sequence[Tensor]) -> Tensor:
        """Multiply by the Hessian of a scalar function of the outputs, which must be the same at every call.

        Args:
            scalar: The function.
            rows: Per parameter, shape ``(k, *its shape)``.

        Returns:
            Shape ``(k, size)``.
        """
        if self._gradient is None:
            self._gradient = _first(scalar(self.out), self._parameters, None)
        return _again(self._gradient, self._parameters, rows, self._curving)


class LossHessian:
    """The exact Hessian of a loss in the outputs, at fixed outputs.

    Args:
        scalar: The loss as a function of the outputs.
        out: Where.
    """

    def __init__(self, scalar: Callable[[Tensor], Tensor], out: Tensor) -> None:
        self._leaf = out.detach().clone().requires_grad_()
        self._gradient = _first(scalar(self._leaf), [self._leaf], None)
        self._batching = _Batching(self._leaf.nbytes <= _TOGETHER_BYTES)

    @property
    def gradient(self) -> Tensor:
        """The loss's derivative in the outputs; zero where it does not depend on them."""
        gradient = self._gradient[0]
        return torch.zeros_like(self._leaf) if gradient is None else gradient.detach()

    def times(self, tangents: Tensor) -> Tensor:
        """Multiply.

        Args:
            tangents: Shape ``(k, *out.shape)``.

        Returns:
            The same shape.
        """
        flat = _again(self._gradient, [self._leaf], [tangents], self._batching)
        return flat.reshape(tangents.shape).to(tangents.dtype)


def _pull_back(
    outputs: Sequence[Tensor], inputs: Sequence[Tensor], rows: Sequence[Tensor], batching: _Batching
) -> Tensor:
    """Send k cotangents back through a kept graph.

    Args:
        outputs: What is differentiated.
        inputs: In what.
        rows: Per output, shape ``(k, *its shape)``.
        batching: Whether all of them may go at once.

    Returns:
        The inputs' parts, flattened, side by side, in at least float32: shape ``(k, numbers in the inputs)``; zeros
        where nothing arrives.
    """
    found = _empty(len(rows[0]), inputs)
    if len(found) > 1 and batching.wanted:
        batched = _batched(outputs, inputs, rows)
        # Batched rules of second derivatives are rarely used: the first batch is compared with a pass of its own.
        if batched is not None and not batching.proven:
            alone = _one(outputs, inputs, [r[-1] for r in rows])
            batching.proven = all(_agree(b[-1], a) for b, a in zip(batched, alone, strict=True))
        if batched is not None and batching.proven:
            return torch.cat([b.reshape(len(found), -1) for b in batched], 1, out=found)
        batching.wanted = False
    for index, row in enumerate(found):
        torch.cat([one.reshape(-1) for one in _one(outputs, inputs, [r[index] for r in rows])], out=row)
    return found


def _empty(count: int, inputs: Sequence[Tensor]) -> Tensor:
    dtype = torch.float64 if any(i.dtype == torch.float64 for i in inputs) else torch.float32
    return torch.empty(count, sum(i.numel() for i in inputs), dtype=dtype, device=inputs[0].device)


def _first(value: Tensor, inputs: Sequence[Tensor], cotangent: Tensor | None) -> list[Tensor | None]:
    if not value.requires_grad:  # a constant
        return [None] * len(inputs)
    grads = torch.autograd.grad(value, list(inputs), cotangent, create_graph=True, allow_unused=True)
    _insist_on_second(grads)
    return list(grads)


def _insist_on_second(grads: Sequence[Tensor | None]) -> None:
    """See that no operation has ended the graph of the gradient.

    torch would not tell: what lies behind such an end is no way to the inputs, so it is left out and counts as zero.

    Raises:
        ValueError: If one has.
    """
    waiting = [g.grad_fn for g in grads if g is not None and g.grad_fn is not None]
    seen = set(waiting)
    while waiting:
        node = waiting.pop()
        if node.name() == _BREAK:
            raise ValueError(_without_second("marked as differentiable only once"))
        for behind, _ in node.next_functions:
            if behind is not None and behind not in seen:
                seen.add(behind)
                waiting.append(behind)


def _without_second(detail: str) -> str:
    return (
        f"the model or the loss has an operation without a second derivative ({detail}); use its plain form, or "
        "measure.fisher, which needs only the first."
    )


def _again(
    gradient: Sequence[Tensor | None], inputs: Sequence[Tensor], rows: Sequence[Tensor], batching: _Batching
) -> Tensor:
    # What has no graph of its own is constant, with a derivative of zero.
    pairs = [(g, r) for g, r in zip(gradient, rows, strict=True) if g is not None and g.requires_grad]
    if not pairs:
        return _empty(len(rows[0]), inputs).zero_()
    return _pull_back([g for g, _ in pairs], inputs, [r.to(g.dtype) for g, r in pairs], batching)


def _one(outputs: Sequence[Tensor], inputs: Sequence[Tensor], cotangents: Sequence[Tensor]) -> tuple[Tensor, ...]:
    try:
        return torch.autograd.grad(
            list(outputs), list(inputs), list(cotangents), retain_graph=True, allow_unused=True, materialize_grads=True
        )
    except (RuntimeError, NotImplementedError) as error:
        if any(word in str(error) for word in _NO_SECOND):
            raise ValueError(_without_second(str(error).splitlines()[0])) from error
        raise


def _batched(outputs: Sequence[Tensor], inputs: Sequence[Tensor], rows: Sequence[Tensor]) -> list[Tensor] | None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="There is a performance drop", category=UserWarning)
        try:
            grads = torch.autograd.grad(
                list(outputs),
                list(inputs),
                list(rows),
                retain_graph=True,
                allow_unused=True,
                is_grads_batched=True,
            )
        except (RuntimeError, NotImplementedError):
            return None  # an operation that takes no batch; a true error shows in the single passes
    count = len(rows[0])
    return [
        torch.zeros(count, *i.shape, dtype=i.dtype, device=i.device) if g is None else g
        for g, i in zip(grads, inputs, strict=True)
    ]


def _agree(a: Tensor, b: Tensor) -> bool:
    if a.shape != b.shape:
        return False
    allowed = torch.finfo(a.dtype).eps ** 0.5 * float(b.abs().max())
    return bool(((a - b).abs() <= allowed).all())
