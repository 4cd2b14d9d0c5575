"""The Jacobians of a model at a batch of inputs, as an object whose methods compute what is asked for."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from isometry import linalg
from isometry._base import Cost, allowed_bytes, check_budget, check_tensor, progress, stopwatch
from isometry.measure._guards import outside_inference
from isometry.measure._jacobian_chain import Chain
from isometry.measure._jacobian_dense import chain_blocks, dense_blocks, sweep_bytes
from isometry.measure._jacobian_path import Path, opened
from isometry.measure._jacobian_result import JacobianExtremes, JacobianSpectrum
from isometry.tape import Inputs

__all__ = ["Jacobian", "parameter_versions"]

_Product = Callable[[Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Jacobian:
    """The Jacobians of a model at a batch of inputs; nothing is computed before a method asks for it.

    Each method runs the model at most once and leaves no trace on it. If the model's parameters have changed since the
    Jacobian was asked for, the methods refuse; a spectrum that is already computed stays.

    Attributes:
        start: The module at whose output the path starts; None for the model's input.
        stop: The module at whose output it ends; None for the model's output.
        inputs: Number of inputs, N.
        in_shape: Shape of what enters the path, for one input.
        out_shape: Shape of what leaves it.
        is_chain: Whether the path is a chain of linear layers and elementwise functions, which takes the fast route.
        dtype: The dtype of the products.
        budget: Bytes that dense results may take; None for the package's default.
    """

    start: str | None
    stop: str | None
    inputs: int
    in_shape: tuple[int, ...]
    out_shape: tuple[int, ...]
    is_chain: bool
    dtype: torch.dtype
    budget: int | None
    _model: nn.Module = field(repr=False)
    _x: Inputs = field(repr=False)
    _part: Callable[[Tensor], Tensor] | None = field(repr=False)
    _training: bool | None = field(repr=False)
    _widest: int = field(repr=False)
    _versions: tuple[tuple[int, int], ...] = field(repr=False)
    _chain: Chain | None = field(repr=False)
    _kept: dict[str, JacobianSpectrum] = field(default_factory=dict, repr=False)

    @property
    def shape(self) -> tuple[int, int]:
        """(out, in) of one Jacobian, all dimensions but the batch flattened."""
        return math.prod(self.out_shape), math.prod(self.in_shape)

    @outside_inference
    def matrix(self) -> Tensor:
        """Form the Jacobians.

        Returns:
            Shape ``(N, out, in)``.

        Raises:
            MemoryBudgetError: If they do not fit the budget.
        """
        out, inp = self.shape
        check_budget(
            2 * self.inputs * out * inp * self.dtype.itemsize + self._sweep(self.inputs),
            self.budget,
            what=f"The {self.inputs} dense Jacobians of {out} x {inp}",
            instead="Use .extremes(), .matvec() and .rmatvec(), which form no matrix, pass fewer inputs,",
        )
        with self._blocks(slice(0, self.inputs)) as blocks:
            return torch.cat([_unscaled(block, exponent) for _, block, exponent in blocks])

    @outside_inference
    def singular_values(self) -> Tensor:
        """Compute all singular values at every input, exactly.

        Returns:
            Shape ``(N, min(out, in))``, descending, float64: the ``values`` of ``spectrum()``.
        """
        return self.spectrum().values

    @outside_inference
    def spectrum(self) -> JacobianSpectrum:
        """Compute all singular values at every input, with what is to know about them.

        The Jacobians are formed for as many inputs at a time as the budget allows, from the narrower side (in or
        out), and decomposed in float64.

        Returns:
            The values and their check; kept for the next call.

        Raises:
            ValueError: If a Jacobian is not finite.
            MemoryBudgetError: If not even one Jacobian fits the budget.
        """
        if "spectrum" not in self._kept:
            self._kept["spectrum"] = self._spectrum()
        return self._kept["spectrum"]

    @outside_inference
    def extremes(
        self,
        *,
        which: Literal["largest", "smallest", "both"] = "both",
        count: int = 1,
        tolerance: float | None = None,
        max_steps: int | None = None,
        generator: torch.Generator | None = None,
    ) -> JacobianExtremes:
        """Compute extreme singular values at every input without forming a Jacobian.

        Largest values converge in a few steps; smallest ones may take as many as the narrower side has units.

        Args:
            which: ``"largest"``, ``"smallest"`` or ``"both"``.
            count: How many at each wanted end.
            tolerance: Residual that is small enough, relative to the largest singular value; default: square root of
                the products' epsilon.
            max_steps: Most steps per input, of two products each.
            generator: Source of the starting vectors.

        Returns:
            The values with residuals; ``converged`` is False where the steps ran out.
        """
        found = []
        dtype = self.dtype if self.dtype == torch.float64 else torch.float32
        with stopwatch() as watch:
            for index in range(self.inputs):
                with self._products(slice(index, index + 1)) as (push, pull):
                    found.append(
                        linalg.golub_kahan(
                            _of_one(push, dtype),
                            _of_one(pull, dtype),
                            self.shape,
                            count=count,
                            which=which,
                            tolerance=tolerance,
                            max_steps=max_steps,
                            dtype=dtype,
                            device=self._x.device,
                            generator=generator,
                        )
                    )
                progress("Jacobian's extremes", index + 1, self.inputs)
        return JacobianExtremes(
            values=torch.stack([f.values for f in found]),
            residuals=torch.stack([f.residuals for f in found]),
            which=which,
            shape=self.shape,
            start=self.start,
            stop=self.stop,
            converged=all(f.converged for f in found),
            dtype=self.dtype,
            cost=Cost(forward_passes=1, matvecs=sum(f.cost.matvecs for f in found), seconds=watch.seconds),
        )

    @outside_inference
    def matvec(self, v: Tensor) -> Tensor:
        """Multiply the Jacobian at each input by its own vector.

        Args:
            v: Shape ``(N, *in_shape)``, or ``(N, in)`` flattened.

        Returns:
            Shape ``(N, *out_shape)``.
        """
        rows = self._vectors("v", v, self.in_shape)
        with self._products(slice(0, self.inputs)) as (push, _):
            return push(rows).reshape(self.inputs, *self.out_shape)

    @outside_inference
    def rmatvec(self, u: Tensor) -> Tensor:
        """Multiply the transposed Jacobian at each input by its own vector.

        Args:
            u: Shape ``(N, *out_shape)``, or ``(N, out)`` flattened.

        Returns:
            Shape ``(N, *in_shape)``.
        """
        rows = self._vectors("u", u, self.out_shape)
        with self._products(slice(0, self.inputs)) as (_, pull):
            return pull(rows).reshape(self.inputs, *self.in_shape)

    def __str__(self) -> str:
        if "spectrum" in self._kept:
            return str(self._kept["spectrum"])
        here = "the input" if self.start is None else self.start
        there = "the output" if self.stop is None else self.stop
        out, inp = self.shape
        return f"Jacobian from {here} to {there}, {out} x {inp}, at {self.inputs} inputs (not computed yet)"

    def _spectrum(self) -> JacobianSpectrum:
        out, inp = self.shape
        # A Jacobian with its product's buffer, and in float64 with the scaled and LAPACK's own copy.
        one = check_budget(
            out * inp * (2 * self.dtype.itemsize + 3 * 8) + self._sweep(1),
            self.budget,
            what=f"The singular values of one {out} x {inp} Jacobian",
            instead="Use .extremes(), which forms no matrix,",
        )
        at_once = min(self.inputs, int(allowed_bytes(self.budget) // one))
        parts: list[linalg.SingularValues] = []
        route, done = "", 0
        with stopwatch() as watch:
            for begin in range(0, self.inputs, at_once):
                with self._blocks(slice(begin, min(begin + at_once, self.inputs))) as blocks:
                    for route, block, exponent in blocks:  # noqa: B007 - the last one is reported
                        _insist_on_finite(block, done)
                        parts.append(linalg.svdvals(_unscaled(block.double(), exponent)))
                        done += len(block)
                        progress("Jacobian", done, self.inputs)
        values = torch.cat([part.values for part in parts])
        return JacobianSpectrum(
            values=values,
            shape=self.shape,
            start=self.start,
            stop=self.stop,
            route=route,
            resolution=values[:, 0] * torch.finfo(self.dtype).eps * math.sqrt(max(out, inp)),
            residual=max(part.residual for part in parts),
            converged=all(part.converged for part in parts),
            dtype=self.dtype,
            cost=Cost(
                forward_passes=1,
                backward_passes=inp if route.endswith("forward") else out,
                bytes=one * at_once,
                seconds=watch.seconds,
            ),
        )

    @contextmanager
    def _blocks(self, inputs: slice) -> Iterator[Iterator[tuple[str, Tensor, int]]]:
        if self._chain is not None:
            self._insist_on_unchanged()
            yield chain_blocks(self._chain.part(inputs), inputs.stop - inputs.start)
        else:
            with self._open(inputs) as path:
                yield dense_blocks(path, self.dtype)

    @contextmanager
    def _products(self, inputs: slice) -> Iterator[tuple[_Product, _Product]]:
        if self._chain is not None:
            self._insist_on_unchanged()
            yield _in(self._chain.part(inputs), self.dtype)
        else:
            with self._open(inputs) as path:
                if path.chain is not None:
                    yield _in(path.chain.to(self.dtype), self.dtype)
                else:
                    yield _in(path, path.leaf.dtype)

    @contextmanager
    def _open(self, inputs: slice) -> Iterator[Path]:
        self._insist_on_unchanged()
        with opened(
            self._model, self._x[inputs], self.start, self.stop, part=self._part, training=self._training
        ) as path:
            yield path

    def _insist_on_unchanged(self) -> None:
        if parameter_versions(self._model) != self._versions:
            raise RuntimeError(
                "the model's parameters have changed since this Jacobian was asked for; call measure.jacobian again."
            )

    def _vectors(self, argument: str, given: Tensor, shape: tuple[int, ...]) -> Tensor:
        tensor = check_tensor(argument, given)
        if tensor.shape not in ((self.inputs, *shape), (self.inputs, math.prod(shape))):
            raise ValueError(
                f"{argument} must have shape {(self.inputs, *shape)}, one vector per input, got {tuple(tensor.shape)}."
            )
        return tensor.detach().to(self._x.device).reshape(self.inputs, 1, -1)

    def _sweep(self, inputs: int) -> int:
        return sweep_bytes(self.shape, self._widest, inputs, self.dtype.itemsize)


def _of_one(product: _Product, dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
    return lambda vector: product(vector[None, None])[0, 0].to(dtype)


def _in(operator: Chain | Path, dtype: torch.dtype) -> tuple[_Product, _Product]:
    return lambda rows: operator.push(rows.to(dtype)), lambda rows: operator.pull(rows.to(dtype))


def _unscaled(block: Tensor, exponent: int) -> Tensor:
    """Multiply by a power of two, which may be out of the dtype's range by itself.

    Returns:
        The product.
    """
    return torch.ldexp(block, torch.tensor(exponent, device=block.device)) if exponent else block


def _insist_on_finite(block: Tensor, before: int) -> None:
    bad = (~block.isfinite()).flatten(1).any(1).nonzero().flatten()
    if len(bad):
        raise ValueError(
            f"the Jacobian at input {before + int(bad[0])} is not finite; measure.signal says in which layer values or "
            "gradients overflow."
        )


def parameter_versions(model: nn.Module) -> tuple[tuple[int, int], ...]:
    """Note which parameters a model has, and how often each has been written.

    Returns:
        Equal for equal states of knowledge: any write in place changes it.
    """
    return tuple((id(p), -1 if p.is_inference() else p._version) for p in model.parameters())
